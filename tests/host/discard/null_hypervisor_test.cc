#include "guestmm/host/discard/null_hypervisor.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <span>

#include "guestmm/ram/guest_ram.h"

namespace guestmm::null_hypervisor_test {
namespace {

constexpr GpaRange kAll = {Gpa(0), 4 * kMiB};

TEST(NullHypervisorTest, KeepsTheMemory) {
  const auto ram =
      GuestRam::Create({.regions = {kAll}, .huge_pages = HugePages::kForbid})
          .value();
  const Translation memory = ram->Translate(kAll).value();
  const std::span<std::byte> bytes = memory.bytes();
  std::fill(bytes.begin(), bytes.end(), std::byte{1});
  NullHypervisor hypervisor;
  EXPECT_EQ(hypervisor.Discard({{kAll}}), absl::OkStatus());
  EXPECT_EQ(ram->ResidentBytes().value(), kAll.bytes);
  EXPECT_EQ(bytes.front(), std::byte{1});
}

TEST(NullHypervisorTest, CountsNothing) {
  NullHypervisor hypervisor;
  EXPECT_EQ(hypervisor.Discard({{kAll}}), absl::OkStatus());
  EXPECT_EQ(hypervisor.counters().calls, 0u);
  EXPECT_EQ(hypervisor.counters().bytes, 0u);
  EXPECT_EQ(hypervisor.counters().failures, 0u);
}

}  // namespace
}  // namespace guestmm::null_hypervisor_test
