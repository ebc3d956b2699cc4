#include "guestmm/host/discard/counting_hypervisor.h"

#include <gtest/gtest.h>

#include <memory>

#include "guestmm/host/discard/discarding_hypervisor.h"
#include "guestmm/ram/guest_ram.h"

namespace guestmm::counting_hypervisor_test {
namespace {

TEST(CountingHypervisorTest, CountsBatchesAndForwardsThem) {
  const auto ram = GuestRam::Create({.regions = {{Gpa(0), 4 * kMiB}}}).value();
  CountingHypervisor hypervisor(std::make_unique<DiscardingHypervisor>(*ram));
  EXPECT_EQ(hypervisor.Discard({{{Gpa(0), kMiB}, {Gpa(2 * kMiB), kMiB}}}),
            absl::OkStatus());
  EXPECT_EQ(hypervisor.batches(), 1u);
  EXPECT_EQ(hypervisor.counters().bytes, 2 * kMiB);
  // Failed batches count, too.
  EXPECT_EQ(hypervisor.Discard({{{Gpa(kGiB), kMiB}}}).code(),
            absl::StatusCode::kOutOfRange);
  EXPECT_EQ(hypervisor.batches(), 2u);
  EXPECT_EQ(hypervisor.counters().bytes, 2 * kMiB);
}

}  // namespace
}  // namespace guestmm::counting_hypervisor_test
