// The balloon driver with devices that misbehave.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <span>

#include "guestmm/virtio/driver/balloon_driver.h"
#include "tests/virtio/driver/balloon_driver_testing.h"
#include "tests/virtio/virtio_testing.h"

namespace guestmm::scripted_device_test {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

// A device with scripted responses.
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
  // How often status() still reads nonzero after a reset.
  mutable int reads_until_reset = 0;
  int resets = 0;

  CountingNotifier kick;
  Notifier* used = nullptr;
  Notifier* config = nullptr;

 private:
  uint8_t status_ = 0;
};

class ScriptedDeviceTest : public BalloonDriverGuest {
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
                    "device id 2: must be 5, a memory balloon");
}
TEST_F(ScriptedDeviceTest, S6_1_NoVersion1) {
  device_.features = kBalloonFPageReporting;
  ExpectCreateFails(absl::StatusCode::kFailedPrecondition,
                    "balloon features 0x20: must include VERSION_1");
}
TEST_F(ScriptedDeviceTest, NoReporting) {
  device_.features = kVirtioFVersion1;
  const auto driver =
      BalloonDriver::Create(device_, *ram_, *allocator_, time_).value();
  EXPECT_EQ(driver->max_report_entries(), 0u);
  const absl::Status status =
      driver->Report({{{Gpa(4 * kMiB), kPageSize}}}, client_);
  EXPECT_TRUE(absl::IsFailedPrecondition(status));
  EXPECT_EQ(Message(status), "the balloon device does not support reports");
}
TEST_F(ScriptedDeviceTest, FeaturesRefused) {
  device_.features_status = absl::InvalidArgumentError("no");
  ExpectCreateFails(absl::StatusCode::kInvalidArgument, "no");
}
TEST_F(ScriptedDeviceTest, S3_1_1_FeaturesOkRefused) {
  device_.refused_bits = kVirtioFeaturesOk;
  ExpectCreateFails(absl::StatusCode::kFailedPrecondition,
                    "the balloon offers features 0x100000020 and refuses a "
                    "driver that accepts 0x100000020");
}
TEST_F(ScriptedDeviceTest, QueueRefused) {
  device_.queue_status = absl::NotFoundError("no queue");
  ExpectCreateFails(absl::StatusCode::kNotFound, "inflate queue: no queue");
}
TEST_F(ScriptedDeviceTest, StillInTheResetOfTheLastDriver) {
  device_.reads_until_reset = 1;
  ExpectCreateFails(absl::StatusCode::kFailedPrecondition,
                    "the balloon has not completed its last driver's reset");
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
  EXPECT_THAT(client_.ended(), ElementsAre(kReportWasReset));
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
  EXPECT_THAT(client_.ended(), ElementsAre(kReportWasReset));
}
TEST_F(ScriptedDeviceTest, S2_7_7_1_SpuriousNotifications) {
  const auto driver =
      BalloonDriver::Create(device_, *ram_, *allocator_, time_).value();
  device_.used->Notify();
  device_.config->Notify();
  time_.RunUntilIdle();
  EXPECT_NE(device_.status(), 0) << "reset a device that is well";
  EXPECT_TRUE(driver->Report({{{Gpa(4 * kMiB), kPageSize}}}, client_).ok());
}

// S1: the used ring ends a report; a notification does not.
TEST_F(ScriptedDeviceTest, ASpuriousNotificationEndsNoReport) {
  const auto driver =
      BalloonDriver::Create(device_, *ram_, *allocator_, time_).value();
  ASSERT_TRUE(driver->Report({{{Gpa(4 * kMiB), kPageSize}}}, client_).ok());
  device_.used->Notify();
  time_.RunUntilIdle();
  EXPECT_THAT(client_.ended(), testing::IsEmpty());
}

}  // namespace
}  // namespace guestmm::scripted_device_test
