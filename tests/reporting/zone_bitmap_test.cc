#include "guestmm/reporting/zone_bitmap.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <set>
#include <thread>
#include <vector>

#include "guestmm/base/lock.h"
#include "guestmm/base/random.h"

namespace guestmm::zone_bitmap_test {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr Order kOrder(9);

// A bitmap whose span is all memory.
class FullBitmap : public ZoneBitmap {
 public:
  FullBitmap(PfnRange span, Order granularity) : ZoneBitmap(span, granularity) {
    AddMemory(span);
  }
};

// The pfns of the set bits, in the order of a search.
std::vector<uint64_t> Found(const ZoneBitmap& bitmap, Pfn from = Pfn(0)) {
  std::vector<uint64_t> found;
  while (const std::optional<Pfn> pfn = bitmap.FindNext(from)) {
    found.push_back(pfn->value());
    from = *pfn + PageCount(1);
  }
  return found;
}

TEST(ZoneBitmapTest, IsEmptyAtFirst) {
  const FullBitmap bitmap({Pfn(0), Pfn(512 * 100)}, kOrder);
  EXPECT_EQ(bitmap.count(), 0u);
  EXPECT_FALSE(bitmap.Test(Pfn(0)));
  EXPECT_THAT(Found(bitmap), IsEmpty());
}

TEST(ZoneBitmapTest, SetAndClear) {
  FullBitmap bitmap({Pfn(0), Pfn(512 * 100)}, kOrder);
  bitmap.Set(Pfn(512 * 7));
  EXPECT_TRUE(bitmap.Test(Pfn(512 * 7)));
  EXPECT_FALSE(bitmap.Test(Pfn(512 * 6)));
  EXPECT_FALSE(bitmap.Test(Pfn(512 * 8)));
  EXPECT_EQ(bitmap.count(), 1u);
  bitmap.Clear(Pfn(512 * 7));
  EXPECT_FALSE(bitmap.Test(Pfn(512 * 7)));
  EXPECT_EQ(bitmap.count(), 0u);
}

TEST(ZoneBitmapTest, SettingTwiceCountsOnce) {
  FullBitmap bitmap({Pfn(0), Pfn(512 * 100)}, kOrder);
  bitmap.Set(Pfn(512));
  bitmap.Set(Pfn(512));
  EXPECT_EQ(bitmap.count(), 1u);
}

TEST(ZoneBitmapTest, OneBitStandsForAWholeBlock) {
  FullBitmap bitmap({Pfn(0), Pfn(512 * 100)}, kOrder);
  bitmap.Set(Pfn(512 + 17));
  EXPECT_TRUE(bitmap.Test(Pfn(512)));
  EXPECT_TRUE(bitmap.Test(Pfn(1023)));
  EXPECT_FALSE(bitmap.Test(Pfn(1024)));
  EXPECT_THAT(Found(bitmap), ElementsAre(512));
}

TEST(ZoneBitmapTest, FindsAscendingAcrossWords) {
  FullBitmap bitmap({Pfn(0), Pfn(512 * 300)}, kOrder);
  // Both ends of a word, a word without bits, the last bit.
  for (const uint64_t bit : {299, 128, 0, 63, 64, 127}) {
    bitmap.Set(Pfn(512 * bit));
  }
  EXPECT_THAT(Found(bitmap), ElementsAre(0, 512 * 63, 512 * 64, 512 * 127,
                                         512 * 128, 512 * 299));
}

TEST(ZoneBitmapTest, SearchStartsAtOrAfterFrom) {
  FullBitmap bitmap({Pfn(0), Pfn(512 * 100)}, kOrder);
  bitmap.Set(Pfn(512));
  bitmap.Set(Pfn(1024));
  EXPECT_EQ(bitmap.FindNext(Pfn(512)), Pfn(512));
  // A block that starts before `from` is not "at or after" it.
  EXPECT_EQ(bitmap.FindNext(Pfn(513)), Pfn(1024));
  EXPECT_EQ(bitmap.FindNext(Pfn(1025)), std::nullopt);
  EXPECT_EQ(bitmap.FindNext(Pfn(512 * 100)), std::nullopt);
  EXPECT_EQ(bitmap.FindNext(Pfn(512 * 1000)), std::nullopt);
}

// Defect (f) of v12, mended: with a base that is not a multiple of the block,
// its bits and the pages that it looked at did not agree.
TEST(ZoneBitmapTest, BaseIsAlignedDown) {
  FullBitmap bitmap({Pfn(1), Pfn(512 * 4)}, kOrder);
  bitmap.Set(Pfn(512));
  EXPECT_THAT(Found(bitmap), ElementsAre(512));
  EXPECT_FALSE(bitmap.Test(Pfn(1)));
  bitmap.Set(Pfn(1));
  EXPECT_THAT(Found(bitmap), ElementsAre(0, 512));
}

TEST(ZoneBitmapTest, AnUnalignedEndHasABitToo) {
  FullBitmap bitmap({Pfn(0), Pfn(512 * 2 + 1)}, kOrder);
  bitmap.Set(Pfn(512 * 2));
  EXPECT_THAT(Found(bitmap), ElementsAre(1024));
  bitmap.Set(Pfn(512 * 3));
  EXPECT_EQ(bitmap.count(), 1u);
}

// v12: memory that is hot-added below the base or past the end is not tracked.
TEST(ZoneBitmapTest, OutsideTheSpanNothingIsSet) {
  FullBitmap bitmap({Pfn(512 * 10), Pfn(512 * 20)}, kOrder);
  for (const uint64_t pfn :
       {uint64_t{0}, uint64_t{512 * 9}, uint64_t{512 * 10 - 1},
        uint64_t{512 * 20}, uint64_t{1} << 40}) {
    bitmap.Set(Pfn(pfn));
    EXPECT_FALSE(bitmap.Test(Pfn(pfn))) << pfn;
  }
  EXPECT_EQ(bitmap.count(), 0u);
  EXPECT_THAT(Found(bitmap), IsEmpty());
}

TEST(ZoneBitmapTest, SearchFromBelowTheSpanStartsAtIt) {
  FullBitmap bitmap({Pfn(512 * 10), Pfn(512 * 20)}, kOrder);
  bitmap.Set(Pfn(512 * 10));
  EXPECT_EQ(bitmap.FindNext(Pfn(0)), Pfn(512 * 10));
}

TEST(ZoneBitmapTest, GranularityMayBeASinglePage) {
  FullBitmap bitmap({Pfn(3), Pfn(200)}, Order(0));
  bitmap.Set(Pfn(3));
  bitmap.Set(Pfn(199));
  EXPECT_THAT(Found(bitmap), ElementsAre(3, 199));
}

// Sections ------------------------------------------------------------------

constexpr PageCount kSectionPages = kSectionOrder.pages();
constexpr Pfn SectionStart(uint64_t section) {
  return Pfn(section * kSectionPages.value());
}
constexpr PageCount Pages(uint64_t bytes) {
  return PageCount(bytes / kPageSize);
}

TEST(ZoneBitmapSectionTest, HolesCostNothing) {
  for (int order = 0; order <= kMaxOrder.value(); ++order) {
    SCOPED_TRACE(order);
    const PfnRange memory = {Pfn(0) + Pages(512 * kGiB),
                             Pfn(0) + Pages(513 * kGiB)};
    ZoneBitmap dense(memory, Order(order));
    ZoneBitmap sparse({Pfn(0), Pfn(0) + Pages(kTiB)}, Order(order));
    EXPECT_EQ(sparse.MemoryBytes(), dense.MemoryBytes());
    dense.AddMemory(memory);
    sparse.AddMemory(memory);
    EXPECT_EQ(sparse.MemoryBytes(), dense.MemoryBytes());
  }
}

TEST(ZoneBitmapSectionTest, AGigabyteTakesAsManyBitsAsItHasBlocks) {
  for (int order = 0; order <= kPageblockOrder.value(); ++order) {
    SCOPED_TRACE(order);
    ZoneBitmap bitmap(ZoneBitmap::kAllPages, Order(order));
    // Adding the very first page allocates the table.
    bitmap.AddMemory({Pfn(0), Pfn(1)});
    const size_t before = bitmap.MemoryBytes();
    bitmap.AddMemory({SectionStart(1), SectionStart(1) + Pages(kGiB)});
    EXPECT_EQ(bitmap.MemoryBytes() - before, kGiB / Order(order).bytes() / 8);
  }
}

TEST(ZoneBitmapSectionTest, WhereNoMemoryIsThereAreNoBits) {
  ZoneBitmap bitmap(ZoneBitmap::kAllPages, kOrder);
  bitmap.AddMemory({SectionStart(3), SectionStart(4)});
  for (const uint64_t section : {0, 2, 4, 127, 128, 16383}) {
    bitmap.Set(SectionStart(section));
    EXPECT_FALSE(bitmap.Test(SectionStart(section))) << section;
  }
  EXPECT_EQ(bitmap.count(), 0u);
  EXPECT_EQ(bitmap.FindNext(Pfn(0)), std::nullopt);
}

TEST(ZoneBitmapSectionTest, MemoryOutsideTheSpanGetsNoBits) {
  ZoneBitmap bitmap({SectionStart(10), SectionStart(20)}, kOrder);
  const size_t empty = bitmap.MemoryBytes();
  bitmap.AddMemory({SectionStart(0), SectionStart(10)});
  bitmap.AddMemory({SectionStart(20), SectionStart(30)});
  EXPECT_EQ(bitmap.MemoryBytes(), empty);
  // A part of a section allocates the section's words, but only blocks in the
  // span have bits.
  ZoneBitmap small({Pfn(512 * 2), Pfn(512 * 4)}, kOrder);
  small.AddMemory({Pfn(0), Pfn(512 * 8)});
  for (uint64_t block = 0; block < 8; ++block) small.Set(Pfn(512 * block));
  EXPECT_THAT(Found(small), ElementsAre(512 * 2, 512 * 3));
}

TEST(ZoneBitmapSectionTest, AnEmptySpanHasNoBits) {
  FullBitmap bitmap({Pfn(0), Pfn(0)}, kOrder);
  bitmap.AddMemory({Pfn(0), SectionStart(3)});
  bitmap.Set(Pfn(0));
  EXPECT_EQ(bitmap.count(), 0u);
  EXPECT_EQ(bitmap.FindNext(Pfn(0)), std::nullopt);
}

// The first and the last block of sections near and far, for every order.
TEST(ZoneBitmapSectionTest, FindsAscendingAcrossSectionsAndHoles) {
  for (int value = 0; value <= kMaxOrder.value(); ++value) {
    SCOPED_TRACE(value);
    const Order order(value);
    ZoneBitmap bitmap(ZoneBitmap::kAllPages, order);
    std::vector<uint64_t> expected;
    for (const uint64_t section : {0, 1, 5, 127, 128, 1000, 16383}) {
      const Pfn start = SectionStart(section);
      bitmap.AddMemory({start, start + kSectionPages});
      const Pfn last = start + (kSectionPages - order.pages());
      bitmap.Set(start);
      bitmap.Set(last);
      expected.push_back(start.value());
      expected.push_back(last.value());
    }
    EXPECT_EQ(Found(bitmap), expected);
    EXPECT_EQ(bitmap.CheckInvariants(), absl::OkStatus());
  }
}

TEST(ZoneBitmapSectionTest, MemoryThatIsThereMayBeAddedAgain) {
  ZoneBitmap bitmap(ZoneBitmap::kAllPages, kOrder);
  bitmap.AddMemory({SectionStart(3), SectionStart(4)});
  bitmap.Set(SectionStart(3));
  const size_t bytes = bitmap.MemoryBytes();
  bitmap.AddMemory({SectionStart(3), SectionStart(4)});
  EXPECT_TRUE(bitmap.Test(SectionStart(3)));
  EXPECT_EQ(bitmap.MemoryBytes(), bytes);
}

TEST(ZoneBitmapSectionTest, RemovedMemoryHasNoBitSet) {
  FullBitmap bitmap({SectionStart(0), SectionStart(4)}, kOrder);
  for (uint64_t section = 0; section < 4; ++section) {
    bitmap.Set(SectionStart(section));
    bitmap.Set(SectionStart(section + 1) - kOrder.pages());
  }
  bitmap.RemoveMemory({SectionStart(1), SectionStart(3)});
  EXPECT_EQ(bitmap.count(), 4u);
  EXPECT_THAT(Found(bitmap),
              ElementsAre(0, (SectionStart(1) - kOrder.pages()).value(),
                          SectionStart(3).value(),
                          (SectionStart(4) - kOrder.pages()).value()));
  EXPECT_EQ(bitmap.CheckInvariants(), absl::OkStatus());
  // It may be added again.
  bitmap.AddMemory({SectionStart(1), SectionStart(3)});
  bitmap.Set(SectionStart(1));
  EXPECT_TRUE(bitmap.Test(SectionStart(1)));
}

// A part of a section, down to a single block.
TEST(ZoneBitmapSectionTest, APartOfASectionMayGo) {
  FullBitmap bitmap({Pfn(0), Pfn(64)}, Order(2));
  for (uint64_t pfn = 0; pfn < 64; pfn += 4) bitmap.Set(Pfn(pfn));
  bitmap.RemoveMemory({Pfn(4), Pfn(60)});
  EXPECT_THAT(Found(bitmap), ElementsAre(0, 60));
  bitmap.RemoveMemory({Pfn(0), Pfn(4)});
  EXPECT_THAT(Found(bitmap), ElementsAre(60));
}

TEST(ZoneBitmapDeathTest, ClearsOnlyWhatIsSet) {
  FullBitmap bitmap({Pfn(0), Pfn(512 * 4)}, kOrder);
  EXPECT_DEATH(bitmap.Clear(Pfn(512)), "the bit of pfn 0x200 is not set");
  EXPECT_DEATH(bitmap.Clear(Pfn(512 * 4)), "the bit of pfn 0x800 is not set");
}

// Random programs, compared with a set of block starts.
class ZoneBitmapModelTest : public testing::TestWithParam<uint64_t> {};

TEST_P(ZoneBitmapModelTest, DoesAsASetOfBlocks) {
  Random random(GetParam());
  const Order order(static_cast<int>(random.Below(5)));
  const Pfn start(random.Below(1000));
  const Pfn end = start + PageCount(random.Between(1, 2000));
  SCOPED_TRACE(testing::Message() << "seed " << GetParam() << ", " << order
                                  << ", from " << start << " to " << end);
  FullBitmap bitmap({start, end}, order);
  const auto tracked = [&](Pfn block) {
    return block + order.pages() > start && block < end;
  };
  std::set<Pfn> model;
  for (int step = 0; step < 2000; ++step) {
    const Pfn pfn(random.Below(3500));
    const Pfn block = pfn.AlignDown(order);
    switch (random.Below(3)) {
      case 0:
        bitmap.Set(pfn);
        if (tracked(block)) model.insert(block);
        break;
      case 1:
        if (model.erase(block) > 0) bitmap.Clear(block);
        break;
      default: {
        const auto next = model.lower_bound(pfn);
        ASSERT_EQ(bitmap.FindNext(pfn), next == model.end()
                                            ? std::nullopt
                                            : std::optional<Pfn>(*next))
            << "step " << step << ", from " << pfn;
      }
    }
    ASSERT_EQ(bitmap.Test(pfn), model.contains(block)) << "step " << step;
    ASSERT_EQ(bitmap.count(), model.size()) << "step " << step;
    ASSERT_EQ(bitmap.CheckInvariants(), absl::OkStatus()) << "step " << step;
  }
}

INSTANTIATE_TEST_SUITE_P(Seeds, ZoneBitmapModelTest,
                         testing::Range<uint64_t>(1, 21),
                         testing::PrintToStringParamName());

// Random programs over sections near and far, which are added and removed,
// compared with a set of block starts.
class ZoneBitmapSparseModelTest : public testing::TestWithParam<uint64_t> {};

TEST_P(ZoneBitmapSparseModelTest, DoesAsASetOfBlocks) {
  SCOPED_TRACE(testing::Message() << "seed " << GetParam());
  Random random(GetParam());
  const Order order(static_cast<int>(random.Below(11)));
  ZoneBitmap bitmap(ZoneBitmap::kAllPages, order);
  constexpr std::array<uint64_t, 6> kSections = {0, 1, 2, 128, 300, 16383};
  std::set<Pfn> present;
  std::set<Pfn> model;
  for (int step = 0; step < 2000; ++step) {
    const Pfn start = SectionStart(kSections[random.Below(kSections.size())]);
    const Pfn pfn =
        start + PageCount(random.OneIn(2)
                              ? random.Below(kSectionPages.value())
                              : random.Below(3) * order.pages().value());
    const Pfn block = pfn.AlignDown(order);
    switch (random.Below(20)) {
      case 0:
        bitmap.AddMemory({start, start + kSectionPages});
        present.insert(start);
        break;
      case 1:
        bitmap.RemoveMemory({start, start + kSectionPages});
        model.erase(model.lower_bound(start),
                    model.lower_bound(start + kSectionPages));
        break;
      case 2:
      case 3:
        if (model.erase(block) > 0) bitmap.Clear(block);
        break;
      case 4:
      case 5:
      case 6:
      case 7: {
        const auto next = model.lower_bound(pfn);
        ASSERT_EQ(bitmap.FindNext(pfn), next == model.end()
                                            ? std::nullopt
                                            : std::optional<Pfn>(*next))
            << "step " << step << ", from " << pfn;
        break;
      }
      default:
        bitmap.Set(pfn);
        if (present.contains(start)) model.insert(block);
    }
    ASSERT_EQ(bitmap.Test(pfn), model.contains(block)) << "step " << step;
    ASSERT_EQ(bitmap.count(), model.size()) << "step " << step;
    ASSERT_EQ(bitmap.CheckInvariants(), absl::OkStatus()) << "step " << step;
  }
}

INSTANTIATE_TEST_SUITE_P(Seeds, ZoneBitmapSparseModelTest,
                         testing::Range<uint64_t>(1, 21),
                         testing::PrintToStringParamName());

// Memory is added, marked and removed during a search, which takes no lock. The
// search finds only marked blocks.
TEST(ZoneBitmapThreadsTest, MemoryComesAndGoesDuringASearch) {
  ZoneBitmap bitmap(ZoneBitmap::kAllPages, kOrder);
  SpinLock lock;
  std::atomic<bool> stop = false;
  std::thread search([&] {
    while (!stop) {
      for (std::optional<Pfn> at = bitmap.FindNext(Pfn(0)); at;
           at = bitmap.FindNext(*at + PageCount(1))) {
        EXPECT_EQ(at->AlignDown(kSectionOrder) + kOrder.pages() * 3, *at);
      }
    }
  });
  for (uint64_t round = 0; round < 2; ++round) {
    for (uint64_t section = 0; section < 1000; section += 7) {
      const PfnRange range = {SectionStart(section), SectionStart(section + 1)};
      bitmap.AddMemory(range);
      LockHolder hold(lock);
      bitmap.Set(range.start + kOrder.pages() * 3);
      if (section >= 70) {
        bitmap.RemoveMemory({SectionStart(section - 70), range.start});
        bitmap.Set(SectionStart(section - 70) + kOrder.pages() * 3);
      }
    }
  }
  stop = true;
  search.join();
  EXPECT_EQ(bitmap.CheckInvariants(), absl::OkStatus());
}

// Defect (h) of v12, mended: the counter equals the set bits although frees set
// bits while a scan clears them, since both hold the zone's lock. The search
// takes no lock.
TEST(ZoneBitmapThreadsTest, CounterEqualsBitsUnderConcurrency) {
  constexpr int kBlocks = 256;
  FullBitmap bitmap({Pfn(0), Pfn(512 * kBlocks)}, kOrder);
  SpinLock lock;
  std::atomic<bool> stop = false;
  std::vector<std::thread> freeing;
  for (uint64_t seed = 0; seed < 2; ++seed) {
    freeing.emplace_back([&, seed] {
      Random random(seed);
      for (int i = 0; i < 20000; ++i) {
        LockHolder hold(lock);
        bitmap.Set(Pfn(512 * random.Below(kBlocks)));
      }
    });
  }
  std::thread scan([&] {
    while (!stop) {
      for (std::optional<Pfn> at = bitmap.FindNext(Pfn(0)); at;
           at = bitmap.FindNext(*at + PageCount(1))) {
        LockHolder hold(lock);
        bitmap.Clear(*at);
      }
    }
  });
  for (std::thread& thread : freeing) thread.join();
  stop = true;
  scan.join();
  EXPECT_EQ(bitmap.CheckInvariants(), absl::OkStatus());
  EXPECT_EQ(bitmap.count(), Found(bitmap).size());
}

}  // namespace
}  // namespace guestmm::zone_bitmap_test
