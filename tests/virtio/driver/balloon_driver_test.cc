#include "guestmm/virtio/driver/balloon_driver.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <span>
#include <vector>

#include "guestmm/base/virtual_time.h"
#include "guestmm/host/discard/discarding_hypervisor.h"
#include "guestmm/host/discard/test_hypervisors.h"
#include "guestmm/virtio/device/balloon_device.h"
#include "tests/virtio/virtio_testing.h"

namespace guestmm::balloon_driver_test {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

// Remembers how reports ended.
class RecordingClient final : public ReportingDevice::Client {
 public:
  void ReportDone(absl::Status status) override {
    ended_.push_back(std::move(status));
  }
  // "OK" or "UNAVAILABLE: ...", each.
  std::vector<std::string> ended() const {
    std::vector<std::string> texts;
    for (const absl::Status& status : ended_)
      texts.push_back(status.ToString());
    return texts;
  }

 private:
  std::vector<absl::Status> ended_;
};

constexpr char kReset[] =
    "UNAVAILABLE: the balloon device was reset before it acknowledged";

// A guest of 8 MiB in virtual time: the allocator has the lower half, reports
// are of the upper.
class GuestTest : public ::testing::Test {
 protected:
  // As a new driver would find it, and left as it was found.
  void ExpectNoPageLost() {
    EXPECT_EQ(allocator_->Counts().allocated(), PageCount(0));
    EXPECT_TRUE(allocator_->CheckInvariants().ok());
  }

  const std::unique_ptr<GuestRam> ram_ = MakeRam({{Gpa(0), 8 * kMiB}});
  const std::unique_ptr<PageAllocator> allocator_ =
      PageAllocator::Create({.memory = {{Pfn(0), Pfn(1024)}},
                             .cpus = 1,
                             .max_order = kMaxOrder,
                             .min_free_kbytes = 64,
                             .per_cpu_limits = {}})
          .value();
  VirtualTime time_{1};
  RecordingClient client_;
};

// With the real device.
class BalloonDriverTest : public GuestTest {
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

// The next report may come from inside the end of the last, for ever: 70000 of
// them take the 16-bit indexes round.
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

// Reported pages read as zeroes; the pages beside them do not change.
TEST_F(BalloonDriverTest, OnlyWhatWasReportedIsLost) {
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
  EXPECT_THAT(client_.ended(), ElementsAre(kReset));
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

// The acknowledgement is on the ring, but nobody looked yet.
TEST_F(BalloonDriverTest, RemovingBetweenTheDeviceAndTheDriver) {
  Start();
  ASSERT_TRUE(ReportOne().ok());
  time_.WaitUntil([&] { return device_.counters().acknowledged == 1; },
                  Workqueue::kForever);
  driver_.reset();
  time_.RunUntilIdle();
  EXPECT_THAT(client_.ended(), ElementsAre(kReset));
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

// Something overwrites the ring; the device gives up, the driver resets it.
TEST_F(BalloonDriverTest, NeedsResetEndsTheReportAndAllLaterOnes) {
  Start();
  ASSERT_TRUE(ReportOne().ok());
  QueueMemory().available_idx().store(1000);
  time_.RunUntilIdle();
  EXPECT_THAT(client_.ended(), ElementsAre(kReset));
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
  EXPECT_THAT(client_.ended(), ElementsAre("OK", kReset));
  EXPECT_EQ(device_.status(), 0);
  EXPECT_TRUE(absl::IsFailedPrecondition(ReportOne()));
}

// A device that is told to need no kicks gets none.
TEST_F(BalloonDriverTest, S2_7_10_DoesNotKickADeviceThatLooksAnyway) {
  Start({.queue_features = {}});
  ASSERT_TRUE(ReportOne().ok());
  time_.RunUntilIdle();
  QueueMemory().used_flags().store(kVirtqUsedNoNotify);
  ASSERT_TRUE(ReportOne().ok());
  time_.RunUntilIdle();
  EXPECT_THAT(client_.ended(), ElementsAre("OK"));
  EXPECT_EQ(device_.counters().reports, 1u);
}

// With both at the same reading of §5.5.2 the queues meet, else they do not.
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

TEST_F(BalloonDriverTest, FailsWhereTheQueueNeedsMoreThanTheLargestBlock) {
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
  // Without an indirect table behind it, it is smaller.
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
               "a report while one is outstanding");
}

TEST_F(BalloonDriverDeathTest, AReportOfTheWrongSize) {
  Start({.reporting_queue_size = 2});
  EXPECT_DEATH(static_cast<void>(driver_->Report({}, client_)),
               "a report of 0 entries; the most is 2");
  const std::vector<GpaRange> three(3, {Gpa(4 * kMiB), kPageSize});
  EXPECT_DEATH(static_cast<void>(driver_->Report(three, client_)),
               "a report of 3 entries; the most is 2");
}

// By what the device itself is running, so that it cannot wait: the reset is
// complete when the discard is.
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
  EXPECT_THAT(client_.ended(), ElementsAre(kReset));
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
  EXPECT_DEATH(time_.RunUntilIdle(),
               "balloon driver destroyed, and its device does not complete a "
               "reset");
}

// A device that answers as each test says.
class ScriptedDevice final : public VirtioDevice {
 public:
  uint32_t device_id() const override { return id; }
  uint64_t DeviceFeatures() const override { return features; }
  absl::Status SetDriverFeatures(uint64_t) override { return features_status; }
  uint8_t status() const override {
    if (status_ == 0 && reads_until_reset > 0) {
      --reads_until_reset;
      return kVirtioDriverOk;
    }
    return status_;
  }
  void SetStatus(uint8_t status) override {
    if (status == 0) {
      ++resets;
      status_ = 0;
    } else {
      status_ |= status & ~refused_bits;
    }
  }
  uint32_t ConfigGeneration() const override { return 0; }
  absl::Status ReadConfig(uint32_t, std::span<std::byte>) const override {
    return absl::OutOfRangeError("no configuration");
  }
  absl::Status WriteConfig(uint32_t, std::span<const std::byte>) override {
    return absl::OutOfRangeError("no configuration");
  }
  uint16_t MaxQueueSize(uint16_t) const override { return 4; }
  absl::StatusOr<Notifier*> SetUpQueue(uint16_t, const VirtqueueLayout&,
                                       Notifier& used_notifier) override {
    if (!queue_status.ok()) return queue_status;
    used = &used_notifier;
    return &kick;
  }
  void SetConfigNotifier(Notifier& notifier) override { config = &notifier; }

  uint32_t id = kBalloonDeviceId;
  uint64_t features = kVirtioFVersion1 | kBalloonFPageReporting;
  absl::Status features_status;
  uint8_t refused_bits = 0;
  absl::Status queue_status;
  // After a reset, so many reads of the status are not 0 yet.
  mutable int reads_until_reset = 0;
  int resets = 0;

  CountingNotifier kick;
  Notifier* used = nullptr;
  Notifier* config = nullptr;

 private:
  uint8_t status_ = 0;
};

class ScriptedDeviceTest : public GuestTest {
 protected:
  void ExpectCreateFails(absl::StatusCode code, const std::string& message) {
    const auto driver =
        BalloonDriver::Create(device_, *ram_, *allocator_, time_);
    EXPECT_EQ(driver.status().code(), code);
    EXPECT_EQ(Message(driver.status()), message);
    EXPECT_EQ(device_.status(), kVirtioFailed);
    ExpectNoPageLost();
  }

  ScriptedDevice device_;
};

TEST_F(ScriptedDeviceTest, NotABalloon) {
  device_.id = 2;
  ExpectCreateFails(absl::StatusCode::kFailedPrecondition,
                    "device 2 is not a memory balloon, which is 5");
}
TEST_F(ScriptedDeviceTest, S6_1_NoVersion1) {
  device_.features = kBalloonFPageReporting;
  ExpectCreateFails(absl::StatusCode::kFailedPrecondition,
                    "the balloon offers features 0x20, without VERSION_1");
}
TEST_F(ScriptedDeviceTest, NoReporting) {
  device_.features = kVirtioFVersion1;
  const auto driver =
      BalloonDriver::Create(device_, *ram_, *allocator_, time_).value();
  EXPECT_EQ(driver->max_report_entries(), 0u);
  const absl::Status status =
      driver->Report({{{Gpa(4 * kMiB), kPageSize}}}, client_);
  EXPECT_TRUE(absl::IsFailedPrecondition(status));
  EXPECT_EQ(Message(status), "the balloon device takes no reports");
}
TEST_F(ScriptedDeviceTest, FeaturesRefused) {
  device_.features_status = absl::InvalidArgumentError("no");
  ExpectCreateFails(absl::StatusCode::kInvalidArgument, "no");
}
TEST_F(ScriptedDeviceTest, S3_1_1_FeaturesOkRefused) {
  device_.refused_bits = kVirtioFeaturesOk;
  ExpectCreateFails(absl::StatusCode::kFailedPrecondition,
                    "the balloon, which offers features 0x100000020, refuses a "
                    "driver that takes 0x100000020");
}
TEST_F(ScriptedDeviceTest, QueueRefused) {
  device_.queue_status = absl::NotFoundError("no queue");
  ExpectCreateFails(absl::StatusCode::kNotFound, "inflate queue: no queue");
}
TEST_F(ScriptedDeviceTest, StillInTheResetOfTheLastDriver) {
  device_.reads_until_reset = 1;
  ExpectCreateFails(absl::StatusCode::kFailedPrecondition,
                    "the balloon is still in the reset of its last driver");
}

// §2.4: the driver waits until the status reads 0. Until then the device may
// still discard, so the report has not ended.
TEST_F(ScriptedDeviceTest, S2_4_2_AReportEndsWhenTheResetIsComplete) {
  auto driver =
      BalloonDriver::Create(device_, *ram_, *allocator_, time_).value();
  ASSERT_TRUE(driver->Report({{{Gpa(4 * kMiB), kPageSize}}}, client_).ok());
  EXPECT_EQ(device_.kick.count(), 1);
  device_.SetStatus(kVirtioNeedsReset);
  device_.reads_until_reset = 9;
  device_.config->Notify();
  time_.RunFor(std::chrono::milliseconds(4));
  EXPECT_THAT(client_.ended(), ElementsAre());
  EXPECT_TRUE(absl::IsFailedPrecondition(
      driver->Report({{{Gpa(4 * kMiB), kPageSize}}}, client_)));
  time_.RunFor(std::chrono::milliseconds(2));
  EXPECT_THAT(client_.ended(), ElementsAre(kReset));
  EXPECT_EQ(device_.resets, 2) << "one at the start, one now";
}
TEST_F(ScriptedDeviceTest, RemovedWhileItsResetIsUnderWay) {
  auto driver =
      BalloonDriver::Create(device_, *ram_, *allocator_, time_).value();
  ASSERT_TRUE(driver->Report({{{Gpa(4 * kMiB), kPageSize}}}, client_).ok());
  device_.SetStatus(kVirtioNeedsReset);
  device_.reads_until_reset = 1;
  device_.config->Notify();
  time_.RunFor(Nanoseconds(1));
  driver.reset();
  time_.RunUntilIdle();
  EXPECT_THAT(client_.ended(), ElementsAre(kReset));
}
TEST_F(ScriptedDeviceTest, S2_7_7_1_NotificationsForNothing) {
  const auto driver =
      BalloonDriver::Create(device_, *ram_, *allocator_, time_).value();
  device_.used->Notify();
  device_.config->Notify();
  time_.RunUntilIdle();
  EXPECT_NE(device_.status(), 0) << "reset a device that is well";
  EXPECT_TRUE(driver->Report({{{Gpa(4 * kMiB), kPageSize}}}, client_).ok());
}

// S1: what ends a report is the used ring, not a notification.
TEST_F(ScriptedDeviceTest, ANotificationForNothingEndsNoReport) {
  const auto driver =
      BalloonDriver::Create(device_, *ram_, *allocator_, time_).value();
  ASSERT_TRUE(driver->Report({{{Gpa(4 * kMiB), kPageSize}}}, client_).ok());
  device_.used->Notify();
  time_.RunUntilIdle();
  EXPECT_THAT(client_.ended(), testing::IsEmpty());
}

}  // namespace
}  // namespace guestmm::balloon_driver_test
