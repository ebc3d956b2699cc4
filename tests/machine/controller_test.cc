#include "guestmm/machine/controller.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "guestmm/base/memory_map.h"
#include "guestmm/base/virtual_time.h"
#include "guestmm/machine/model/model_machine.h"

namespace guestmm::controller_test {
namespace {

using std::chrono::seconds;
using testing::ElementsAre;
using testing::IsEmpty;

// Writes down its targets.
class TargetLog final : public Mechanism {
 public:
  explicit TargetLog(std::vector<uint64_t>& targets) : targets_(targets) {}

  std::string_view name() const override { return "log"; }
  std::string text() const override { return "log"; }
  absl::Status Start(Machine&) override { return absl::OkStatus(); }
  void Stop() override {}
  bool AtRest() const override { return true; }
  void SetTarget(uint64_t bytes) override { targets_.push_back(bytes); }
  MechanismCounters counters() const override { return {}; }
  absl::Status CheckInvariants() const override { return absl::OkStatus(); }

 private:
  std::vector<uint64_t>& targets_;
};

// Leaves the guest what it has allocated and half of what the host has
// available; nothing if the host has plenty.
class HalfOfAvailable final : public Controller {
 public:
  std::string_view name() const override { return "half"; }
  std::optional<uint64_t> Target(Nanoseconds, const GuestView& guest,
                                 const HostView& host) override {
    seen = guest;
    if (host.available >= host.capacity) return std::nullopt;
    return guest.allocated + host.available / 2;
  }
  GuestView seen;
};

class ControllerTest : public testing::Test {
 protected:
  VirtualTime time_{1};
  std::vector<uint64_t> targets_;
  HalfOfAvailable controller_;
  HostView host_ = {.capacity = kGiB, .available = kGiB};
  std::unique_ptr<ModelMachine> machine_ =
      ModelMachine::Create({.memory = MemoryMap::Pc(64 * kMiB)}, time_).value();
};

TEST_F(ControllerTest, EachNewTargetGoesToTheMechanismOnce) {
  ASSERT_TRUE(
      machine_->StartMechanism(std::make_unique<TargetLog>(targets_)).ok());
  const ControlLoop loop(
      *machine_, controller_, [this] { return host_; }, time_, seconds(1));
  machine_->RunUntil(seconds(3));
  EXPECT_THAT(targets_, IsEmpty());

  host_.available = 32 * kMiB;
  machine_->RunUntil(seconds(6));
  EXPECT_THAT(targets_, ElementsAre(16 * kMiB));

  const Pfn pfn = machine_->vcpu(0).Allocate(kPageblockOrder).value();
  machine_->vcpu(0).Touch(pfn, kPageblockOrder, /*stamp=*/1);
  machine_->RunUntil(seconds(8));
  EXPECT_THAT(targets_, ElementsAre(16 * kMiB, 18 * kMiB));
}

TEST_F(ControllerTest, TheControllerSeesTheGuest) {
  const Pfn pfn = machine_->vcpu(0).Allocate(kPageblockOrder).value();
  machine_->vcpu(0).Touch(pfn, kPageblockOrder, /*stamp=*/1);
  // Pages on the vCPU's lists are neither free nor allocated.
  machine_->vcpu(0).Free(machine_->vcpu(0).Allocate(Order(0)).value(),
                         Order(0));
  const PageCount cached = machine_->allocator().Counts().cached;
  ASSERT_GT(cached, PageCount(0));
  const ControlLoop loop(
      *machine_, controller_, [this] { return host_; }, time_, seconds(1));
  machine_->RunUntil(seconds(1));
  EXPECT_EQ(controller_.seen.managed, 64 * kMiB);
  EXPECT_EQ(controller_.seen.allocated, 2 * kMiB);
  EXPECT_EQ(controller_.seen.resident, 2 * kMiB);
  EXPECT_EQ(controller_.seen.free, 62 * kMiB - cached.bytes());
}

TEST_F(ControllerTest, TheFirstTargetIsSetAtOnce) {
  ASSERT_TRUE(
      machine_->StartMechanism(std::make_unique<TargetLog>(targets_)).ok());
  host_.available = 32 * kMiB;
  const ControlLoop loop(
      *machine_, controller_, [this] { return host_; }, time_, seconds(1));
  machine_->RunUntil(std::chrono::milliseconds(1));
  EXPECT_THAT(targets_, ElementsAre(16 * kMiB));
}

TEST_F(ControllerTest, WithoutAMechanismNoTargetIsSet) {
  host_.available = 0;
  const ControlLoop loop(
      *machine_, controller_, [this] { return host_; }, time_, seconds(1));
  machine_->RunUntil(seconds(2));
  EXPECT_THAT(targets_, IsEmpty());
}

TEST_F(ControllerTest, EndsWithTheLoop) {
  ASSERT_TRUE(
      machine_->StartMechanism(std::make_unique<TargetLog>(targets_)).ok());
  {
    const ControlLoop loop(
        *machine_, controller_, [this] { return host_; }, time_, seconds(1));
  }
  host_.available = 0;
  time_.RunUntilIdle();
  EXPECT_THAT(targets_, IsEmpty());
}

}  // namespace
}  // namespace guestmm::controller_test
