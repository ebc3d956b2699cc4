#include "guestmm/virtio/driver/balloon_driver.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <span>
#include <vector>

#include "guestmm/host/discard/discarding_hypervisor.h"
#include "guestmm/host/discard/null_hypervisor.h"
#include "guestmm/virtio/device/balloon_device.h"
#include "tests/testing/test_hypervisors.h"
#include "tests/virtio/driver/balloon_driver_testing.h"
#include "tests/virtio/virtio_testing.h"

namespace guestmm::balloon_driver_test {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

// With the real device.
class BalloonDriverTest : public BalloonDriverGuest {
 protected:
  void Start(const BalloonDriverOptions& options = {}) {
    auto driver =
        BalloonDriver::Create(watched_, *ram_, *allocator_, time_, options);
    ASSERT_TRUE(driver.ok()) << driver.status();
    driver_ = *std::move(driver);
  }
  absl::Status ReportOne() {
    return driver_->Report({{{Gpa(4 * kMiB), 2 * kMiB}}}, client_);
  }
  VirtqueueMemory QueueMemory() { return watched_.QueueMemory(*ram_, 2); }

  RecordingHypervisor hypervisor_;
  BalloonDevice device_{*ram_, hypervisor_, time_};
  WatchedDevice watched_{device_};
  std::unique_ptr<BalloonDriver> driver_;
};

TEST_F(BalloonDriverTest, S3_1_1_SetsTheDeviceUp) {
  Start();
  EXPECT_EQ(device_.status(), kVirtioAcknowledge | kVirtioDriver |
                                  kVirtioFeaturesOk | kVirtioDriverOk);
  EXPECT_EQ(driver_->max_report_entries(), 32u);
  EXPECT_EQ(allocator_->Counts().allocated(), driver_->queue_pages());
  EXPECT_TRUE(driver_->CheckInvariants().ok());
}

TEST_F(BalloonDriverTest, AReportArrivesAndIsAcknowledged) {
  Start();
  const std::vector<GpaRange> ranges = {{Gpa(4 * kMiB), 1 * kMiB},
                                        {Gpa(6 * kMiB), 2 * kMiB}};
  ASSERT_TRUE(driver_->Report(ranges, client_).ok());
  EXPECT_THAT(client_.ended(), ElementsAre()) << "ended from inside Report";
  EXPECT_TRUE(driver_->CheckInvariants().ok());
  time_.RunUntilIdle();
  EXPECT_THAT(client_.ended(), ElementsAre("OK"));
  EXPECT_THAT(hypervisor_.batches(), ElementsAre(ranges));
  EXPECT_TRUE(driver_->CheckInvariants().ok());
}

// The next report may be made from inside the end of the last one, without
// limit: 70000 reports wrap the 16-bit indexes around.
TEST_F(BalloonDriverTest, ReportsFollowEachOther) {
  class Chain final : public ReportingDevice::Client {
   public:
    explicit Chain(BalloonDriver& driver) : driver_(driver) {}
    void ReportDone(absl::Status status) override {
      ASSERT_TRUE(status.ok()) << status;
      if (++reports_ == 70000) return;
      ASSERT_TRUE(driver_.Report({{{Gpa(4 * kMiB), kPageSize}}}, *this).ok());
    }
    int reports_ = 0;
    BalloonDriver& driver_;
  };
  NullHypervisor hypervisor;
  BalloonDevice device(*ram_, hypervisor, time_);
  auto driver = BalloonDriver::Create(device, *ram_, *allocator_, time_,
                                      {.reporting_queue_size = 4})
                    .value();
  Chain chain(*driver);
  ASSERT_TRUE(driver->Report({{{Gpa(4 * kMiB), kPageSize}}}, chain).ok());
  time_.RunUntilIdle();
  EXPECT_EQ(chain.reports_, 70000);
  EXPECT_EQ(device.counters().acknowledged, 70000u);
  EXPECT_TRUE(driver->CheckInvariants().ok());
}

TEST_F(BalloonDriverTest, TakesTheSmallerOfBothQueueSizes) {
  Start({.reporting_queue_size = 16});
  EXPECT_EQ(driver_->max_report_entries(), 16u);
  driver_.reset();
  Start({.reporting_queue_size = 256});
  EXPECT_EQ(driver_->max_report_entries(), 32u);
}

TEST_F(BalloonDriverTest, TakesAReportAsLongAsTheQueue) {
  Start({.reporting_queue_size = 4});
  std::vector<GpaRange> ranges;
  for (uint64_t i = 0; i < 4; ++i)
    ranges.push_back({Gpa(4 * kMiB + (i << 16)), kPageSize});
  ASSERT_TRUE(driver_->Report(ranges, client_).ok());
  time_.RunUntilIdle();
  EXPECT_THAT(client_.ended(), ElementsAre("OK"));
  EXPECT_EQ(device_.counters().ranges, 4u);
}

// Reported pages read as zeroes; their neighbors do not change.
TEST_F(BalloonDriverTest, OnlyReportedPagesAreDiscarded) {
  DiscardingHypervisor madvise(*ram_);
  BalloonDevice device(*ram_, madvise, time_);
  auto driver = BalloonDriver::Create(device, *ram_, *allocator_, time_);
  ASSERT_TRUE(driver.ok()) << driver.status();
  const Translation pages =
      ram_->Translate({Gpa(4 * kMiB), 3 * kPageSize}).value();
  const std::span<std::byte> bytes = pages.bytes();
  std::fill(bytes.begin(), bytes.end(), std::byte{0x5a});
  ASSERT_TRUE((*driver)
                  ->Report({{{Gpa(4 * kMiB) + kPageSize, kPageSize}}}, client_)
                  .ok());
  time_.RunUntilIdle();
  EXPECT_THAT(client_.ended(), ElementsAre("OK"));
  for (uint64_t i = 0; i < bytes.size(); ++i) {
    const bool reported = i / kPageSize == 1;
    ASSERT_EQ(bytes[i], reported ? std::byte{0} : std::byte{0x5a}) << i;
  }
}

TEST_F(BalloonDriverTest, S3_3_1_RemovingEndsTheReportAndReturnsThePages) {
  Start();
  ASSERT_TRUE(ReportOne().ok());
  driver_->Remove();
  EXPECT_THAT(client_.ended(), ElementsAre(kReportWasReset));
  EXPECT_EQ(device_.status(), 0);
  ExpectNoPageLost();
  EXPECT_TRUE(driver_->CheckInvariants().ok());
  const absl::Status status = ReportOne();
  EXPECT_TRUE(absl::IsFailedPrecondition(status));
  EXPECT_EQ(Message(status), "the balloon driver was removed");
  driver_->Remove();
  time_.RunUntilIdle();
  EXPECT_EQ(client_.ended().size(), 1u);
  EXPECT_TRUE(hypervisor_.batches().empty()) << "discarded after the reset";
}

// The acknowledgement is on the ring, but the driver has not looked yet.
TEST_F(BalloonDriverTest, RemovingBetweenTheDeviceAndTheDriver) {
  Start();
  ASSERT_TRUE(ReportOne().ok());
  time_.WaitUntil([&] { return device_.counters().acknowledged == 1; },
                  Workqueue::kForever);
  driver_.reset();
  time_.RunUntilIdle();
  EXPECT_THAT(client_.ended(), ElementsAre(kReportWasReset));
  ExpectNoPageLost();
}

TEST_F(BalloonDriverTest, AnotherDriverFollows) {
  for (int i = 0; i < 3; ++i) {
    Start();
    ASSERT_TRUE(ReportOne().ok());
    time_.RunUntilIdle();
    driver_.reset();
  }
  EXPECT_THAT(client_.ended(), ElementsAre("OK", "OK", "OK"));
  ExpectNoPageLost();
}

// The ring is overwritten; the device sets NEEDS_RESET; the driver resets it.
TEST_F(BalloonDriverTest, NeedsResetEndsTheReportAndAllLaterOnes) {
  Start();
  ASSERT_TRUE(ReportOne().ok());
  QueueMemory().available_idx().store(1000);
  time_.RunUntilIdle();
  EXPECT_THAT(client_.ended(), ElementsAre(kReportWasReset));
  EXPECT_EQ(device_.status(), 0);
  EXPECT_EQ(device_.counters().broken_queues, 1u);
  const absl::Status status = ReportOne();
  EXPECT_TRUE(absl::IsFailedPrecondition(status));
  EXPECT_EQ(Message(status), "the balloon device was broken");
  EXPECT_TRUE(driver_->CheckInvariants().ok());
  driver_.reset();
  ExpectNoPageLost();
}

TEST_F(BalloonDriverTest, ADeviceThatGivesBackTooMuchIsReset) {
  Start();
  ASSERT_TRUE(ReportOne().ok());
  time_.RunUntilIdle();
  const VirtqueueMemory memory = QueueMemory();
  ASSERT_TRUE(ReportOne().ok());
  time_.WaitUntil([&] { return device_.counters().acknowledged == 2; },
                  Workqueue::kForever);
  memory.used_idx().store(77);
  time_.RunUntilIdle();
  EXPECT_THAT(client_.ended(), ElementsAre("OK", kReportWasReset));
  EXPECT_EQ(device_.status(), 0);
  EXPECT_TRUE(absl::IsFailedPrecondition(ReportOne()));
}

// A device that asked for no kicks gets none.
TEST_F(BalloonDriverTest, S2_7_10_DoesNotKickADeviceThatDisabledKicks) {
  Start({.queue_features = {}});
  ASSERT_TRUE(ReportOne().ok());
  time_.RunUntilIdle();
  QueueMemory().used_flags().store(kVirtqUsedNoNotify);
  ASSERT_TRUE(ReportOne().ok());
  time_.RunUntilIdle();
  EXPECT_THAT(client_.ended(), ElementsAre("OK"));
  EXPECT_EQ(device_.counters().reports, 1u);
}

// The queues match if both sides have the same reading of §5.5.2, and only
// then.
TEST_F(BalloonDriverTest, BothHalvesMustNumberQueuesAlike) {
  BalloonDevice fixed(
      *ram_, hypervisor_, time_,
      {.reporting_queue_size = 32, .queue_numbering = QueueNumbering::kFixed});
  const auto compact = BalloonDriver::Create(fixed, *ram_, *allocator_, time_);
  EXPECT_TRUE(absl::IsFailedPrecondition(compact.status()));
  EXPECT_EQ(Message(compact.status()),
            "reporting queue: the device has no queue 2");
  EXPECT_TRUE(BalloonDriver::Create(fixed, *ram_, *allocator_, time_,
                                    {.reporting_queue_size = 32,
                                     .queue_numbering = QueueNumbering::kFixed})
                  .ok());
}

TEST_F(BalloonDriverTest, RefusesAQueueSizeThatIsNoPowerOfTwo) {
  const auto driver = BalloonDriver::Create(device_, *ram_, *allocator_, time_,
                                            {.reporting_queue_size = 3});
  EXPECT_TRUE(absl::IsInvalidArgument(driver.status()));
  EXPECT_THAT(Message(driver.status()), HasSubstr("queue size 3"));
  EXPECT_EQ(device_.status(), kVirtioFailed);
  ExpectNoPageLost();
}

TEST_F(BalloonDriverTest, FailsWithoutPagesForTheQueue) {
  std::vector<Pfn> taken;
  while (const auto pfn = allocator_->Allocate(0, Order(0))) {
    taken.push_back(*pfn);
  }
  const auto driver = BalloonDriver::Create(device_, *ram_, *allocator_, time_);
  EXPECT_TRUE(absl::IsResourceExhausted(driver.status()));
  EXPECT_EQ(
      Message(driver.status()),
      "inflate queue: no block of order 1 for queue 0 of 128 descriptors");
  EXPECT_EQ(device_.status(), kVirtioFailed);
  for (const Pfn pfn : taken) allocator_->Free(0, pfn, Order(0));
}

TEST_F(BalloonDriverTest, FailsIfTheQueueExceedsTheLargestBlock) {
  BalloonDevice device(*ram_, hypervisor_, time_,
                       {.reporting_queue_size = 1024});
  const auto allocator = PageAllocator::Create({.memory = {{Pfn(0), Pfn(1024)}},
                                                .cpus = 1,
                                                .max_order = Order(2),
                                                .min_free_kbytes = 64,
                                                .per_cpu_limits = {}})
                             .value();
  const auto driver = BalloonDriver::Create(device, *ram_, *allocator, time_,
                                            {.reporting_queue_size = 1024});
  EXPECT_EQ(Message(driver.status()),
            "reporting queue: no block of order 4 for queue 2 of 1024 "
            "descriptors");
  // Without an indirect table the area is smaller.
  const auto direct = BalloonDriver::Create(
      device, *ram_, *allocator, time_,
      {.reporting_queue_size = 1024, .queue_features = {.event_index = true}});
  EXPECT_EQ(Message(direct.status()),
            "reporting queue: no block of order 3 for queue 2 of 1024 "
            "descriptors");
}

using BalloonDriverDeathTest = BalloonDriverTest;

TEST_F(BalloonDriverDeathTest, TwoReportsAtOnce) {
  Start();
  ASSERT_TRUE(ReportOne().ok());
  EXPECT_DEATH(static_cast<void>(ReportOne()),
               "report while another of its client is outstanding");
}

TEST_F(BalloonDriverDeathTest, AReportOfTheWrongSize) {
  Start({.reporting_queue_size = 2});
  EXPECT_DEATH(static_cast<void>(driver_->Report({}, client_)),
               "a report of 0 entries: must be at most 2");
  const std::vector<GpaRange> three(3, {Gpa(4 * kMiB), kPageSize});
  EXPECT_DEATH(static_cast<void>(driver_->Report(three, client_)),
               "a report of 3 entries: must be at most 2");
}

// The reset is requested from inside the device's own discard, so it cannot
// wait. It completes when the discard does.
TEST_F(BalloonDriverTest, RemovedFromInsideADiscard) {
  BalloonDriver* removed = nullptr;
  RecordingHypervisor hypervisor(nullptr, [&](std::span<const GpaRange>) {
    EXPECT_FALSE(removed->Remove());
    EXPECT_FALSE(removed->is_down());
    EXPECT_THAT(client_.ended(), ElementsAre());
  });
  BalloonDevice device(*ram_, hypervisor, time_);
  const auto driver =
      BalloonDriver::Create(device, *ram_, *allocator_, time_).value();
  removed = driver.get();
  ASSERT_TRUE(driver->Report({{{Gpa(4 * kMiB), kPageSize}}}, client_).ok());
  time_.RunUntilIdle();
  EXPECT_TRUE(driver->is_down());
  EXPECT_THAT(client_.ended(), ElementsAre(kReportWasReset));
  ExpectNoPageLost();
}

TEST_F(BalloonDriverDeathTest, DestroyedFromInsideADiscard) {
  std::unique_ptr<BalloonDriver>* destroyed = nullptr;
  RecordingHypervisor hypervisor(
      nullptr, [&](std::span<const GpaRange>) { destroyed->reset(); });
  BalloonDevice device(*ram_, hypervisor, time_);
  auto driver =
      BalloonDriver::Create(device, *ram_, *allocator_, time_).value();
  destroyed = &driver;
  ASSERT_TRUE(driver->Report({{{Gpa(4 * kMiB), kPageSize}}}, client_).ok());
  EXPECT_DEATH(
      time_.RunUntilIdle(),
      "balloon driver destroyed, but its device does not complete the reset");
}

}  // namespace
}  // namespace guestmm::balloon_driver_test
