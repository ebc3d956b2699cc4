#ifndef GUESTMM_TESTS_TESTING_SMAPS_H_
#define GUESTMM_TESTS_TESTING_SMAPS_H_

#include <cstddef>
#include <cstdint>
#include <fstream>
#include <span>
#include <sstream>
#include <string>
#include <vector>

#include "guestmm/base/units.h"

namespace guestmm {

// One mapping of this process, from /proc/self/smaps.
struct Smap {
  uint64_t resident = 0;   // bytes, without the shared zero page
  uint64_t lazy_free = 0;  // bytes freed by MADV_FREE and still resident
  std::string flags;       // VmFlags, two letters each
};

// The mappings that overlap `bytes`, ascending.
inline std::vector<Smap> SmapsOf(std::span<const std::byte> bytes) {
  const auto from = reinterpret_cast<uintptr_t>(bytes.data());
  std::vector<Smap> found;
  std::ifstream smaps("/proc/self/smaps");
  const auto bytes_after = [](const std::string& text, size_t at) {
    uint64_t kib = 0;
    std::istringstream(text.substr(at)) >> kib;
    return kib * kKiB;
  };
  bool inside = false;
  for (std::string line; std::getline(smaps, line);) {
    std::istringstream words(line);
    uintptr_t start = 0;
    uintptr_t end = 0;
    char dash = 0;
    if (words >> std::hex >> start >> dash >> end && dash == '-') {
      inside = start < from + bytes.size() && from < end;
      if (inside) found.emplace_back();
    } else if (inside && line.starts_with("Rss:")) {
      found.back().resident = bytes_after(line, 4);
    } else if (inside && line.starts_with("LazyFree:")) {
      found.back().lazy_free = bytes_after(line, 9);
    } else if (inside && line.starts_with("VmFlags:")) {
      found.back().flags = line.substr(8);
    }
  }
  return found;
}

}  // namespace guestmm

#endif  // GUESTMM_TESTS_TESTING_SMAPS_H_
