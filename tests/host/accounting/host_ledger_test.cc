#include "guestmm/host/accounting/host_ledger.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <vector>

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
  EXPECT_EQ(ledger.OnTouched(Pfn(8), Order(2), milliseconds(0)), 4u);
  EXPECT_EQ(ledger.OnTouched(Pfn(8), Order(3), milliseconds(0)), 4u);
  EXPECT_EQ(ledger.resident_pages(), PageCount(8));
  EXPECT_EQ(ledger.ResidentPages(Pfn(0), Order(4)), PageCount(8));
}

TEST(HostLedgerTest, ATouchMakesAllOfAHugePageResident) {
  HostLedger ledger(kEnd, kPageblockOrder);
  EXPECT_EQ(ledger.OnTouched(Pfn(513), Order(0), milliseconds(0)), 1u);
  EXPECT_EQ(ledger.OnTouched(Pfn(514), Order(1), milliseconds(0)), 0u);
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

TEST(HostLedgerTest, LessThanAGranuleIsNeitherDiscardedNorNeeded) {
  HostLedger ledger(kEnd, kPageblockOrder);
  ledger.OnTouched(Pfn(0), Order(10), milliseconds(0));
  Report(ledger, {Pages(0, 256), Pages(768, 256)});
  EXPECT_EQ(ledger.resident_pages(), PageCount(1024));
  EXPECT_EQ(ledger.counters().needed_bytes, 0u);
  // Adjacent ranges of one report count as one.
  Report(ledger, {Pages(256, 256), Pages(0, 256)});
  EXPECT_EQ(ledger.resident_pages(), PageCount(512));
  EXPECT_EQ(ledger.counters().needed_bytes, PageCount(512).bytes());
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
  // Less than a granule: nothing is discarded.
  EXPECT_EQ(ledger.FirstInUse(std::vector{Pages(512, 256)}), std::nullopt);
  ledger.OnFreed(Pfn(520), Order(1));
  EXPECT_EQ(ledger.FirstInUse(ranges), std::nullopt);
}

TEST(HostLedgerTest, CountsPagesInUse) {
  HostLedger ledger(kEnd, kPageblockOrder);
  ledger.OnTouched(Pfn(520), Order(3), milliseconds(0));
  ledger.OnTouched(Pfn(522), Order(1), milliseconds(0));
  Report(ledger, {Pages(512, 512)});
  EXPECT_EQ(ledger.InUsePages(Pfn(512), kPageblockOrder), PageCount(8));
  ledger.OnFreed(Pfn(520), Order(2));
  EXPECT_EQ(ledger.InUsePages(Pfn(520), Order(3)), PageCount(4));
  EXPECT_EQ(ledger.InUsePages(Pfn(520), Order(2)), PageCount(0));
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
