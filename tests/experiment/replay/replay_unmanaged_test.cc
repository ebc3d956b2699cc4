// Replays with memory that the guest's allocator does not have, or not yet.

#include <gtest/gtest.h>

#include <chrono>
#include <cstdint>
#include <string>

#include "guestmm/experiment/replay/replay.h"
#include "tests/experiment/replay/replay_testing.h"

namespace guestmm::replay_unmanaged_test {
namespace {

// The struct pages of the highest 144 MiB of the guest are not initialized.
class ReplayUnmanagedTest : public HandmadeReplayTest {
 protected:
  static constexpr uint64_t kUnmanaged = 0x18000;
  static constexpr uint64_t kUnmanagedPages = kFirst + kPages - kUnmanaged;

  ReplayUnmanagedTest() {
    auto& states = recording_.first->states;
    for (uint64_t pfn = kUnmanaged; pfn < kFirst + kPages; ++pfn) {
      states[pfn] = RecordedPages::State::kNoFlags;
    }
    recording_.zones = {Zone(kPages - kUnmanagedPages)};
  }

  static RecordedZone Zone(uint64_t managed) {
    RecordedZone zone;
    zone.name = "DMA32";
    zone.span = {Pfn(kFirst), Pfn(kFirst + kPages)};
    zone.present = PageCount(kPages);
    zone.managed = PageCount(managed);
    return zone;
  }
  static ReplayOptions Off(ReplayPlacement placement) {
    ReplayOptions options;
    options.placement = placement;
    options.policy = "off";
    options.frame_interval = std::chrono::seconds(1);
    return options;
  }
  static constexpr ReplayPlacement kPlacements[] = {ReplayPlacement::kRecorded,
                                                    ReplayPlacement::kNative};
};

TEST_F(ReplayUnmanagedTest, ItIsNeitherInUseNorResident) {
  Alloc(10.0, kFirst, 10);
  Free(11.0, kFirst, 10);
  for (const ReplayPlacement placement : kPlacements) {
    const ReplayResult result = Run(Off(placement));
    EXPECT_EQ(result.unmanaged.uninitialized, kUnmanagedPages * kPageSize);
    EXPECT_EQ(result.unmanaged.added, 0u);
    EXPECT_EQ(result.memory_bytes, kPages * kPageSize);
    // Of the block that was allocated.
    EXPECT_EQ(result.samples.front().resident_bytes, 4 * kMiB);
    EXPECT_EQ(result.samples.back().resident_bytes, 4 * kMiB);
    EXPECT_EQ(result.samples.back().free_bytes,
              (kPages - kUnmanagedPages) * kPageSize);
    EXPECT_EQ(result.footprint.in_use, 1024 * 1e6);
    const std::string& blocks = result.frames.back().blocks;
    EXPECT_EQ(blocks.substr(kUnmanaged / 512),
              std::string(kUnmanagedPages / 512, '.'));
  }
}

TEST_F(ReplayUnmanagedTest, AnAllocationOfItAddsItsSection) {
  constexpr uint64_t kSection = kSectionOrder.pages().value();
  Alloc(10.0, kUnmanaged + 1024, 10);
  Free(11.0, kUnmanaged + 1024, 10);
  for (const ReplayPlacement placement : kPlacements) {
    const ReplayResult result = Run(Off(placement));
    EXPECT_EQ(result.unmanaged.uninitialized, kUnmanagedPages * kPageSize);
    EXPECT_EQ(result.unmanaged.added, kSection * kPageSize);
    EXPECT_EQ(result.counters.outside_memory, 0u);
    EXPECT_EQ(result.counters.forced_placements, 0u);
    EXPECT_EQ(result.counters.unmatched_frees, 0u);
    EXPECT_EQ(result.samples.back().resident_bytes, 4 * kMiB);
    EXPECT_EQ(result.samples.back().free_bytes,
              (kPages - kUnmanagedPages + kSection) * kPageSize);
  }
}

// E.g. by a deflated balloon, or when struct pages are initialized.
TEST_F(ReplayUnmanagedTest, AFreeOfItAddsItsBlock) {
  Free(10.0, kUnmanaged, 10);
  Alloc(11.0, kUnmanaged, 9);
  for (const ReplayPlacement placement : kPlacements) {
    const ReplayResult result = Run(Off(placement));
    EXPECT_EQ(result.unmanaged.added, 4 * kMiB);
    EXPECT_EQ(result.counters.unmatched_frees, 0u);
    EXPECT_EQ(result.counters.split_frees, 0u);
    EXPECT_EQ(result.counters.forced_placements, 0u);
    EXPECT_EQ(result.samples.back().resident_bytes, 2 * kMiB);
  }
}

// As by deferred_grow_zone: zoneinfo.end says by how much, buddyinfo.log when.
TEST_F(ReplayUnmanagedTest, AZoneThatGrowsWithoutAnEventIsFollowed) {
  constexpr uint64_t kSection = kSectionOrder.pages().value();
  constexpr uint64_t kBlocks = (kPages - kUnmanagedPages) / 1024;
  recording_.zones_at_end = {Zone(kPages - kUnmanagedPages + kSection)};
  for (int second = 10; second <= 14; ++second) {
    RecordedBuddyInfo& info = recording_.buddyinfo.emplace_back();
    info.time = std::chrono::seconds(second);
    info.zones.emplace_back().name = "DMA32";
    info.zones.back().blocks[10] =
        kBlocks + (second >= 12 ? kSection / 1024 : 0);
  }
  Alloc(10.0, kFirst, 0);
  Free(14.5, kFirst, 0);
  const uint64_t before = (kPages - kUnmanagedPages - 1) * kPageSize;
  for (const ReplayPlacement placement : kPlacements) {
    ReplayOptions options = Off(placement);
    options.sample_interval = std::chrono::seconds(1);
    const ReplayResult result = Run(options);
    EXPECT_EQ(result.unmanaged.added, kSection * kPageSize);
    ASSERT_EQ(result.samples.size(), 6u);
    EXPECT_EQ(result.samples[2].free_bytes / kMiB, before / kMiB);
    EXPECT_EQ(result.samples[3].free_bytes / kMiB,
              (before + kSection * kPageSize) / kMiB);
    EXPECT_EQ(result.samples.back().resident_bytes, 2 * kMiB);
  }
  recording_.buddyinfo.clear();
  const ReplayResult result = Run(Off(ReplayPlacement::kRecorded));
  EXPECT_EQ(result.unmanaged.added, kSection * kPageSize) << "at the end";
}

TEST_F(ReplayUnmanagedTest, AddedMemoryIsReported) {
  Alloc(10.0, kUnmanaged, 10);
  Free(11.0, kUnmanaged, 10);
  for (const char* const policy : {"linux", "adaptive"}) {
    ReplayOptions options;
    options.policy = policy;
    options.tail = std::chrono::seconds(60);
    const ReplayResult result = Run(options);
    EXPECT_EQ(result.samples.back().resident_bytes, 0u) << policy;
    EXPECT_GE(result.reported_bytes, 4 * kMiB);
    EXPECT_EQ(result.needless_bytes, 0u);
  }
}

}  // namespace
}  // namespace guestmm::replay_unmanaged_test
