#include "src/experiment/compare/work_meter.h"

#include <gtest/gtest.h>

#include <chrono>
#include <memory>
#include <utility>
#include <vector>

#include "guestmm/buddy/page_allocator.h"
#include "guestmm/machine/backing.h"

namespace guestmm::work_meter_test {
namespace {

using std::chrono::seconds;

// Nothing is behind its pages.
class NoBacking final : public Backing {
 public:
  void Touch(int, Pfn, Order, uint64_t) override {}
  std::optional<Pfn> FindCorrupted(int, Pfn, Order, uint64_t) const override {
    return std::nullopt;
  }
};

// Does 10 in every other step, the first one included.
class Tens final : public Workload {
 public:
  explicit Tens(uint64_t steps) : steps_(steps) {}
  std::optional<Nanoseconds> Step(Vcpu&) override {
    if (++done_ == steps_) return std::nullopt;
    return seconds(1);
  }
  uint64_t work() const override { return (done_ + 1) / 2 * 10; }

 private:
  const uint64_t steps_;
  uint64_t done_ = 0;
};

class WorkMeterTest : public testing::Test {
 protected:
  WorkMeterTest()
      : allocator_(*PageAllocator::Create(
            {.memory = {{.start = Pfn(0), .end = Pfn(1024)}}})),
        vcpu_(0, *allocator_, backing_) {}

  // Of vCPU 0, and of vCPU 2 if `steps` has another.
  static GuestLoad Load(std::vector<uint64_t> steps) {
    GuestLoad load;
    for (const uint64_t each : steps) {
      if (!load.by_vcpu.empty()) load.by_vcpu.push_back(nullptr);
      load.by_vcpu.push_back(std::make_unique<Tens>(each));
    }
    return load;
  }
  MeteredWorkload::Now now() {
    return [this] { return now_; };
  }

  Nanoseconds now_{0};
  NoBacking backing_;
  std::unique_ptr<PageAllocator> allocator_;
  Vcpu vcpu_;
};

// A step a second: 10 are done at 0, 2 and 4 s. The warm-up ends at 1.5 s, the
// work at 5.25 s.
TEST_F(WorkMeterTest, TheAmountIsTheSameAtAnyPace) {
  const GuestLoad by_clock = Load({100});
  WorkMeter off(by_clock, now(), nullptr);
  for (int second = 0; second < 6; ++second) {
    now_ = seconds(second);
    EXPECT_TRUE(off.workloads()[0]->Step(vcpu_).has_value());
    if (second == 1) {
      now_ += std::chrono::milliseconds(500);
      off.MarkWarmup();
    }
  }
  now_ += std::chrono::milliseconds(250);
  EXPECT_EQ(off.end(), std::nullopt);
  off.MarkEnd();
  EXPECT_EQ(off.work(), 20u);
  EXPECT_EQ(off.seconds(), 3.75);
  EXPECT_EQ(off.workloads()[0]->Step(vcpu_), std::nullopt) << "has ended";
  EXPECT_EQ(off.work(), 20u);

  // Now a step every two seconds: 10 are done at 0, 4 and 8 s.
  const GuestLoad by_work = Load({100});
  const WorkAmount amount = off.amount();
  now_ = seconds(0);
  WorkMeter slow(by_work, now(), &amount);
  for (int step = 0; step < 5; ++step) {
    EXPECT_EQ(slow.end(), std::nullopt);
    now_ = seconds(2 * step);
    EXPECT_TRUE(slow.workloads()[0]->Step(vcpu_).has_value());
  }
  // 1.25 s after the last of the work, as without reporting.
  EXPECT_EQ(slow.end(), seconds(9) + std::chrono::milliseconds(250));
  EXPECT_EQ(slow.work(), 20u);
  EXPECT_EQ(slow.seconds(), 9.25 - 1.5);
  now_ = seconds(9);
  EXPECT_TRUE(slow.workloads()[0]->Step(vcpu_).has_value()) << "until then";
  now_ = seconds(10);
  EXPECT_EQ(slow.workloads()[0]->Step(vcpu_), std::nullopt);
}

TEST_F(WorkMeterTest, EachVcpuDoesItsOwnPart) {
  const WorkAmount amount = {
      .by_vcpu = {{.end = {.work = 10, .since = seconds(1)}},
                  {},
                  {.end = {.work = 20, .since = seconds(2)}}}};
  const GuestLoad load = Load({100, 100});
  WorkMeter meter(load, now(), &amount);
  ASSERT_EQ(meter.workloads().size(), 3u);
  EXPECT_EQ(meter.workloads()[1], nullptr);
  meter.workloads()[0]->Step(vcpu_);
  EXPECT_EQ(meter.end(), std::nullopt);
  now_ = seconds(2);
  EXPECT_EQ(meter.workloads()[0]->Step(vcpu_), std::nullopt);
  for (int step = 0; step < 3; ++step) meter.workloads()[2]->Step(vcpu_);
  EXPECT_EQ(meter.end(), seconds(4)) << "vCPU 2's, which is later than 1 s";
  EXPECT_EQ(meter.work(), 30u);
  EXPECT_EQ(meter.seconds(), (1 + 4) / 2.0);
}

TEST_F(WorkMeterTest, TheEndIsThatOfTheLastVcpuToEnd) {
  const WorkAmount amount = {
      .by_vcpu = {{.end = {.work = 10, .since = seconds(7)}},
                  {},
                  {.end = {.work = 10, .since = seconds(2)}}}};
  const GuestLoad load = Load({100, 100});
  WorkMeter meter(load, now(), &amount);
  for (const size_t vcpu : {0, 2}) meter.workloads()[vcpu]->Step(vcpu_);
  EXPECT_EQ(meter.end(), seconds(7));
}

TEST_F(WorkMeterTest, NoWorkIsDoneAtOnce) {
  const GuestLoad by_clock = Load({100});
  WorkMeter off(by_clock, now(), nullptr);
  off.MarkWarmup();
  off.MarkEnd();
  const GuestLoad by_work = Load({100});
  const WorkAmount amount = off.amount();
  WorkMeter meter(by_work, now(), &amount);
  EXPECT_EQ(meter.end(), seconds(0));
  EXPECT_EQ(meter.workloads()[0]->Step(vcpu_), std::nullopt);
  EXPECT_EQ(by_work.by_vcpu[0]->work(), 0u);
}

TEST_F(WorkMeterTest, AWorkloadThatEndsOrIsStoppedHasDoneLess) {
  const WorkAmount amount = {
      .by_vcpu = {{.warmup = {.work = 10}, .end = {.work = 50}}}};
  const GuestLoad early = Load({3});
  WorkMeter meter(early, now(), &amount);
  for (int step = 0; step < 3; ++step) meter.workloads()[0]->Step(vcpu_);
  EXPECT_EQ(meter.end(), seconds(0));
  EXPECT_EQ(meter.work(), 10u);

  const GuestLoad slow = Load({100});
  WorkMeter stopped(slow, now(), &amount);
  for (int step = 0; step < 5; ++step) stopped.workloads()[0]->Step(vcpu_);
  EXPECT_EQ(stopped.end(), std::nullopt);
  stopped.MarkEnd();
  EXPECT_EQ(stopped.end(), seconds(0));
  EXPECT_EQ(stopped.work(), 20u);

  const GuestLoad none = Load({100});
  WorkMeter cold(none, now(), &amount);
  cold.MarkEnd();
  EXPECT_EQ(cold.work(), 0u) << "the warm-up did not end";
  EXPECT_EQ(cold.seconds(), 0);
}

}  // namespace
}  // namespace guestmm::work_meter_test
