// Several reports in flight at a time.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "guestmm/base/virtual_time.h"
#include "guestmm/reporting/reporter.h"
#include "tests/testing/fake_device.h"

namespace guestmm::reporter_flight_test {
namespace {

using std::chrono::seconds;
using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr Order kBlock{3};

// Each pass reports `blocks` blocks, ascending, one in each report.
class BlockByBlock final : public ReportingPolicy {
 public:
  explicit BlockByBlock(size_t reports) : reports_(reports) {}

  std::string_view name() const override { return "block by block"; }
  Order min_order() const override { return kBlock; }
  size_t capacity() const override { return 1; }
  size_t reports() const override { return reports_; }
  absl::Status Enable(const ReportingEnvironment& environment) override {
    zone_ = &environment.zones.front();
    return absl::OkStatus();
  }
  void Disable() override { at_ = 0; }
  bool BlockFreed(ReportableZone&, Pfn, Order) override { return true; }
  std::optional<Nanoseconds> NextPass() override {
    ++passes_over;
    return std::nullopt;
  }
  bool NextBatch(Scatterlist& list) override {
    if (at_ >= blocks) {
      at_ = 0;
      return false;
    }
    LockHolder hold(zone_->lock());
    list.Add(zone_->Isolate(Pfn(at_++ * kBlock.pages().value())).value());
    return true;
  }
  void ReturnBatch(Scatterlist& list, bool acknowledged) override {
    for (IsolatedBlock& block : list.TakeAll()) {
      returned.emplace_back(block.pfn().value() / kBlock.pages().value(),
                            acknowledged);
      LockHolder hold(zone_->lock());
      zone_->Return(std::move(block));
    }
  }

  uint64_t blocks = 6;
  // By number of block; and whether its report was acknowledged.
  std::vector<std::pair<uint64_t, bool>> returned;
  int passes_over = 0;

 private:
  const size_t reports_;
  ReportableZone* zone_ = nullptr;
  uint64_t at_ = 0;
};

class ReporterFlightTest : public ::testing::Test {
 protected:
  ReporterFlightTest()
      : allocator_(PageAllocator::Create(
                       {.memory = {{Pfn(0), Pfn(64)}},
                        .max_order = kBlock,
                        .min_free_kbytes = 0,
                        .per_cpu_limits = PerCpuLimits{.batch = 1, .high = 1}})
                       .value()) {
    device_.set_max_reports(8);
  }

  void Start(size_t reports) {
    auto policy = std::make_unique<BlockByBlock>(reports);
    policy_ = policy.get();
    reporter_ =
        std::make_unique<Reporter>(*allocator_, time_, std::move(policy));
    ASSERT_EQ(reporter_->Enable(device_), absl::OkStatus());
    allocator_->Free(0, allocator_->Allocate(0, kBlock).value(), kBlock);
    time_.RunUntilIdle();
  }
  PageCount InFlight(uint64_t blocks) const { return kBlock.pages() * blocks; }
  // Ends all reports, each as soon as it is the oldest.
  void EndAll() {
    while (device_.outstanding()) {
      device_.End();
      time_.RunUntilIdle();
    }
  }

  VirtualTime time_{1};
  std::unique_ptr<PageAllocator> allocator_;
  FakeDevice device_;
  BlockByBlock* policy_ = nullptr;
  std::unique_ptr<Reporter> reporter_;
};

TEST_F(ReporterFlightTest, AsManyAreInFlightAsThePolicyWants) {
  Start(3);
  EXPECT_EQ(device_.reports().size(), 3u);
  EXPECT_EQ(reporter_->in_flight_pages(), InFlight(3));
  device_.End();
  time_.RunUntilIdle();
  EXPECT_EQ(device_.reports().size(), 4u);
  EXPECT_EQ(reporter_->in_flight_pages(), InFlight(3));
  EndAll();
  EXPECT_EQ(reporter_->counters().reports, 6u);
  EXPECT_EQ(reporter_->counters().passes, 1u);
  EXPECT_EQ(allocator_->Counts().isolated, PageCount(0));
}

TEST_F(ReporterFlightTest, ButNoMoreThanTheDeviceTakes) {
  device_.set_max_reports(2);
  Start(3);
  EXPECT_EQ(reporter_->in_flight_pages(), InFlight(2));
  EndAll();
  EXPECT_EQ(reporter_->counters().reports, 6u);
}

TEST_F(ReporterFlightTest, BlocksReturnAsTheirReportsEndInAnyOrder) {
  Start(3);
  device_.End(absl::OkStatus(), /*which=*/2);
  time_.RunUntilIdle();
  EXPECT_THAT(policy_->returned, ElementsAre(std::pair(2, true)));
  device_.End(absl::OkStatus(), /*which=*/1);
  time_.RunUntilIdle();
  EXPECT_THAT(policy_->returned,
              ElementsAre(std::pair(2, true), std::pair(1, true)));
  EndAll();
  EXPECT_EQ(reporter_->counters().reported_blocks, 6u);
}

TEST_F(ReporterFlightTest, ThePassIsOverOnceAllHaveEnded) {
  Start(8);
  EXPECT_EQ(policy_->passes_over, 1) << "the one of Enable";
  for (int left = 6; left > 0; --left) {
    EXPECT_FALSE(reporter_->AtRest());
    EXPECT_EQ(policy_->passes_over, 1);
    device_.End(absl::OkStatus(), /*which=*/static_cast<size_t>(left - 1));
    time_.RunUntilIdle();
  }
  EXPECT_EQ(policy_->passes_over, 2);
  EXPECT_TRUE(reporter_->AtRest());
  EXPECT_EQ(reporter_->counters().passes, 1u);
}

TEST_F(ReporterFlightTest, OneThatFailsIsReturnedAndTheOthersStay) {
  Start(3);
  device_.End(absl::UnavailableError("reset"), /*which=*/1);
  time_.RunUntilIdle();
  EXPECT_THAT(policy_->returned, ElementsAre(std::pair(1, false)));
  EXPECT_EQ(reporter_->in_flight_pages(), InFlight(3));
  EndAll();
  EXPECT_EQ(reporter_->counters().reports, 5u);
  EXPECT_EQ(reporter_->counters().failed_reports, 1u);
}

TEST_F(ReporterFlightTest, OneThatIsRefusedIsReturnedAtOnceAndTheOthersStay) {
  device_.set_answer([this](std::span<const GpaRange>) {
    return device_.reports().size() == 1
               ? absl::ResourceExhaustedError("the queue is full")
               : absl::OkStatus();
  });
  // Refused from the second one on.
  Start(3);
  EXPECT_EQ(reporter_->in_flight_pages(), InFlight(1));
  EXPECT_EQ(reporter_->counters().failed_reports, 5u);
  EXPECT_FALSE(reporter_->AtRest());
  EndAll();
  EXPECT_TRUE(reporter_->AtRest());
  EXPECT_EQ(allocator_->Counts().isolated, PageCount(0));
}

TEST_F(ReporterFlightTest, DisableWaitsForAll) {
  Start(3);
  Work ends_one([&] {
    device_.End();
    if (device_.outstanding()) time_.Queue(ends_one, seconds(1));
  });
  time_.Queue(ends_one, seconds(1));
  EXPECT_EQ(reporter_->Disable(device_), absl::OkStatus());
  EXPECT_EQ(time_.Now(), seconds(3));
  EXPECT_FALSE(device_.outstanding());
  EXPECT_EQ(device_.reports().size(), 3u) << "none is sent while it waits";
  EXPECT_EQ(allocator_->Counts().isolated, PageCount(0));
  // Enabled again, a pass begins anew.
  ASSERT_EQ(reporter_->Enable(device_), absl::OkStatus());
  allocator_->Free(0, allocator_->Allocate(0, kBlock).value(), kBlock);
  time_.RunUntilIdle();
  EXPECT_EQ(reporter_->in_flight_pages(), InFlight(3));
  EndAll();
}

TEST_F(ReporterFlightTest, AResetEndsAll) {
  Start(3);
  while (device_.outstanding()) device_.End(absl::UnavailableError("reset"));
  policy_->blocks = 0;
  time_.RunUntilIdle();
  EXPECT_EQ(reporter_->counters().failed_reports, 3u);
  EXPECT_EQ(allocator_->Counts().isolated, PageCount(0));
}

using ReporterFlightDeathTest = ReporterFlightTest;

TEST_F(ReporterFlightDeathTest, TooManyOrNone) {
  for (const size_t reports : {size_t{0}, kMaxReports + 1}) {
    EXPECT_DEATH(
        Reporter(*allocator_, time_, std::make_unique<BlockByBlock>(reports)),
        "reports in flight: must be 1 to 16");
  }
}

}  // namespace
}  // namespace guestmm::reporter_flight_test
