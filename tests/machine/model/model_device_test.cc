#include "src/machine/model/model_device.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <vector>

#include "guestmm/base/virtual_time.h"
#include "guestmm/host/accounting/host_ledger.h"

namespace guestmm::model_device_test {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

class Ends final : public ReportingDevice::Client {
 public:
  void ReportDone(absl::Status status) override { ends.push_back(status); }
  std::vector<absl::Status> ends;
};

GpaRange Block(uint64_t number) {
  return {.gpa = ToGpa(Pfn(number * 512)), .bytes = kPageblockOrder.bytes()};
}

class ModelDeviceTest : public testing::Test {
 protected:
  // Each cost is another power of ten, so that a sum shows what is in it.
  static CostModel Costs() {
    CostModel costs;
    costs.report = 1;
    costs.kick = 10;
    costs.discard_call = 100;
    costs.discard_4k = 1000;
    costs.split_2m = 10'000'000;
    costs.discard_2m = 1'000'000;
    return costs;
  }
  Nanoseconds ReportAndWait(ModelDevice& device,
                            const std::vector<GpaRange>& ranges) {
    const Nanoseconds before = time_.Now();
    EXPECT_TRUE(device.Report(ranges, client_).ok());
    EXPECT_TRUE(time_.WaitUntil([&] { return client_.ends.size() > ended_; }));
    ++ended_;
    return time_.Now() - before;
  }

  VirtualTime time_{1};
  HostLedger ledger_{Pfn(64 * 512), Order(0)};
  HostLedger huge_{Pfn(64 * 512), kPageblockOrder};
  Ends client_;
  size_t ended_ = 0;
};

TEST_F(ModelDeviceTest, AReportTakesAsLongAsItsRunsAndResidentGranules) {
  ModelDevice device({.costs = Costs()}, time_, ledger_);
  // Nothing is resident: two runs.
  EXPECT_EQ(ReportAndWait(device, {Block(3), Block(1), Block(4)}).count(), 211);
  // One run, with 5 resident pages.
  for (int page = 0; page < 5; ++page) {
    ledger_.OnTouched(Pfn(512 + 10 * page), Order(0), time_.Now());
    ledger_.OnFreed(Pfn(512 + 10 * page), Order(0));
  }
  EXPECT_EQ(ReportAndWait(device, {Block(1)}).count(), 5111);
  // They no longer are.
  EXPECT_EQ(ReportAndWait(device, {Block(1)}).count(), 111);
  EXPECT_EQ(device.kicks(), 3U);
  EXPECT_EQ(device.scatterlists(), 3U);
  EXPECT_EQ(device.discard_calls(), 4U);
  EXPECT_THAT(client_.ends, testing::Each(absl::OkStatus()));
  EXPECT_TRUE(device.status().ok());
}

TEST_F(ModelDeviceTest, HugePagesAreDiscardedWhole) {
  ModelDevice device({.costs = Costs()}, time_, huge_);
  huge_.OnTouched(Pfn(512), Order(0), time_.Now());
  huge_.OnFreed(Pfn(512), Order(0));
  EXPECT_EQ(ReportAndWait(device, {Block(1)}).count(), 1'000'111);
  EXPECT_EQ(huge_.counters().discarded_bytes, 2 * kMiB);
}

TEST_F(ModelDeviceTest, APartOfAHugePageIsDiscardedByThePage) {
  ModelDevice device({.costs = Costs()}, time_, huge_);
  huge_.OnTouched(Pfn(512), Order(0), time_.Now());
  huge_.OnFreed(Pfn(512), Order(0));
  const GpaRange part = {.gpa = ToGpa(Pfn(512)), .bytes = PageCount(8).bytes()};
  EXPECT_EQ(ReportAndWait(device, {part}).count(), 10'008'111);
  // It was split before, and 504 pages are left.
  EXPECT_EQ(ReportAndWait(device, {Block(1)}).count(), 504'111);
  EXPECT_EQ(huge_.counters().discarded_bytes, 2 * kMiB);
}

// Larger pages below 2 MiB cost as much as their pages, whole or in part.
TEST_F(ModelDeviceTest, SmallerGranulesAreDiscardedByThePage) {
  HostLedger middle(Pfn(64 * 512), Order(4));
  ModelDevice device({.costs = Costs()}, time_, middle);
  middle.OnTouched(Pfn(512), Order(5), time_.Now());
  middle.OnFreed(Pfn(512), Order(5));
  const GpaRange part = {.gpa = ToGpa(Pfn(520)),
                         .bytes = PageCount(24).bytes()};
  EXPECT_EQ(ReportAndWait(device, {part}).count(), 24'111);
}

TEST_F(ModelDeviceTest, TheFirstPageThatWasLostIsNamed) {
  ModelDevice device({.costs = Costs()}, time_, ledger_);
  ledger_.OnTouched(Pfn(512), Order(0), time_.Now());
  ledger_.OnTouched(Pfn(1024), Order(0), time_.Now());
  ReportAndWait(device, {Block(2)});
  ReportAndWait(device, {Block(1)});
  EXPECT_EQ(
      device.status(),
      absl::DataLossError("page 0x400 was in use when the host discarded it"));
}

TEST_F(ModelDeviceTest, LogsWhatWasDiscardedWhen) {
  ModelDevice device({.costs = Costs()}, time_, ledger_);
  ReportAndWait(device, {Block(1)});
  EXPECT_THAT(device.log(), IsEmpty());
  device.StartLog();
  ReportAndWait(device, {Block(2), Block(5)});
  ASSERT_EQ(device.log().size(), 2U);
  EXPECT_EQ(device.log()[0].range, Block(2));
  EXPECT_EQ(device.log()[1].range, Block(5));
  EXPECT_EQ(device.log()[0].time, time_.Now());
  EXPECT_EQ(device.log()[1].time, time_.Now());
}

TEST_F(ModelDeviceTest, TheOwnerMayDiscardItself) {
  ModelDevice device({.costs = Costs()}, time_, ledger_);
  std::vector<GpaRange> discarded;
  device.set_discard([&](std::span<const GpaRange> ranges) {
    discarded.assign(ranges.begin(), ranges.end());
  });
  ReportAndWait(device, {Block(2)});
  EXPECT_THAT(discarded, ElementsAre(Block(2)));
  EXPECT_EQ(ledger_.counters().reported_bytes, 0U);
}

TEST_F(ModelDeviceTest, APageInUseIsDataLoss) {
  ModelDevice device({.costs = Costs()}, time_, ledger_);
  ledger_.OnTouched(Pfn(700), Order(0), time_.Now());
  ReportAndWait(device, {Block(1)});
  EXPECT_EQ(
      device.status(),
      absl::DataLossError("page 0x2bc was in use when the host discarded it"));
}

// Each running vCPU is interrupted once for each run that is discarded, and one
// of them does the guest's part; without vCPUs nothing does.
TEST_F(ModelDeviceTest, RunningVcpusAreDelayed) {
  VcpuTimes times(time_, /*vcpus=*/2);
  ModelDevice device({.costs = Costs(), .times = &times}, time_, ledger_);
  for (const int vcpu : {0, 1}) {
    times.BeginStep(vcpu);
    times.Charge(vcpu, CostKind::kBase, 1'000'000);
    times.EndStep(vcpu);
  }
  ReportAndWait(device, {Block(1), Block(3), Block(4)});
  EXPECT_EQ(times.spent(CostKind::kIsolation), 1U);
  // The kick, two interruptions of two vCPUs, the interrupt.
  EXPECT_EQ(times.spent(CostKind::kDiscard), 10 + 2 * 2 * 2000 + 2000U);
}

TEST_F(ModelDeviceTest, EndsWithAReportInFlight) {
  {
    ModelDevice device({.costs = Costs()}, time_, ledger_);
    ASSERT_TRUE(device.Report(std::vector{Block(1)}, client_).ok());
  }
  time_.RunUntilIdle();
  EXPECT_THAT(client_.ends, IsEmpty());
}

}  // namespace
}  // namespace guestmm::model_device_test
