#include "src/host/accounting/ledger_hypervisor.h"

#include <gtest/gtest.h>

#include <memory>
#include <vector>

#include "guestmm/base/virtual_time.h"
#include "guestmm/host/discard/null_hypervisor.h"
#include "tests/testing/test_hypervisors.h"

namespace guestmm::ledger_hypervisor_test {
namespace {

TEST(LedgerHypervisorTest, BooksWhatWasDiscardedAndNothingThatFailed) {
  NullHypervisor null;
  VirtualTime time(/*seed=*/1);
  HostLedger ledger(Pfn(1024), Order(0));
  ledger.OnTouched(Pfn(0), Order(3), Nanoseconds(0));
  LedgerHypervisor hypervisor(
      std::make_unique<FailingHypervisor>(
          null, [](uint64_t discard) { return discard == 0; }),
      ledger, time);
  const std::vector<GpaRange> pages = {
      {.gpa = Gpa(0), .bytes = PageCount(8).bytes()}};

  EXPECT_TRUE(absl::IsUnavailable(hypervisor.Discard(pages)));
  EXPECT_EQ(ledger.resident_pages(), PageCount(8));
  EXPECT_EQ(ledger.counters().reported_bytes, 0u);
  ASSERT_EQ(hypervisor.discards().size(), 1u);
  EXPECT_EQ(hypervisor.discards()[0].bytes, 0u);

  EXPECT_EQ(hypervisor.Discard(pages), absl::OkStatus());
  EXPECT_EQ(ledger.resident_pages(), PageCount(0));
  EXPECT_EQ(hypervisor.discards()[1].bytes, PageCount(8).bytes());
}

}  // namespace
}  // namespace guestmm::ledger_hypervisor_test
