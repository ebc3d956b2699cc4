// Replays of memory that per-CPU lists keep from the host for a while.

#include <gtest/gtest.h>

#include <chrono>
#include <cstdint>

#include "guestmm/experiment/replay/replay.h"
#include "tests/experiment/replay/replay_testing.h"

namespace guestmm::replay_lists_test {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

// All memory is free and with the host. At 10 s a block of 4 MiB is allocated
// page by page, and at 11 s freed, to a vCPU's list with a high mark of 4000
// pages. By the formula its mark is at least 200 pages.
class ReplayListsTest : public HandmadeReplayTest {
 protected:
  ReplayListsTest() {
    RecordedZone zone;
    zone.name = "DMA32";
    zone.span = {Pfn(kFirst), Pfn(kFirst + kPages)};
    zone.present = PageCount(kPages);
    zone.managed = PageCount(kPages);
    zone.low = PageCount(200);
    zone.per_cpu = {{.count = 0, .high = 4000, .batch = 31}};
    recording_.zones = {zone};
    for (uint64_t pfn = kFirst; pfn < kFirst + kPages; pfn += kBlock) {
      recording_.first->reported.emplace_back(pfn);
    }
    for (uint64_t i = 0; i < kBlock; ++i) Alloc(10.0, kFirst + i, 0);
    for (uint64_t i = 0; i < kBlock; ++i) Free(11.0, kFirst + i, 0);
  }

  static constexpr uint64_t kBlock = 1024;
  const ReplayOptions options_ = {.tail = seconds(60)};
};

TEST_F(ReplayListsTest, Linux61KeepsThem) {
  const ReplayResult result = Run(options_);
  EXPECT_EQ(result.kernel, KernelVersion::kV6_1);
  EXPECT_EQ(result.reported_bytes, 0u);
}

// Six refills, of 31 pages and then each time twice as many, raise the mark to
// 4000 + 1953. It falls by an eighth at each whole second from 11 s on. The
// 19th time, at 29 s, it falls below 512, so that of the pages listed the
// oldest 512 are drained: what was refilled and not used is older. The pass
// follows two seconds later.
TEST_F(ReplayListsTest, Linux612GivesThemBackWithTime) {
  recording_.kernel = "6.12.95+deb12-amd64";
  const ReplayResult result = Run(options_);
  EXPECT_EQ(result.kernel, KernelVersion::kV6_12);
  EXPECT_EQ(result.reported_bytes, 2 * kMiB);
  ASSERT_EQ(result.reports.size(), 1u);
  EXPECT_EQ(result.reports[0].range.gpa, ToGpa(Pfn(kFirst)));
  EXPECT_GT(result.reports[0].time, seconds(31));
  EXPECT_LT(result.reports[0].time, seconds(31) + milliseconds(1));
}

TEST_F(ReplayListsTest, TheOptionOverridesTheRecordedKernel) {
  recording_.kernel = "6.12.95+deb12-amd64";
  ReplayOptions options = options_;
  options.kernel = KernelVersion::kV6_1;
  EXPECT_EQ(Run(options).reported_bytes, 0u);
  options.kernel = KernelVersion::kV5_3;
  EXPECT_EQ(TryReplay(options).status().message(),
            "--kernel=5.3: must be 6.1 or 6.12, whose lists are followed");
}

// Whatever the kernel.
TEST_F(ReplayListsTest, RecordedDrainsGiveThemBack) {
  for (uint64_t i = 0; i < kBlock; ++i) Drain(15.0, kFirst + i, 0);
  const ReplayResult result = Run(options_);
  EXPECT_EQ(result.reported_bytes, 4 * kMiB);
  ASSERT_FALSE(result.reports.empty());
  EXPECT_GT(result.reports[0].time, seconds(15));
  EXPECT_LT(result.reports[0].time, seconds(18));
  EXPECT_EQ(result.counters.events, 2 * kBlock);
  EXPECT_TRUE(result.follows_moves);
}

// The modelled allocator has lists of its own.
TEST_F(ReplayListsTest, ANativeReplayFollowsNoMoves) {
  for (uint64_t i = 0; i < kBlock; ++i) Drain(15.0, kFirst + i, 0);
  ReplayOptions options = options_;
  options.placement = ReplayPlacement::kNative;
  const ReplayResult result = Run(options);
  EXPECT_FALSE(result.follows_moves);
  EXPECT_EQ(result.counters.moves, 0u);
  EXPECT_EQ(result.first_event, seconds(10));
  EXPECT_EQ(result.last_event, seconds(11));
  EXPECT_EQ(result.longest_pause, seconds(1));
}

}  // namespace
}  // namespace guestmm::replay_lists_test
