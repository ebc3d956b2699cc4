#include "guestmm/reporting/unreported_memory.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <optional>
#include <vector>

#include "guestmm/base/random.h"

namespace guestmm::unreported_memory_test {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using Queue = UnreportedMemory::Queue;

PfnRange Pages(uint64_t start, uint64_t end) {
  return {.start = Pfn(start), .end = Pfn(end)};
}

// All runs of `range`.
std::vector<PfnRange> Runs(const UnreportedMemory& memory, PfnRange range) {
  std::vector<PfnRange> runs;
  while (range.start < range.end) {
    const std::optional<PfnRange> run = memory.FindRun(range);
    if (!run) break;
    runs.push_back(*run);
    range.start = run->end;
  }
  return runs;
}

TEST(UnreportedMemoryTest, NewMemoryMayBeBackedAllOfIt) {
  UnreportedMemory memory(kPageblockOrder, Order(0), Order(0));
  memory.AddMemory(Pages(0, 1000));
  EXPECT_TRUE(memory.Has(Pfn(0)));
  EXPECT_FALSE(memory.Has(Pfn(0) + kSectionOrder.pages()));
  EXPECT_THAT(Runs(memory, Pages(0, 2048)), ElementsAre(Pages(0, 1000)));
}

TEST(UnreportedMemoryTest, MarkSaysHowManyGranulesAreNew) {
  UnreportedMemory memory(kPageblockOrder, Order(0), Order(0));
  memory.AddMemory(Pages(0, 1024));
  EXPECT_EQ(memory.Mark(Pages(0, 1024)), 0u);
  memory.Clear(Pages(0, 1024));
  EXPECT_EQ(memory.Mark(Pages(64, 72)), 8u);
  EXPECT_EQ(memory.Mark(Pages(64, 80)), 8u);
  EXPECT_EQ(memory.Mark(Pages(0, 1024)), 1024u - 16);
}

TEST(UnreportedMemoryTest, AGranuleIsMarkedByAnyOfItsPages) {
  UnreportedMemory memory(kPageblockOrder, kPageblockOrder, kPageblockOrder);
  memory.AddMemory(Pages(0, 2048));
  memory.Clear(Pages(0, 2048));
  EXPECT_EQ(memory.Mark(Pages(700, 701)), 1u);
  EXPECT_THAT(Runs(memory, Pages(0, 2048)), ElementsAre(Pages(512, 1024)));
}

TEST(UnreportedMemoryTest, ARangeClearsOnlyTheGranulesItHasAllOf) {
  UnreportedMemory memory(kPageblockOrder, Order(2), Order(2));
  memory.AddMemory(Pages(0, 16));
  memory.Clear(Pages(2, 11));
  EXPECT_THAT(Runs(memory, Pages(0, 16)),
              ElementsAre(Pages(0, 4), Pages(8, 16)));
}

// A touch of a huge page that the host has all of maps all of it; of one that
// was split, or of which the host may back something, what is touched.
TEST(UnreportedMemoryTest, ATouchMapsAHugePageThatIsNotSplit) {
  UnreportedMemory memory(Order(5), kPageblockOrder, Order(0));
  memory.AddMemory(Pages(0, 2048));
  EXPECT_EQ(memory.MappedWith(Pages(600, 601)), Pages(600, 601));
  memory.Clear(Pages(0, 2048));
  EXPECT_EQ(memory.MappedWith(Pages(600, 601)), Pages(512, 1024));
  EXPECT_EQ(memory.MappedWith(Pages(1000, 1100)), Pages(512, 1536));
  EXPECT_EQ(memory.Mark(Pages(512, 1024)), 512u);
  EXPECT_EQ(memory.MappedWith(Pages(1000, 1100)), Pages(1000, 1536));
  // Discarded in parts, its page table is still there.
  memory.Clear(Pages(512, 900));
  memory.Clear(Pages(900, 1024));
  EXPECT_EQ(memory.MappedWith(Pages(600, 601)), Pages(600, 601));
  memory.Clear(Pages(512, 1024));
  EXPECT_EQ(memory.MappedWith(Pages(600, 601)), Pages(512, 1024));
}

TEST(UnreportedMemoryTest, ASmallerGranuleIsWholeAgainOnceItIsDiscarded) {
  UnreportedMemory memory(Order(5), Order(4), Order(0));
  memory.AddMemory(Pages(0, 64));
  memory.Clear(Pages(16, 24));
  EXPECT_EQ(memory.MappedWith(Pages(17, 18)), Pages(17, 18));
  memory.Clear(Pages(24, 32));
  EXPECT_EQ(memory.MappedWith(Pages(17, 18)), Pages(16, 32));
}

TEST(UnreportedMemoryTest, ASplitGranuleCanBeMarkedWhole) {
  UnreportedMemory memory(Order(5), Order(4), Order(0));
  memory.AddMemory(Pages(0, 64));
  memory.Clear(Pages(0, 16));   // not split: nothing is marked
  memory.Clear(Pages(16, 24));  // split
  memory.Clear(Pages(32, 40));  // split
  memory.MarkSplit(Pages(0, 40));
  EXPECT_THAT(Runs(memory, Pages(0, 64)),
              ElementsAre(Pages(16, 32), Pages(40, 64)));
}

TEST(UnreportedMemoryTest, RunsAreAsANaiveScanFindsThem) {
  constexpr uint64_t kPages = 1024;
  Random random(/*seed=*/7);
  UnreportedMemory memory(kPageblockOrder, Order(0), Order(0));
  memory.AddMemory(Pages(0, kPages));
  std::vector<bool> naive(kPages, true);
  for (int step = 0; step < 2000; ++step) {
    const uint64_t at = random.Below(kPages);
    const uint64_t count =
        1 + random.Below(std::min<uint64_t>(kPages - at, 150));
    if (random.OneIn(2)) {
      memory.Clear(Pages(at, at + count));
      for (uint64_t i = 0; i < count; ++i) naive[at + i] = false;
    } else {
      memory.Mark(Pages(at, at + count));
      for (uint64_t i = 0; i < count; ++i) naive[at + i] = true;
    }
    const Order asked(static_cast<int>(random.Below(11)));
    const Pfn from = Pfn(random.Below(kPages)).AlignDown(asked);
    const uint64_t end = (from + asked.pages()).value();
    std::vector<PfnRange> expected;
    for (uint64_t i = from.value(); i < end; ++i) {
      if (!naive[i]) continue;
      if (expected.empty() || expected.back().end != Pfn(i)) {
        expected.push_back(Pages(i, i));
      }
      expected.back().end = Pfn(i + 1);
    }
    ASSERT_EQ(Runs(memory, Pages(from.value(), end)), expected) << step;
  }
}

std::vector<uint64_t> Drain(UnreportedMemory& memory, Queue queue) {
  std::vector<uint64_t> regions;
  while (const std::optional<Pfn> head = memory.Head(queue)) {
    regions.push_back(head->value());
    memory.Dequeue(*head);
  }
  return regions;
}

TEST(UnreportedMemoryTest, AQueueIsFirstInFirstOut) {
  UnreportedMemory memory(Order(3), Order(0), Order(0));
  memory.AddMemory(Pages(0, 64));
  for (const uint64_t pfn : {16, 0, 40, 8}) {
    memory.Enqueue(Pfn(pfn), Queue::kSettling, /*now=*/1);
  }
  EXPECT_EQ(memory.Size(Queue::kSettling), 4u);
  EXPECT_THAT(Drain(memory, Queue::kSettling), ElementsAre(16, 0, 40, 8));
  EXPECT_EQ(memory.Size(Queue::kSettling), 0u);
}

TEST(UnreportedMemoryTest, ARegionIsInOneQueueAtATime) {
  UnreportedMemory memory(Order(3), Order(0), Order(0));
  memory.AddMemory(Pages(0, 64));
  for (const uint64_t pfn : {0, 8, 16}) {
    memory.Enqueue(Pfn(pfn + 3), Queue::kSettling, /*now=*/1);
  }
  memory.Enqueue(Pfn(8), Queue::kCold, /*now=*/2);
  memory.Enqueue(Pfn(0), Queue::kSettling, /*now=*/2);
  EXPECT_EQ(memory.region(Pfn(8)).queue, Queue::kCold);
  EXPECT_EQ(memory.region(Pfn(8)).queued, 2u);
  EXPECT_THAT(Drain(memory, Queue::kSettling), ElementsAre(16, 0));
  EXPECT_THAT(Drain(memory, Queue::kCold), ElementsAre(8));
}

TEST(UnreportedMemoryTest, MemoryThatIsGoneIsInNoQueueAndMarkedAnew) {
  UnreportedMemory memory(kPageblockOrder, Order(0), Order(0));
  const uint64_t section = kSectionOrder.pages().value();
  memory.AddMemory(Pages(0, 2 * section));
  memory.Enqueue(Pfn(0), Queue::kSettling, /*now=*/1);
  memory.Enqueue(Pfn(section), Queue::kCold, /*now=*/1);
  memory.region(Pfn(section)).active = 1;
  memory.region(Pfn(section)).reported_from = Queue::kSettling;
  memory.RemoveMemory(Pages(section, 2 * section));
  EXPECT_THAT(Drain(memory, Queue::kCold), IsEmpty());
  EXPECT_THAT(Drain(memory, Queue::kSettling), ElementsAre(0));
  EXPECT_EQ(memory.FindRun(Pages(section, section + 1024)), std::nullopt);
  memory.AddMemory(Pages(section, 2 * section));
  EXPECT_EQ(memory.FindRun(Pages(section, section + 1024)),
            Pages(section, section + 1024));
  EXPECT_EQ(memory.region(Pfn(section)).active, 0u);
  EXPECT_EQ(memory.region(Pfn(section)).reported_from, Queue::kNone);
}

// In 1 TiB with holes: for the memory, not for the span.
TEST(UnreportedMemoryTest, HolesTakeNextToNothing) {
  UnreportedMemory memory(kPageblockOrder, Order(0), Order(0));
  const uint64_t pages = kTiB / kPageSize;
  memory.AddMemory(Pages(0, kSectionOrder.pages().value()));
  memory.AddMemory(Pages(pages - kSectionOrder.pages().value(), pages));
  EXPECT_LT(memory.MemoryBytes(), 100 * kKiB);
}

}  // namespace
}  // namespace guestmm::unreported_memory_test
