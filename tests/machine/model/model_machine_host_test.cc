// What the host does to a ModelMachine's guest while reports are under way.

#include <gtest/gtest.h>

#include <array>
#include <chrono>
#include <memory>
#include <optional>
#include <utility>

#include "guestmm/base/memory_map.h"
#include "guestmm/base/virtual_time.h"
#include "guestmm/machine/model/model_machine.h"
#include "guestmm/mechanism/mechanisms.h"
#include "guestmm/reporting/reporter.h"
#include "tests/testing/planted_policies.h"

namespace guestmm::model_machine_host_test {
namespace {

using std::chrono::seconds;

class ModelMachineHostTest : public testing::Test {
 protected:
  void Start(ReportingMechanism::MakeReportingPolicy make_policy,
             ModelMachineOptions options = {}) {
    options.memory = MemoryMap::Pc(256 * kMiB);
    machine_ = ModelMachine::Create(options, time_).value();
    ASSERT_EQ(machine_->StartMechanism(std::make_unique<ReportingMechanism>(
                  "reporting:made", std::move(make_policy))),
              absl::OkStatus());
  }
  bool WaitForAReport() {
    return time_.WaitUntil(
        [&] { return machine_->reporter()->in_flight_pages() > PageCount(0); },
        seconds(10));
  }

  VirtualTime time_{1};
  std::unique_ptr<ModelMachine> machine_;
};

auto Linux(const char* order) {
  return [order] {
    return MakePolicy({.name = "linux", .parameters = {{"order", order}}},
                      PolicyContext(kPageblockOrder));
  };
}

// Touches a huge page, and frees its second half.
class HalfFreed final : public Workload {
 public:
  std::optional<Nanoseconds> Step(Vcpu& vcpu) override {
    kept_ = vcpu.Allocate(Order(8)).value();
    const Pfn freed = vcpu.Allocate(Order(8)).value();
    EXPECT_EQ(freed, kept_ + Order(8).pages());
    for (const Pfn half : {kept_, freed}) {
      vcpu.Touch(half, Order(8), /*stamp=*/1);
    }
    vcpu.Free(freed, Order(8));
    return std::nullopt;
  }
  uint64_t work() const override { return 0; }
  Pfn kept() const { return kept_; }

 private:
  Pfn kept_;
};

// khugepaged visits 4096 pages every 10 s.
TEST_F(ModelMachineHostTest, TheFootprintChangesWithEachCollapse) {
  Start(Linux("5"),
        {.memory = {}, .granule = kPageblockOrder, .khugepaged = true});
  HalfFreed workload;
  machine_->StartWorkloads(std::array<Workload*, 1>{&workload});
  // Until long after it, and without an event of the guest's.
  machine_->RunUntil(seconds(300));
  const auto collapsed =
      1e7 * static_cast<double>(workload.kept().value() / 4096 + 1);
  ASSERT_EQ(machine_->discards().size(), 1U);
  const auto discarded =
      static_cast<double>(machine_->discards().front().when.count()) / 1000;
  EXPECT_NEAR(
      machine_->footprint().resident.page_microseconds(),
      512 * discarded + 256 * (collapsed - discarded) + 512 * (3e8 - collapsed),
      512 * 2);
}

TEST_F(ModelMachineHostTest, PagesThatAreReportedAreNoViolation) {
  Start(Linux("9"));
  ASSERT_TRUE(WaitForAReport());
  EXPECT_EQ(machine_->CheckInvariants(), absl::OkStatus());
}

// A block that is reported is in use again before the report has ended.
TEST_F(ModelMachineHostTest, APageInUseThatIsDiscardedIsItsError) {
  Start([] { return std::make_unique<HastyPolicy>(); });
  Vcpu& vcpu = machine_->vcpu(0);
  const Pfn first = vcpu.Allocate(kMaxOrder).value();
  const Pfn second = vcpu.Allocate(kMaxOrder).value();
  vcpu.Free(first, kMaxOrder);
  ASSERT_TRUE(WaitForAReport());
  vcpu.Free(second, kMaxOrder);  // takes it back
  std::optional<Pfn> taken;
  do {
    taken = vcpu.Allocate(kMaxOrder);
    ASSERT_TRUE(taken.has_value());
  } while (taken != first);
  vcpu.Touch(first, kMaxOrder, /*stamp=*/1);
  EXPECT_EQ(machine_->status(), absl::OkStatus());
  time_.RunFor(seconds(1));
  EXPECT_TRUE(absl::IsDataLoss(machine_->status())) << machine_->status();
}

}  // namespace
}  // namespace guestmm::model_machine_host_test
