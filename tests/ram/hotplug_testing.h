#ifndef GUESTMM_TESTS_RAM_HOTPLUG_TESTING_H_
#define GUESTMM_TESTS_RAM_HOTPLUG_TESTING_H_

// Helpers for the tests that add and remove regions of guest RAM.

#include <cstddef>
#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "guestmm/base/units.h"
#include "guestmm/ram/guest_ram.h"

namespace guestmm::hotplug_testing {

inline std::unique_ptr<GuestRam> MakeRam(std::vector<GpaRange> regions) {
  return GuestRam::Create(
             {.regions = std::move(regions), .huge_pages = HugePages::kForbid})
      .value();
}

inline std::string Message(const absl::Status& status) {
  return std::string(status.message());
}

// The byte at `gpa`; -1 if there is none.
inline int ByteAt(const GuestRam& ram, Gpa gpa) {
  const auto byte = ram.Translate({gpa, 1});
  return byte ? std::to_integer<int>(byte->bytes().front()) : -1;
}

inline void Fill(const GuestRam& ram, GpaRange range, int value) {
  const Translation memory = ram.Translate(range).value();
  std::memset(memory.bytes().data(), value, range.bytes);
}

}  // namespace guestmm::hotplug_testing

#endif  // GUESTMM_TESTS_RAM_HOTPLUG_TESTING_H_
