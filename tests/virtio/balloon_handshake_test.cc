// A balloon device's responses to set-up, correct or not.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "guestmm/base/virtual_time.h"
#include "guestmm/host/discard/null_hypervisor.h"
#include "guestmm/virtio/device/balloon_device.h"
#include "tests/virtio/virtio_testing.h"

namespace guestmm::balloon_handshake_test {
namespace {

using ::testing::HasSubstr;

constexpr uint16_t kReporting = 2;
constexpr uint64_t kFeatures = kVirtioFVersion1 | kBalloonFPageReporting;
constexpr uint8_t kUntilFeatures = kVirtioAcknowledge | kVirtioDriver;
constexpr uint8_t kAgreed = kUntilFeatures | kVirtioFeaturesOk;
constexpr uint8_t kRunning = kAgreed | kVirtioDriverOk;

class BalloonHandshakeTest : public ::testing::Test {
 protected:
  // Sets up to FEATURES_OK.
  void Agree() {
    device_.SetStatus(kUntilFeatures);
    ASSERT_TRUE(device_.SetDriverFeatures(kFeatures).ok());
    device_.SetStatus(kAgreed);
    ASSERT_EQ(device_.status(), kAgreed);
  }

  const std::unique_ptr<GuestRam> ram_ = MakeRam({{Gpa(0), kMiB}});
  const VirtqueueLayout layout_ = LayOutVirtqueue(Gpa(0x1000), 4);
  CountingNotifier used_;
  NullHypervisor hypervisor_;
  VirtualTime time_{1};
  BalloonDevice device_{*ram_, hypervisor_, time_};
};

TEST_F(BalloonHandshakeTest, IsABalloonThatOffersReporting) {
  EXPECT_EQ(device_.device_id(), 5u);
  EXPECT_EQ(device_.DeviceFeatures(),
            kFeatures | kVirtioFIndirectDesc | kVirtioFEventIdx);
  EXPECT_EQ(device_.status(), 0);
  EXPECT_EQ(device_.MaxQueueSize(kReporting), 32);
  EXPECT_EQ(device_.MaxQueueSize(0), 128);
  EXPECT_EQ(device_.MaxQueueSize(1), 128);
  EXPECT_EQ(device_.MaxQueueSize(3), 0);
  EXPECT_EQ(device_.MaxQueueSize(4), 0);
}
TEST_F(BalloonHandshakeTest, OffersTheConfiguredQueueFeatures) {
  const auto offered = [&](VirtqueueFeatures features) {
    const BalloonDevice device(*ram_, hypervisor_, time_,
                               {.queue_features = features});
    return device.DeviceFeatures() & ~kFeatures;
  };
  EXPECT_EQ(offered({}), 0u);
  EXPECT_EQ(offered({.indirect = true}), uint64_t{1} << 28);
  EXPECT_EQ(offered({.event_index = true}), uint64_t{1} << 29);
}
TEST_F(BalloonHandshakeTest, NumbersItsQueuesAsConfigured) {
  BalloonDevice device(
      *ram_, hypervisor_, time_,
      {.reporting_queue_size = 128, .queue_numbering = QueueNumbering::kFixed});
  EXPECT_EQ(device.MaxQueueSize(2), 0);
  EXPECT_EQ(device.MaxQueueSize(4), 128);
}
TEST_F(BalloonHandshakeTest, RefusesFeaturesItDidNotOffer) {
  const absl::Status status =
      device_.SetDriverFeatures(kFeatures | kBalloonFStatsVq);
  EXPECT_TRUE(absl::IsInvalidArgument(status));
  EXPECT_EQ(Message(status), "features 0x2 accepted, but not offered");
}
TEST_F(BalloonHandshakeTest, RefusesOtherFeaturesWhileAQueueIsSetUp) {
  ASSERT_TRUE(device_.SetDriverFeatures(kFeatures).ok());
  device_.SetStatus(kAgreed);
  EXPECT_TRUE(device_.SetDriverFeatures(kVirtioFVersion1).ok());
  EXPECT_TRUE(device_.SetDriverFeatures(kFeatures).ok());
  ASSERT_TRUE(device_.SetUpQueue(kReporting, layout_, used_).ok());
  EXPECT_TRUE(device_.SetDriverFeatures(kFeatures).ok());
  const absl::Status status = device_.SetDriverFeatures(kVirtioFVersion1);
  EXPECT_TRUE(absl::IsFailedPrecondition(status));
  EXPECT_EQ(Message(status),
            "features 0x100000000: must stay 0x100000020 while a queue is set "
            "up");
}
TEST_F(BalloonHandshakeTest, FeaturesThatDoNotSufficeEndTheAgreement) {
  ASSERT_TRUE(device_.SetDriverFeatures(kFeatures).ok());
  device_.SetStatus(kAgreed);
  EXPECT_TRUE(device_.SetDriverFeatures(kBalloonFPageReporting).ok());
  EXPECT_EQ(device_.status(), kUntilFeatures);
}
TEST_F(BalloonHandshakeTest, S6_2_DoesNotAgreeWithoutVersion1) {
  ASSERT_TRUE(device_.SetDriverFeatures(kBalloonFPageReporting).ok());
  device_.SetStatus(kAgreed);
  EXPECT_EQ(device_.status(), kUntilFeatures);
  device_.SetStatus(kRunning);
  EXPECT_EQ(device_.status(), kUntilFeatures) << "DRIVER_OK needs FEATURES_OK";
}
TEST_F(BalloonHandshakeTest, S2_1_1_StatusBitsStayUntilAReset) {
  Agree();
  device_.SetStatus(kRunning);
  device_.SetStatus(kVirtioAcknowledge);
  EXPECT_EQ(device_.status(), kRunning);
  device_.SetStatus(kVirtioNeedsReset);
  EXPECT_EQ(device_.status(), kRunning) << "NEEDS_RESET is the device's";
  device_.SetStatus(0);
  EXPECT_EQ(device_.status(), 0);
}
TEST_F(BalloonHandshakeTest, RefusesAQueueOutOfTurn) {
  const auto early = device_.SetUpQueue(kReporting, layout_, used_);
  EXPECT_TRUE(absl::IsFailedPrecondition(early.status()));
  EXPECT_THAT(Message(early.status()), HasSubstr("device status 0x0"));
  Agree();
  device_.SetStatus(kRunning);
  EXPECT_TRUE(device_.SetUpQueue(kReporting, layout_, used_).ok());
  const auto again = device_.SetUpQueue(kReporting, layout_, used_);
  EXPECT_TRUE(absl::IsFailedPrecondition(again.status()));
  EXPECT_EQ(Message(again.status()), "queue 2 is set up already");
}
TEST_F(BalloonHandshakeTest, RefusesQueuesThatDoNotExist) {
  ASSERT_TRUE(device_.SetDriverFeatures(kVirtioFVersion1).ok());
  device_.SetStatus(kAgreed);
  EXPECT_EQ(Message(device_.SetUpQueue(kReporting, layout_, used_).status()),
            "the device has no queue 2 for a driver of features 0x100000000")
      << "PAGE_REPORTING was not accepted";
  device_.SetStatus(0);
  ASSERT_TRUE(device_.SetDriverFeatures(kFeatures).ok());
  device_.SetStatus(kAgreed);
  EXPECT_TRUE(
      absl::IsNotFound(device_.SetUpQueue(0xffff, layout_, used_).status()));
}
TEST_F(BalloonHandshakeTest, RefusesAQueueThatIsTooLargeOrNotInRam) {
  ASSERT_TRUE(device_.SetDriverFeatures(kFeatures).ok());
  device_.SetStatus(kAgreed);
  EXPECT_EQ(
      Message(device_.SetUpQueue(kReporting, LayOutVirtqueue(Gpa(0), 64), used_)
                  .status()),
      "queue 2 of 64 descriptors: must be at most 32");
  EXPECT_TRUE(absl::IsInvalidArgument(
      device_.SetUpQueue(kReporting, LayOutVirtqueue(Gpa(kGiB), 4), used_)
          .status()));
}

}  // namespace
}  // namespace guestmm::balloon_handshake_test
