// Replays of guests whose memory arrives and leaves.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>

#include "tests/experiment/replay/replay_testing.h"

namespace guestmm::replay_hotplug_test {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using ::testing::IsEmpty;

constexpr uint64_t kSection = kSectionOrder.pages().value();
constexpr uint64_t kBlock = kMaxOrder.pages().value();
// At 1 GiB, past the zone of the guest's first memory.
constexpr uint64_t kPlugged = 0x40000;

GpaRange Range(uint64_t pfn, uint64_t pages) {
  return {.gpa = ToGpa(Pfn(pfn)), .bytes = pages * kPageSize};
}

RecordedZone MakeZone(const std::string& name, uint64_t start,
                      uint64_t managed) {
  RecordedZone zone;
  zone.name = name;
  zone.span = {Pfn(start), Pfn(start + managed)};
  zone.present = PageCount(managed);
  zone.managed = PageCount(managed);
  return zone;
}

// 128 MiB may arrive in a guest of 512 MiB.
class ReplayHotplugTest : public HandmadeReplayTest {
 protected:
  explicit ReplayHotplugTest(uint64_t pages = kPages, uint64_t in_use = 0)
      : HandmadeReplayTest(pages, in_use) {
    recording_.arriving = {Range(kPlugged, kSection)};
    recording_.zones = {MakeZone("DMA32", kFirst, pages)};
  }

  // Frees the section as the kernel does that onlines it.
  void Online(double time) {
    for (uint64_t at = 0; at < kSection; at += kBlock) {
      Free(time, kPlugged + at, 10);
    }
  }
  static ReplayOptions Options(ReplayPlacement placement,
                               const std::string& policy = "off") {
    ReplayOptions options;
    options.placement = placement;
    options.policy = policy;
    options.frame_interval = seconds(1);
    return options;
  }
  static void ExpectAllFollowed(const ReplayResult& result) {
    EXPECT_EQ(result.counters.outside_memory, 0u);
    EXPECT_EQ(result.counters.unmatched_frees, 0u);
    EXPECT_EQ(result.counters.forced_placements, 0u);
    EXPECT_EQ(result.counters.failed_allocations, 0u);
    EXPECT_EQ(result.counters.split_frees, 0u);
  }
  static constexpr ReplayPlacement kPlacements[] = {ReplayPlacement::kRecorded,
                                                    ReplayPlacement::kNative};
};

TEST_F(ReplayHotplugTest, MemoryThatArrivesIsAbsentBeforeAndFreeAfter) {
  Alloc(10.0, kFirst, 10);
  Online(11.0);
  Free(12.0, kFirst, 10);
  for (const ReplayPlacement placement : kPlacements) {
    const ReplayResult result = Run(Options(placement));
    ExpectAllFollowed(result);
    ASSERT_EQ(result.memory_changes.size(), 1u);
    EXPECT_EQ(result.memory_changes[0].time, seconds(11));
    EXPECT_EQ(result.memory_changes[0].range, Range(kPlugged, kSection));
    EXPECT_FALSE(result.memory_changes[0].removed);
    EXPECT_EQ(result.memory_bytes, kPages * kPageSize);
    EXPECT_EQ(MostMemoryBytes(result), (kPages + kSection) * kPageSize);
    EXPECT_EQ(result.unmanaged.at_start(), 0u);
    EXPECT_EQ(result.unmanaged.added, 0u);
    EXPECT_EQ(result.samples.front().free_bytes, (kPages - kBlock) * kPageSize);
    EXPECT_EQ(result.samples.back().free_bytes,
              (kPages + kSection) * kPageSize);
    // The block that was touched: what arrived never was.
    EXPECT_EQ(result.samples.back().resident_bytes, 4 * kMiB);
    const std::string& before = result.frames.front().blocks;
    const std::string& after = result.frames.back().blocks;
    EXPECT_EQ(before.substr(kPlugged / 512), std::string(kSection / 512, '.'));
    EXPECT_EQ(after.substr(kPlugged / 512), std::string(kSection / 512, 'h'));
  }
}

TEST_F(ReplayHotplugTest, WithoutAnEventItStaysAbsent) {
  Alloc(10.0, kFirst, 10);
  Free(12.0, kPlugged, 3);  // no block that the kernel onlines
  for (const ReplayPlacement placement : kPlacements) {
    const ReplayResult result = Run(Options(placement));
    EXPECT_THAT(result.memory_changes, IsEmpty());
    EXPECT_EQ(result.counters.outside_memory, 1u);
    EXPECT_EQ(result.samples.back().free_bytes, (kPages - kBlock) * kPageSize);
  }
}

// The events that onlined it were lost.
TEST_F(ReplayHotplugTest, AnAllocationBringsItsSection) {
  Alloc(10.0, kPlugged + 5000, 3);
  Free(11.0, kPlugged + 5000, 3);
  for (const ReplayPlacement placement : kPlacements) {
    const ReplayResult result = Run(Options(placement));
    ExpectAllFollowed(result);
    ASSERT_EQ(result.memory_changes.size(), 1u);
    EXPECT_EQ(result.memory_changes[0].range, Range(kPlugged, kSection));
    EXPECT_EQ(result.samples.back().resident_bytes, 2 * kMiB);
  }
}

// As virtio-mem does that plugs 2 MiB at a time.
TEST_F(ReplayHotplugTest, AHalfOfABlockArrives) {
  Free(10.0, kPlugged + 512, 9);
  Alloc(11.0, kPlugged + 512, 8);
  Free(12.0, kPlugged, 9);
  for (const ReplayPlacement placement : kPlacements) {
    const ReplayResult result = Run(Options(placement));
    ExpectAllFollowed(result);
    EXPECT_EQ(result.samples.back().resident_bytes, 2 * kMiB);
    EXPECT_EQ(result.samples.back().free_bytes,
              (kPages + kBlock - 256) * kPageSize);
    // By the second free.
    EXPECT_EQ(result.unmanaged.added, 2 * kMiB);
  }
}

// zoneinfo.end says by how much, buddyinfo.log when.
TEST_F(ReplayHotplugTest, AZoneThatIsNewWithoutAnEventIsFollowed) {
  recording_.zones_at_end = {MakeZone("DMA32", kFirst, kPages),
                             MakeZone("Normal", kPlugged, kSection)};
  for (int second = 10; second <= 14; ++second) {
    RecordedBuddyInfo& info = recording_.buddyinfo.emplace_back();
    info.time = seconds(second);
    info.zones.resize(2);
    info.zones[0].name = "DMA32";
    info.zones[0].blocks[10] = kPages / kBlock;
    info.zones[1].name = "Normal";
    info.zones[1].blocks[10] = second >= 12 ? kSection / kBlock : 0;
  }
  Alloc(10.0, kFirst, 0);
  Free(13.0, kPlugged, 10);  // the event that shows it, late
  Free(14.5, kFirst, 0);
  for (const ReplayPlacement placement : kPlacements) {
    const ReplayResult result = Run(Options(placement));
    ExpectAllFollowed(result);
    ASSERT_EQ(result.memory_changes.size(), 1u);
    EXPECT_EQ(result.memory_changes[0].time, seconds(12));
    EXPECT_EQ(result.memory_changes[0].range, Range(kPlugged, kSection));
    ASSERT_EQ(result.buddyinfo.size(), 5u);
    EXPECT_EQ(result.buddyinfo.front().zones.size(), 1u);
    EXPECT_EQ(result.buddyinfo.back().zones.size(), 2u);
    EXPECT_EQ(result.buddyinfo.back().zones[1].blocks[10], kSection / kBlock);
  }
}

TEST_F(ReplayHotplugTest, ItIsReportedThoughNeverTouched) {
  Alloc(10.0, kFirst, 10);
  Online(11.0);
  Free(12.0, kFirst, 10);
  // v12 knows only the memory that zones had when it was enabled.
  for (const char* const policy : {"v12-hotplug", "linux", "adaptive"}) {
    for (const ReplayPlacement placement : kPlacements) {
      ReplayOptions options = Options(placement, policy);
      options.tail = seconds(120);
      const ReplayResult result = Run(options);
      EXPECT_GE(result.reported_bytes, kSection * kPageSize) << policy;
      // One block more is too few for v12's threshold.
      if (policy == std::string_view("v12-hotplug")) continue;
      EXPECT_EQ(result.samples.back().resident_bytes, 0u) << policy;
    }
  }
}

TEST_F(ReplayHotplugTest, WhatIsUnpluggedIsGone) {
  recording_.plugs = {{.time = seconds(12),
                       .range = Range(kPlugged, kSection),
                       .removed = true}};
  Online(10.0);
  Alloc(10.5, kPlugged, 10);
  Alloc(10.5, kPlugged + kBlock, 9);
  Free(11.0, kPlugged, 10);
  // Its second page of 2 MiB is still in use: no event shows that it was moved.
  Alloc(14.0, kFirst, 0);
  Alloc(15.0, kFirst + 1, 0);
  for (const ReplayPlacement placement : kPlacements) {
    const ReplayResult result = Run(Options(placement));
    ASSERT_EQ(result.memory_changes.size(), 2u);
    EXPECT_EQ(result.memory_changes[1].time, seconds(12));
    EXPECT_EQ(result.memory_changes[1].range, Range(kPlugged, kSection));
    EXPECT_TRUE(result.memory_changes[1].removed);
    EXPECT_EQ(result.counters.outside_memory, 0u);
    EXPECT_EQ(result.frames.back().blocks.substr(kPlugged / 512),
              std::string(kSection / 512, '.'));
    EXPECT_LE(result.samples.back().free_bytes, kPages * kPageSize);
  }
  const ReplayResult result = Run(Options(ReplayPlacement::kRecorded));
  // That of the two single pages.
  EXPECT_EQ(result.samples.back().resident_bytes, 2 * kMiB);
}

// A plug from before the recording shows in its memory map already.
TEST_F(ReplayHotplugTest, WhatWasUnpluggedBeforeHasNoEffect) {
  recording_.start = seconds(10);
  recording_.plugs = {
      {.time = seconds(9), .range = Range(kFirst, kSection), .removed = true}};
  Alloc(10.0, kFirst, 0);
  Alloc(11.0, kFirst + 1, 0);
  EXPECT_THAT(Run(Options(ReplayPlacement::kRecorded)).memory_changes,
              IsEmpty());
}

// iomem.end says what left, and buddyinfo.log when: its free memory is less.
TEST_F(ReplayHotplugTest, MemoryThatLeavesIsGoneOnceItIsNotFreeThere) {
  recording_.arriving.clear();
  constexpr uint64_t kGone = 0x10000;
  recording_.leaving = {Range(kGone, kSection)};
  for (int second = 10; second <= 14; ++second) {
    RecordedBuddyInfo& info = recording_.buddyinfo.emplace_back();
    info.time = seconds(second);
    info.zones.emplace_back().name = "DMA32";
    info.zones.back().blocks[10] =
        (kPages - (second >= 12 ? kSection : 0)) / kBlock;
  }
  Alloc(9.0, kFirst, 0);
  Free(14.5, kFirst, 0);
  for (const ReplayPlacement placement : kPlacements) {
    const ReplayResult result = Run(Options(placement));
    ASSERT_EQ(result.memory_changes.size(), 1u);
    EXPECT_EQ(result.memory_changes[0].time, seconds(12));
    EXPECT_EQ(result.memory_changes[0].range, Range(kGone, kSection));
    EXPECT_TRUE(result.memory_changes[0].removed);
  }
  recording_.buddyinfo.clear();
  const ReplayResult result = Run(Options(ReplayPlacement::kRecorded));
  ASSERT_EQ(result.memory_changes.size(), 1u);
  EXPECT_EQ(result.memory_changes[0].time, result.end) << "at the end";
}

// Offline memory still has host memory behind it until it is unplugged.
TEST_F(ReplayHotplugTest, MemoryThatIsOfflineStaysResidentUntilUnplugged) {
  recording_.arriving.clear();
  constexpr uint64_t kGone = 0x10000;
  recording_.offlined = {Range(kGone, kSection)};
  Alloc(9.0, kGone, 9);
  Free(10.0, kGone, 9);
  for (int second = 11; second <= 14; ++second) {
    RecordedBuddyInfo& info = recording_.buddyinfo.emplace_back();
    info.time = seconds(second);
    info.zones.emplace_back().name = "DMA32";
    info.zones.back().blocks[10] =
        (kPages - (second >= 12 ? kSection : 0)) / kBlock;
  }
  // So that the list of huge pages is drained.
  for (uint64_t at = 0; at < 64 * 512; at += 512) Alloc(10.5, kFirst + at, 9);
  for (uint64_t at = 0; at < 64 * 512; at += 512) Free(10.6, kFirst + at, 9);
  Alloc(14.5, kFirst, 9);
  const ReplayOptions options = Options(ReplayPlacement::kRecorded);
  ReplayResult result = Run(options);
  ASSERT_EQ(result.memory_changes.size(), 1u);
  EXPECT_EQ(result.memory_changes[0].time, seconds(12));
  EXPECT_EQ(result.memory_changes[0].range, Range(kGone, kSection));
  EXPECT_EQ(result.samples.back().resident_bytes, 130 * kMiB);
  recording_.plugs = {
      {.time = seconds(13), .range = Range(kGone, kSection), .removed = true}};
  result = Run(options);
  ASSERT_EQ(result.memory_changes.size(), 1u);
  EXPECT_EQ(result.memory_changes[0].time, seconds(13));
  EXPECT_EQ(result.samples.back().resident_bytes, 128 * kMiB);
}

// On real RAM too: 8 MiB may arrive in a guest of 32 MiB.
class SmallHotplugTest : public ReplayHotplugTest {
 protected:
  static constexpr uint64_t kSmall = 8 * kBlock;

  SmallHotplugTest() : ReplayHotplugTest(kSmall, 2 * kBlock) {
    recording_.arriving = {Range(kPlugged, 2 * kBlock)};
  }
};

TEST_F(SmallHotplugTest, TheKernelAgreesWithTheLedger) {
  recording_.plugs = {{.time = seconds(13),
                       .range = Range(kPlugged, 2 * kBlock),
                       .removed = true}};
  Free(10.0, kPlugged, 10);
  Free(10.0, kPlugged + kBlock, 10);
  Alloc(11.0, kPlugged + kBlock, 10);
  Alloc(12.0, kFirst + 2 * kBlock, 9);
  Free(14.0, kFirst + 2 * kBlock, 9);
  for (const ReplayPlacement placement : kPlacements) {
    ReplayOptions options = Options(placement);
    options.sample_interval = milliseconds(500);
    const ReplayResult modelled = Run(options);
    options.mode = ReplayMode::kReal;
    options.granule = Order(0);
    const ReplayResult for_real = Run(options);
    options.mode = ReplayMode::kVirtual;
    const ReplayResult in_pages = Run(options);
    EXPECT_EQ(for_real.memory_changes.size(), 2u);
    ASSERT_EQ(in_pages.samples.size(), for_real.samples.size());
    for (size_t i = 0; i < in_pages.samples.size(); ++i) {
      EXPECT_EQ(in_pages.samples[i].resident_bytes,
                for_real.samples[i].resident_bytes)
          << i;
      EXPECT_EQ(modelled.samples[i].free_bytes, for_real.samples[i].free_bytes);
    }
    EXPECT_EQ(for_real.samples.front().resident_bytes, 8 * kMiB);
  }
}

// The pages in use are elsewhere in the guest, and keep their contents.
TEST_F(SmallHotplugTest, ANativeReplayMovesWhatItHasThere) {
  constexpr uint64_t kUsed = kFirst + 2 * kBlock;
  constexpr uint64_t kGone = kUsed + 4 * kBlock;
  recording_.arriving.clear();
  recording_.plugs = {
      {.time = seconds(12), .range = Range(kGone, kBlock), .removed = true}};
  // All but 6 MiB of what was free is in use when 4 MiB leave.
  for (uint64_t at = 0; at < 4 * kBlock - 512; at += 8)
    Alloc(10.0, kUsed + at, 3);
  for (uint64_t at = 0; at < kBlock; at += 8) {
    Alloc(10.5, kGone + kBlock + at, 3);
  }
  for (uint64_t at = 0; at < 4 * kBlock - 512; at += 8)
    Free(14.0, kUsed + at, 3);
  for (const ReplayMode mode : {ReplayMode::kVirtual, ReplayMode::kReal}) {
    ReplayOptions options = Options(ReplayPlacement::kNative);
    options.mode = mode;
    const ReplayResult result = Run(options);
    ASSERT_EQ(result.memory_changes.size(), 1u);
    EXPECT_EQ(result.counters.forced_placements, 0u);
    EXPECT_EQ(result.counters.unmatched_frees, 0u);
    // The pages in use at the start, those of the block still in use, and what
    // has not been reported.
    EXPECT_LE(result.samples.back().resident_bytes,
              (kSmall - kBlock) * kPageSize);
  }
}

}  // namespace
}  // namespace guestmm::replay_hotplug_test
