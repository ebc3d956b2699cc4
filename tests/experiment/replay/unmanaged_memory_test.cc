#include "src/experiment/replay/unmanaged_memory.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>

namespace guestmm::unmanaged_memory_test {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using State = RecordedPages::State;

// 1024 pages of the zone DMA32 from 0x8000 on, all in use by the kernel.
constexpr uint64_t kFirst = 0x8000;
constexpr uint64_t kPages = 1024;

Recording Make(uint64_t present, uint64_t managed) {
  Recording recording;
  recording.memory = {{Gpa(kFirst * kPageSize), kPages * kPageSize}};
  recording.first.emplace();
  recording.first->states.assign(kFirst, State::kAbsent);
  recording.first->states.resize(kFirst + kPages, State::kNoFlags);
  RecordedZone& zone = recording.zones.emplace_back();
  zone.name = "DMA32";
  zone.span = {Pfn(kFirst), Pfn(kFirst + kPages)};
  zone.present = PageCount(present);
  zone.managed = PageCount(managed);
  return recording;
}

void Set(Recording& recording, uint64_t page, State state) {
  recording.first->states[kFirst + page] = state;
}

PfnRange Pages(uint64_t start, uint64_t end) {
  return {.start = Pfn(kFirst + start), .end = Pfn(kFirst + end)};
}

TEST(UnmanagedMemoryTest, WithAllPagesManagedThereIsNone) {
  EXPECT_TRUE(UnmanagedMemory(Make(kPages, kPages)).empty());
  EXPECT_TRUE(UnmanagedMemory(Make(0, 0)).empty()) << "no `present`";
  Recording recording = Make(kPages, 0);
  recording.first.reset();
  EXPECT_TRUE(UnmanagedMemory(recording).empty());
  recording = Make(kPages, 0);
  recording.zones.clear();
  EXPECT_TRUE(UnmanagedMemory(recording).empty());
}

// Reserved pages are not managed either, but the kernel has them.
TEST(UnmanagedMemoryTest, TheHighestPagesWithoutAFlagAreUninitialized) {
  Recording recording = Make(kPages, kPages - 12);
  Set(recording, 3, State::kReserved);
  Set(recording, 1023, State::kReserved);
  Set(recording, 1020, State::kInUse);
  Set(recording, 1010, State::kFree);
  const UnmanagedMemory memory(recording);
  EXPECT_EQ(memory.bytes().uninitialized, 10 * kPageSize);
  EXPECT_EQ(memory.bytes().at_start(), 10 * kPageSize);
  EXPECT_TRUE(memory.HasAllOf(Pages(1021, 1023)));
  EXPECT_TRUE(memory.HasAllOf(Pages(1012, 1020)));
  EXPECT_FALSE(memory.HasAnyOf(Pages(0, 1012)));
  EXPECT_FALSE(memory.Has(Pfn(kFirst + 1020)));
  EXPECT_FALSE(memory.Has(Pfn(kFirst + 1023)));
  EXPECT_TRUE(memory.HasAnyOf(Pages(1020, 1024)));
  EXPECT_FALSE(memory.HasAllOf(Pages(1020, 1024)));
}

TEST(UnmanagedMemoryTest, OfflinePagesAndThoseWithoutAStructPageAreKnown) {
  Recording recording = Make(kPages - 2, kPages - 7);
  for (uint64_t page = 100; page < 105; ++page) {
    Set(recording, page, State::kOffline);
  }
  Set(recording, 200, State::kAbsent);
  recording.first->states.pop_back();
  const UnmanagedMemory memory(recording);
  EXPECT_EQ(memory.bytes().offline, 5 * kPageSize);
  EXPECT_EQ(memory.bytes().no_page, 2 * kPageSize);
  EXPECT_EQ(memory.bytes().uninitialized, 0u);
  EXPECT_TRUE(memory.HasAllOf(Pages(100, 105)));
  EXPECT_TRUE(memory.HasAllOf(Pages(1023, 1024)));
  EXPECT_FALSE(memory.HasAnyOf(Pages(1024, 2048))) << "outside of the map";
}

TEST(UnmanagedMemoryTest, APageInUseShowsThatItsSectionIs) {
  Recording recording = Make(kPages, 512);
  Set(recording, 512, State::kOffline);
  UnmanagedMemory memory(recording);
  EXPECT_THAT(memory.RemoveGrown(Pfn(kFirst + 511)), IsEmpty());
  EXPECT_THAT(memory.RemoveGrown(Pfn(kFirst + 700)),
              ElementsAre(Pages(513, 1024)));
  EXPECT_THAT(memory.RemoveGrown(Pfn(kFirst + 512)),
              ElementsAre(Pages(512, 513)));
  EXPECT_TRUE(memory.empty());
  EXPECT_EQ(memory.bytes().uninitialized, 511 * kPageSize);
  EXPECT_EQ(memory.bytes().added, 512 * kPageSize);
}

TEST(UnmanagedMemoryTest, ABlockIsRemovedAlone) {
  Recording recording = Make(kPages, 512);
  Set(recording, 602, State::kInUse);
  UnmanagedMemory memory(recording);
  EXPECT_THAT(memory.Remove(Pages(600, 604)),
              ElementsAre(Pages(600, 602), Pages(603, 604)));
  EXPECT_THAT(memory.Remove(Pages(600, 604)), IsEmpty());
  EXPECT_EQ(memory.bytes().added, 3 * kPageSize);
}

TEST(UnmanagedMemoryTest, GrowthBeginsWithTheLowestUninitializedPages) {
  Recording recording = Make(kPages, 511);
  Set(recording, 5, State::kOffline);
  UnmanagedMemory memory(recording);
  EXPECT_THAT(memory.RemoveLowest(Pages(0, kPages), PageCount(500)),
              ElementsAre(Pages(512, 1012)));
  EXPECT_THAT(memory.RemoveLowest(Pages(0, kPages), PageCount(500)),
              ElementsAre(Pages(1012, 1024)));
  EXPECT_THAT(memory.RemoveLowest(Pages(0, kPages), PageCount(500)),
              ElementsAre(Pages(5, 6)));
  EXPECT_THAT(memory.RemoveLowest(Pages(0, kPages), PageCount(500)), IsEmpty());
}

}  // namespace
}  // namespace guestmm::unmanaged_memory_test
