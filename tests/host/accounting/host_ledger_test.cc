#include "guestmm/host/accounting/host_ledger.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <vector>

#include "guestmm/base/random.h"

namespace guestmm::host_ledger_test {
namespace {

using std::chrono::milliseconds;
using testing::ElementsAre;
using testing::IsEmpty;

constexpr Pfn kEnd(2048);

GpaRange Pages(uint64_t first, uint64_t count) {
  return {.gpa = ToGpa(Pfn(first)), .bytes = PageCount(count).bytes()};
}

void Report(HostLedger& ledger, std::vector<GpaRange> ranges,
            Nanoseconds now = Nanoseconds(0)) {
  ledger.OnReported(ranges, now);
}

TEST(HostLedgerTest, ATouchMakesWhatItTouchesResident) {
  HostLedger ledger(kEnd, Order(0));
  EXPECT_EQ(ledger.OnTouched(Pfn(8), Order(2), milliseconds(0)),
            HostMappings{.pages = 4});
  EXPECT_EQ(ledger.OnTouched(Pfn(8), Order(3), milliseconds(0)),
            HostMappings{.pages = 4});
  EXPECT_EQ(ledger.resident_pages(), PageCount(8));
  EXPECT_EQ(ledger.ResidentPages(Pfn(0), Order(4)), PageCount(8));
}

TEST(HostLedgerTest, ATouchMakesAllOfAHugePageResident) {
  HostLedger ledger(kEnd, kPageblockOrder);
  EXPECT_EQ(ledger.OnTouched(Pfn(513), Order(0), milliseconds(0)),
            HostMappings{.granules = 1});
  EXPECT_EQ(ledger.OnTouched(Pfn(514), Order(1), milliseconds(0)),
            HostMappings());
  EXPECT_EQ(ledger.resident_pages(), PageCount(512));
  EXPECT_EQ(ledger.ResidentPages(Pfn(512), Order(3)), PageCount(8));
  EXPECT_EQ(ledger.ResidentPages(Pfn(0), Order(10)), PageCount(512));
}

TEST(HostLedgerTest, AReportTakesItBack) {
  HostLedger ledger(kEnd, Order(0));
  ledger.OnTouched(Pfn(0), Order(5), milliseconds(0));
  Report(ledger, {Pages(16, 32)});
  EXPECT_EQ(ledger.resident_pages(), PageCount(16));
  EXPECT_EQ(ledger.counters().discarded_bytes, PageCount(16).bytes());
  EXPECT_EQ(ledger.counters().reported_bytes, PageCount(32).bytes());
}

TEST(HostLedgerTest, EverythingNeedsReportingOnceAndAgainWhenItWasAllocated) {
  HostLedger ledger(kEnd, Order(0));
  Report(ledger, {Pages(0, 512)});
  EXPECT_EQ(ledger.counters().needed_bytes, PageCount(512).bytes());
  Report(ledger, {Pages(0, 512)});
  EXPECT_EQ(ledger.counters().needed_bytes, PageCount(512).bytes());
  ledger.OnAllocated(Pfn(8), Order(1));
  Report(ledger, {Pages(0, 512)});
  EXPECT_EQ(ledger.counters().needed_bytes, PageCount(514).bytes());
  EXPECT_EQ(ledger.counters().reported_bytes, PageCount(3 * 512).bytes());
}

// What the kernel does was read from mincore: Linux 6.18, a private mapping
// with MADV_HUGEPAGE, the same touches and calls of madvise.
TEST(HostLedgerTest, ADiscardOfAPartSplitsAHugePage) {
  HostLedger ledger(kEnd, kPageblockOrder);
  ledger.OnTouched(Pfn(0), Order(0), milliseconds(0));
  EXPECT_EQ(ledger.SplitBy({.start = Pfn(0), .end = Pfn(256)}), 1u);
  Report(ledger, {Pages(0, 256)});
  EXPECT_EQ(ledger.resident_pages(), PageCount(256));
  EXPECT_EQ(ledger.SplitBy({.start = Pfn(256), .end = Pfn(300)}), 0u);
  // From now on it is mapped page by page, even with nothing left of it.
  EXPECT_EQ(ledger.OnTouched(Pfn(0), Order(0), milliseconds(0)),
            HostMappings{.pages = 1});
  EXPECT_EQ(ledger.resident_pages(), PageCount(257));
  Report(ledger, {Pages(0, 256)});
  Report(ledger, {Pages(256, 256)});
  EXPECT_EQ(ledger.resident_pages(), PageCount(0));
  EXPECT_EQ(ledger.OnTouched(Pfn(0), Order(0), milliseconds(0)),
            HostMappings{.pages = 1});
  // Until all of it is discarded at once, in one range or in adjacent ones.
  Report(ledger, {Pages(256, 256), Pages(0, 256)});
  EXPECT_EQ(ledger.OnTouched(Pfn(0), Order(0), milliseconds(0)),
            HostMappings{.granules = 1});
  EXPECT_EQ(ledger.resident_pages(), PageCount(512));
}

// Of a page that is not mapped, there is nothing to split.
TEST(HostLedgerTest, ADiscardOfAPartOfNothingSplitsNothing) {
  HostLedger ledger(kEnd, kPageblockOrder);
  Report(ledger, {Pages(0, 256)});
  EXPECT_EQ(ledger.OnTouched(Pfn(300), Order(0), milliseconds(0)),
            HostMappings{.granules = 1});
}

// Its pages have no table of their own, so the next touch finds no trace.
TEST(HostLedgerTest, ASmallerGranuleIsWholeAgainOnceNothingOfItIsMapped) {
  HostLedger ledger(kEnd, Order(4));
  EXPECT_EQ(ledger.OnTouched(Pfn(19), Order(0), milliseconds(0)),
            HostMappings{.granules = 1});
  Report(ledger, {Pages(16, 8)});
  EXPECT_EQ(ledger.OnTouched(Pfn(16), Order(1), milliseconds(0)),
            HostMappings{.pages = 2});
  Report(ledger, {Pages(16, 8)});
  Report(ledger, {Pages(24, 8)});
  EXPECT_EQ(ledger.OnTouched(Pfn(16), Order(1), milliseconds(0)),
            HostMappings{.granules = 1});
  EXPECT_EQ(ledger.resident_pages(), PageCount(16));
}

TEST(HostLedgerTest, KnowsWhatADiscardWouldUnmap) {
  HostLedger ledger(kEnd, kPageblockOrder);
  for (const uint64_t touched : {0, 512, 1536}) {
    ledger.OnTouched(Pfn(touched), Order(0), milliseconds(0));
  }
  Report(ledger, {Pages(512, 500)});
  const PfnRange run = {.start = Pfn(100), .end = Pfn(2000)};
  // All but 100 of the first, the 12 left of the second, nothing of the third,
  // all but 48 of the last.
  EXPECT_EQ(ledger.MappedIn(run), HostMappings{.pages = 412 + 12 + 464});
  EXPECT_EQ(ledger.SplitBy(run), 2u);
  const PfnRange all = {.start = Pfn(0), .end = Pfn(2048)};
  EXPECT_EQ(ledger.MappedIn(all), (HostMappings{.granules = 2, .pages = 12}));
  EXPECT_EQ(ledger.SplitBy(all), 0u);
}

// A page of a huge page needs a report if any page of that was touched, for it
// is resident; of a split one, only if it was allocated itself.
TEST(HostLedgerTest, WhatATouchMapsNeedsReporting) {
  HostLedger ledger(kEnd, kPageblockOrder);
  const auto report = [&](uint64_t first, uint64_t count) {
    const uint64_t before = ledger.counters().needed_bytes;
    Report(ledger, {Pages(first, count)});
    return (ledger.counters().needed_bytes - before) / kPageSize;
  };
  EXPECT_EQ(report(0, 512), 512u);
  EXPECT_EQ(report(0, 512), 0u);
  ledger.OnAllocated(Pfn(7), Order(0));  // not touched yet
  EXPECT_EQ(report(256, 256), 256u);
  ledger.OnTouched(Pfn(7), Order(0), milliseconds(0));
  EXPECT_EQ(report(256, 256), 256u);
  ledger.OnAllocated(Pfn(256), Order(1));
  ledger.OnTouched(Pfn(256), Order(1), milliseconds(0));
  EXPECT_EQ(report(256, 256), 2u);
}

TEST(HostLedgerTest, ACollapseMakesASplitGranuleWhole) {
  HostLedger ledger(kEnd, kPageblockOrder);
  EXPECT_FALSE(ledger.OnCollapsed(Pfn(0)));  // nothing is mapped
  ledger.OnTouched(Pfn(0), Order(0), milliseconds(0));
  EXPECT_FALSE(ledger.OnCollapsed(Pfn(0)));  // it is whole
  Report(ledger, {Pages(1, 511)});
  EXPECT_EQ(ledger.resident_pages(), PageCount(1));
  EXPECT_TRUE(ledger.OnCollapsed(Pfn(5)));
  EXPECT_EQ(ledger.resident_pages(), PageCount(512));
  EXPECT_EQ(ledger.SplitBy({.start = Pfn(1), .end = Pfn(2)}), 1u);
  const uint64_t needed = ledger.counters().needed_bytes;
  Report(ledger, {Pages(1, 511)});
  EXPECT_EQ(ledger.counters().needed_bytes - needed, 511 * kPageSize);
  // Of nothing but a page table there is nothing to collapse.
  Report(ledger, {Pages(0, 1)});
  EXPECT_FALSE(ledger.OnCollapsed(Pfn(0)));
}

TEST(HostLedgerTest, AFaultOnAHugePageIsOneRefault) {
  HostLedger ledger(kEnd, kPageblockOrder);
  ledger.OnTouched(Pfn(0), Order(0), milliseconds(0));
  Report(ledger, {Pages(0, 512)}, milliseconds(500));
  ledger.OnTouched(Pfn(0), kPageblockOrder, milliseconds(600));
  EXPECT_EQ(ledger.counters().refaults, 1u);
  Report(ledger, {Pages(0, 8)}, milliseconds(700));
  ledger.OnTouched(Pfn(0), Order(4), milliseconds(800));
  EXPECT_EQ(ledger.counters().refaults, 1u + 8);
}

TEST(HostLedgerTest, ATouchWithinASecondOfTheDiscardIsARefault) {
  HostLedger ledger(kEnd, Order(0));
  ledger.OnTouched(Pfn(0), Order(3), milliseconds(0));
  Report(ledger, {Pages(0, 8)}, milliseconds(500));
  ledger.OnTouched(Pfn(0), Order(1), milliseconds(1499));
  EXPECT_EQ(ledger.counters().refaults, 2u);
  ledger.OnTouched(Pfn(0), Order(3), milliseconds(1500));
  EXPECT_EQ(ledger.counters().refaults, 2u);
  // It was never discarded, since it was not resident.
  Report(ledger, {Pages(64, 8)}, milliseconds(1500));
  ledger.OnTouched(Pfn(64), Order(3), milliseconds(1501));
  EXPECT_EQ(ledger.counters().refaults, 2u);
}

TEST(HostLedgerTest, FindsWhatIsInUse) {
  HostLedger ledger(kEnd, kPageblockOrder);
  const std::vector<GpaRange> ranges = {Pages(512, 512)};
  EXPECT_EQ(ledger.FirstInUse(ranges), std::nullopt);
  ledger.OnTouched(Pfn(520), Order(1), milliseconds(0));
  EXPECT_EQ(ledger.FirstInUse(ranges), Pfn(520));
  EXPECT_TRUE(ledger.InUse(Pfn(521)));
  EXPECT_FALSE(ledger.InUse(Pfn(522)));
  // A discard of a part of a granule hits only that.
  EXPECT_EQ(ledger.FirstInUse(std::vector{Pages(512, 8)}), std::nullopt);
  EXPECT_EQ(ledger.FirstInUse(std::vector{Pages(512, 9)}), Pfn(520));
  ledger.OnFreed(Pfn(520), Order(1));
  EXPECT_EQ(ledger.FirstInUse(ranges), std::nullopt);
}

TEST(HostLedgerTest, CountsPagesInUse) {
  HostLedger ledger(kEnd, kPageblockOrder);
  ledger.OnTouched(Pfn(520), Order(3), milliseconds(0));
  ledger.OnTouched(Pfn(522), Order(1), milliseconds(0));
  Report(ledger, {Pages(512, 512)});
  EXPECT_EQ(ledger.in_use_pages(), PageCount(8));
  ledger.OnFreed(Pfn(520), Order(2));
  EXPECT_EQ(ledger.in_use_pages(), PageCount(4));
  EXPECT_FALSE(ledger.InUse(Pfn(523)));
  EXPECT_TRUE(ledger.InUse(Pfn(524)));
  ledger.OnFreed(Pfn(520), Order(2));
  EXPECT_EQ(ledger.in_use_pages(), PageCount(4)) << "freed already";
}

TEST(HostLedgerTest, WhatIsUnpluggedIsNotResidentAndCountsAsNoReport) {
  HostLedger ledger(kEnd, kPageblockOrder);
  ledger.OnTouched(Pfn(0), kPageblockOrder, milliseconds(0));
  ledger.OnTouched(Pfn(1024), kPageblockOrder, milliseconds(0));
  Report(ledger, {Pages(1536, 512)});
  ledger.OnFreed(Pfn(1024), kPageblockOrder);
  ledger.OnUnplugged({Pfn(1024), Pfn(2048)});
  EXPECT_EQ(ledger.resident_pages(), PageCount(512));
  EXPECT_EQ(ledger.counters().reported_bytes, 2 * kMiB);
  EXPECT_EQ(ledger.counters().discarded_bytes, 0u);
  // It is other memory if it comes back.
  Report(ledger, {Pages(1536, 512)});
  EXPECT_EQ(ledger.counters().needed_bytes, 4 * kMiB);
}

TEST(HostLedgerTest, SinglePagesAreUnplugged) {
  HostLedger ledger(kEnd, Order(0));
  ledger.OnTouched(Pfn(1023), Order(0), milliseconds(0));
  ledger.OnTouched(Pfn(1024), Order(0), milliseconds(0));
  ledger.OnFreed(Pfn(1024), Order(0));
  ledger.OnUnplugged({Pfn(1024), Pfn(2048)});
  EXPECT_EQ(ledger.resident_pages(), PageCount(1));
}

// The same host, page by page and without a clever line.
struct NaiveHost {
  explicit NaiveHost(Order its_granule)
      : granule(its_granule),
        resident(kEnd.value(), false),
        needed(kEnd.value(), true),
        split(kEnd.value(), false) {}

  uint64_t First(uint64_t page) const {
    return Pfn(page).AlignDown(granule).value();
  }
  uint64_t Size() const { return granule.pages().value(); }
  uint64_t MappedOf(uint64_t page) const {
    uint64_t count = 0;
    for (uint64_t i = 0; i < Size(); ++i) count += resident[First(page) + i];
    return count;
  }
  bool MapsAll(uint64_t page) const {
    return !split[First(page)] && MappedOf(page) == 0;
  }
  void Need(uint64_t page, bool all) {
    needed[page] = true;
    for (uint64_t i = 0; all && i < Size(); ++i) needed[First(page) + i] = true;
  }

  void Allocate(uint64_t page) { Need(page, MapsAll(page)); }
  void Touch(uint64_t page, HostMappings& faults) {
    if (resident[page]) return;
    if (!MapsAll(page) || Size() == 1) {
      resident[page] = true;
      ++faults.pages;
      return;
    }
    ++faults.granules;
    for (uint64_t i = 0; i < Size(); ++i) resident[First(page) + i] = true;
    Need(page, true);
  }
  void Discard(uint64_t first, uint64_t end) {
    for (uint64_t page = first; page < end; ++page) {
      const bool whole = First(page) >= first && First(page) + Size() <= end;
      if (resident[page] && !whole) split[First(page)] = true;
      if (resident[page]) ++discarded;
      if (needed[page]) ++reports_needed;
      resident[page] = needed[page] = false;
      const bool has_table = Size() == 512;
      if (whole || (!has_table && MappedOf(page) == 0))
        split[First(page)] = false;
    }
  }
  void Collapse(uint64_t page) {
    if (!split[First(page)] || MappedOf(page) == 0) return;
    for (uint64_t i = 0; i < Size(); ++i) resident[First(page) + i] = true;
    Need(page, true);
    split[First(page)] = false;
  }

  const Order granule;
  std::vector<bool> resident;
  std::vector<bool> needed;
  std::vector<bool> split;  // at the granule's first page
  uint64_t discarded = 0;
  uint64_t reports_needed = 0;
};

TEST(HostLedgerTest, IsAsANaiveHost) {
  for (const Order granule : {Order(0), Order(1), Order(4), Order(9)}) {
    for (uint64_t seed = 1; seed <= 5; ++seed) {
      SCOPED_TRACE(testing::Message() << granule << ", seed " << seed);
      Random random(seed);
      HostLedger ledger(kEnd, granule);
      NaiveHost naive(granule);
      for (int step = 0; step < 1500; ++step) {
        const Order order(static_cast<int>(random.Below(11)));
        const Pfn pfn = Pfn(random.Below(kEnd.value())).AlignDown(order);
        const uint64_t first = pfn.value();
        const uint64_t end = first + order.pages().value();
        switch (random.Below(8)) {
          case 0:
            ledger.OnAllocated(pfn, order);
            for (uint64_t page = first; page < end; ++page)
              naive.Allocate(page);
            break;
          case 1:
            ledger.OnCollapsed(pfn);
            if (granule > Order(0)) naive.Collapse(first);
            break;
          case 2:
          case 3: {
            HostMappings faults;
            for (uint64_t page = first; page < end; ++page) {
              naive.Touch(page, faults);
            }
            ASSERT_EQ(ledger.OnTouched(pfn, order, milliseconds(0)), faults);
            break;
          }
          default: {
            // Any run, in two ranges.
            const uint64_t start = random.Below(kEnd.value() - 1);
            const uint64_t most = random.OneIn(4) ? kEnd.value() : 40;
            const uint64_t count =
                2 + random.Below(std::min(most, kEnd.value() - start - 1));
            Report(ledger, {Pages(start + 1, count - 1), Pages(start, 1)});
            naive.Discard(start, start + count);
          }
        }
        for (uint64_t page = 0; page < kEnd.value(); ++page) {
          ASSERT_EQ(ledger.ResidentPages(Pfn(page), Order(0)).value(),
                    naive.resident[page])
              << "page " << page << ", step " << step;
        }
        ASSERT_EQ(ledger.resident_pages(),
                  ledger.ResidentPages(Pfn(0), Order(11)));
        ASSERT_EQ(ledger.counters().discarded_bytes,
                  naive.discarded * kPageSize);
        ASSERT_EQ(ledger.counters().needed_bytes,
                  naive.reports_needed * kPageSize);
      }
    }
  }
}

TEST(HostLedgerTest, RangesThatAdjoinAreOneRun) {
  EXPECT_THAT(JoinRanges({}), IsEmpty());
  const std::vector<GpaRange> ranges = {Pages(8, 8), Pages(32, 1), Pages(0, 8)};
  EXPECT_THAT(JoinRanges(ranges),
              ElementsAre(PfnRange{.start = Pfn(0), .end = Pfn(16)},
                          PfnRange{.start = Pfn(32), .end = Pfn(33)}));
}

}  // namespace
}  // namespace guestmm::host_ledger_test
