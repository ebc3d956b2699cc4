// Discards while signals arrive.

#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "guestmm/host/discard/discarding_hypervisor.h"
#include "tests/testing/interrupted_calls.h"
#include "tests/testing/signals.h"

namespace guestmm::discard_interrupted_test {
namespace {

struct Way {
  MemorySource source;
  DiscardMethod method;
  const char* call;
};

std::string WayName(const testing::TestParamInfo<Way>& way) {
  std::string name(Name(way.param.method));
  std::replace(name.begin(), name.end(), ' ', '_');
  return name;
}

// 1 MiB of guest RAM, discarded with one system call per range.
class DiscardInterruptedTest : public testing::TestWithParam<Way> {
 protected:
  static constexpr GpaRange kRange = {Gpa(0), kMiB};

  void Fill() {
    std::fill(memory_.bytes().begin(), memory_.bytes().end(), std::byte{7});
  }
  bool IsZero() const {
    return std::all_of(memory_.bytes().begin(), memory_.bytes().end(),
                       [](std::byte byte) { return byte == std::byte{0}; });
  }
  // Freed memory keeps its contents until the host needs it.
  bool ReadsZero() const { return GetParam().method != DiscardMethod::kFree; }

  const std::unique_ptr<GuestRam> ram_ =
      GuestRam::Create({.regions = {kRange}, .source = GetParam().source})
          .value();
  const std::unique_ptr<DiscardingHypervisor> hypervisor_ =
      DiscardingHypervisor::Create(
          *ram_,
          {.method = GetParam().method, .ranges_per_call = RangesPerCall::kOne})
          .value();
  const Translation memory_ = ram_->Translate(kRange).value();
};

INSTANTIATE_TEST_SUITE_P(
    All, DiscardInterruptedTest,
    testing::Values(
        Way{MemorySource::kAnonymous, DiscardMethod::kDontNeed, "madvise"},
        Way{MemorySource::kAnonymous, DiscardMethod::kFree, "madvise"},
        Way{MemorySource::kSharedMemfd, DiscardMethod::kRemove, "madvise"},
        Way{MemorySource::kSharedMemfd, DiscardMethod::kPunchHole,
            "fallocate"}),
    WayName);

TEST_P(DiscardInterruptedTest, IsMadeAgain) {
  Fill();
  InterruptedCalls calls;
  EXPECT_EQ(hypervisor_->Discard({&kRange, 1}), absl::OkStatus());
  EXPECT_EQ(calls.failures(GetParam().call), 2);
  EXPECT_EQ(IsZero(), ReadsZero());
  // One discard, which did not fail.
  EXPECT_EQ(hypervisor_->counters().calls, 1u);
  EXPECT_EQ(hypervisor_->counters().bytes, kRange.bytes);
  EXPECT_EQ(hypervisor_->counters().failures, 0u);
}

TEST_P(DiscardInterruptedTest, SignalsDoNoHarm) {
  const SignalStorm storm;
  for (int i = 0; i < 50 || storm.arrived() < 50; ++i) {
    Fill();
    ASSERT_EQ(hypervisor_->Discard({&kRange, 1}), absl::OkStatus());
    ASSERT_EQ(IsZero(), ReadsZero());
  }
}

}  // namespace
}  // namespace guestmm::discard_interrupted_test
