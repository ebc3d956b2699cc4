#include "guestmm/vmm/balloon_factory.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "guestmm/base/virtual_time.h"
#include "guestmm/virtio/wire/balloon.h"
#include "tests/virtio/virtio_testing.h"

namespace guestmm::balloon_factory_test {
namespace {

constexpr uint16_t kReporting = 2;
constexpr uint8_t kAgreed =
    kVirtioAcknowledge | kVirtioDriver | kVirtioFeaturesOk;

// A guest with 1 MiB and a reporting queue of 4.
class TestGuest {
 public:
  // Sets `device` up.
  void Drive(VirtioDevice& device) {
    ASSERT_TRUE(
        device.SetDriverFeatures(kVirtioFVersion1 | kBalloonFPageReporting)
            .ok());
    device.SetStatus(kAgreed);
    const auto kick = device.SetUpQueue(kReporting, layout_, used_);
    ASSERT_TRUE(kick.ok()) << kick.status();
    kick_ = *kick;
    device.SetStatus(kAgreed | kVirtioDriverOk);
  }
  void ReportPages(uint32_t pages) {
    driver_.OfferChain({{.addr = 0x10000,
                         .len = static_cast<uint32_t>(pages * kPageSize),
                         .flags = kVirtqDescWrite,
                         .next = 0}});
    kick_->Notify();
    time_.RunUntilIdle();
  }

  GuestRam& ram() { return *ram_; }
  Workqueue& workqueue() { return time_; }

 private:
  const std::unique_ptr<GuestRam> ram_ = MakeRam({{Gpa(0), kMiB}});
  const VirtqueueLayout layout_ = LayOutVirtqueue(Gpa(0x1000), 4);
  HostileDriver driver_{*ram_, layout_};
  CountingNotifier used_;
  Notifier* kick_ = nullptr;
  VirtualTime time_{1};
};

TEST(BalloonFactoryTest, CountsTheDiscardsOfEachSession) {
  BalloonFactory balloons;
  TestGuest first;
  TestGuest second;
  auto device = balloons.Make(1, first.ram(), first.workqueue());
  const auto other = balloons.Make(2, second.ram(), second.workqueue());
  EXPECT_EQ(device->device_id(), kBalloonDeviceId);
  ASSERT_NO_FATAL_FAILURE(first.Drive(*device));
  ASSERT_NO_FATAL_FAILURE(second.Drive(*other));
  first.ReportPages(3);
  first.ReportPages(1);
  second.ReportPages(2);
  EXPECT_EQ(balloons.discards(1).reports, 2u);
  EXPECT_EQ(balloons.discards(1).bytes, 4 * kPageSize);
  EXPECT_EQ(balloons.discards(1).failures, 0u);
  EXPECT_EQ(balloons.discards(2).reports, 1u);
  EXPECT_EQ(balloons.discards(3).reports, 0u);
  EXPECT_EQ(balloons.discards().reports, 3u);
  EXPECT_EQ(balloons.discards().bytes, 6 * kPageSize);
  // What a session discarded outlives its device; the sum, the session.
  device.reset();
  EXPECT_EQ(balloons.discards(1).reports, 2u);
  balloons.Forget(1);
  EXPECT_EQ(balloons.discards(1).reports, 0u);
  EXPECT_EQ(balloons.discards().reports, 3u);
}

TEST(BalloonFactoryTest, ADeviceCanBeUsedUntilItEnds) {
  BalloonFactory balloons;
  TestGuest guest;
  auto device = balloons.Make(3, guest.ram(), guest.workqueue());
  const auto target = [](BalloonDevice& used) { used.SetTarget(7); };
  EXPECT_TRUE(balloons.With(3, target));
  EXPECT_FALSE(balloons.With(4, target));
  EXPECT_EQ(balloons.sessions(), std::vector<uint64_t>{3});
  BalloonConfig config;
  ASSERT_TRUE(device
                  ->ReadConfig(0, std::as_writable_bytes(
                                      std::span(&config.num_pages, 1)))
                  .ok());
  EXPECT_EQ(config.num_pages, 7u);
  device.reset();
  EXPECT_FALSE(balloons.With(3, target));
  EXPECT_TRUE(balloons.sessions().empty());
}

TEST(BalloonFactoryTest, LaterDevicesHaveWhatWasSet) {
  BalloonFactory balloons;
  balloons.HoldDiscards(true);
  balloons.SetMaxDiscardRate(5);
  TestGuest guest;
  const auto device = balloons.Make(1, guest.ram(), guest.workqueue());
  balloons.With(1, [](BalloonDevice& used) {
    EXPECT_TRUE(used.holds_discards());
    EXPECT_EQ(used.max_discard_rate(), 5u);
  });
}

// All of BalloonDeviceCounters, also after the device has ended.
TEST(BalloonFactoryTest, SumsUpWhatDevicesCount) {
  BalloonFactory balloons;
  TestGuest first;
  TestGuest second;
  auto device = balloons.Make(1, first.ram(), first.workqueue());
  const auto other = balloons.Make(2, second.ram(), second.workqueue());
  ASSERT_NO_FATAL_FAILURE(first.Drive(*device));
  ASSERT_NO_FATAL_FAILURE(second.Drive(*other));
  first.ReportPages(3);
  second.ReportPages(0);
  device.reset();
  const BalloonDeviceCounters sum = balloons.discards().device;
  EXPECT_EQ(sum.reports, 2u);
  EXPECT_EQ(sum.acknowledged, 2u);
  EXPECT_EQ(sum.ranges, 1u);
  EXPECT_EQ(sum.bytes, 3 * kPageSize);
  EXPECT_EQ(sum.skipped_empty, 1u);
}

TEST(BalloonFactoryTest, AnEndedSessionsNumberCanBeUsedAgain) {
  BalloonFactory balloons;
  for (int server = 0; server < 2; ++server) {
    TestGuest guest;
    const auto device = balloons.Make(1, guest.ram(), guest.workqueue());
    ASSERT_NO_FATAL_FAILURE(guest.Drive(*device));
    guest.ReportPages(1);
    EXPECT_EQ(balloons.discards(1).reports, 1u);
  }
  EXPECT_EQ(balloons.discards().reports, 2u);
}

TEST(BalloonFactoryDeathTest, ASessionHasOneBalloon) {
  BalloonFactory balloons;
  TestGuest guest;
  const auto device = balloons.Make(7, guest.ram(), guest.workqueue());
  EXPECT_DEATH(balloons.Make(7, guest.ram(), guest.workqueue()),
               "session 7 has a balloon");
  EXPECT_DEATH(balloons.Forget(7), "session 7 has not ended");
}

}  // namespace
}  // namespace guestmm::balloon_factory_test
