// What all devices have in common: configuration, status, features and several
// queues. Tested with a balloon.

#include "guestmm/virtio/device/virtio_device_base.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <memory>
#include <thread>
#include <vector>

#include "tests/virtio/balloon_testing.h"
#include "tests/virtio/virtio_testing.h"

namespace guestmm::virtio_device_base_test {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::SizeIs;

// Offers everything, so that each field of the configuration exists.
constexpr BalloonDeviceOptions kAll = {.features = kBalloonFeatures};

// --- Features.

TEST(VirtioDeviceBase, S6_2_OffersVersion1) {
  HostileBalloon balloon({.features = 0, .queue_features = {}});
  EXPECT_EQ(balloon.device().DeviceFeatures(), kVirtioFVersion1);
}

// Any subset is accepted, unless MUST_TELL_HOST was offered.
TEST(VirtioDeviceBase, S2_2_2_AgreesToAnySubset) {
  HostileBalloon balloon(kAll);
  for (uint64_t refused = 0; refused <= kBalloonFeatures; refused += 2) {
    EXPECT_TRUE(balloon.Start(refused)) << refused;
    balloon.device().SetStatus(0);
  }
}

// --- Status.

TEST(VirtioDeviceBase, S2_1_2_StatusIsZeroAfterAResetAtAnyPoint) {
  HostileBalloon balloon(kAll);
  EXPECT_EQ(balloon.device().status(), 0);
  for (const uint8_t status :
       {kVirtioAcknowledge, kUntilFeatures, kVirtioFailed}) {
    balloon.device().SetStatus(status);
    EXPECT_EQ(balloon.device().status(), status);
    balloon.device().SetStatus(0);
    EXPECT_EQ(balloon.device().status(), 0);
  }
  ASSERT_TRUE(balloon.Start());
  EXPECT_EQ(balloon.device().status(), kRunningStatus);
  balloon.device().SetStatus(0);
  EXPECT_EQ(balloon.device().status(), 0);
}

TEST(VirtioDeviceBase, S2_1_2_NotifiesOfNothingBeforeDriverOk) {
  HostileBalloon balloon(kAll);
  CountingNotifier config;
  balloon.device().SetStatus(kUntilFeatures);
  balloon.device().SetConfigNotifier(config);
  balloon.device().SetTarget(7);
  balloon.time().RunUntilIdle();
  EXPECT_EQ(config.count(), 0);
}

// The driver is notified of changes made before DRIVER_OK.
TEST(VirtioDeviceBase, NotifiesAtDriverOkOfEarlierChanges) {
  HostileBalloon balloon(kAll);
  balloon.device().SetTarget(7);
  balloon.time().RunUntilIdle();
  ASSERT_TRUE(balloon.Start());
  balloon.time().RunUntilIdle();
  EXPECT_EQ(balloon.config_notifications(), 1);
  EXPECT_EQ(balloon.config().num_pages, 7u);
}

TEST(VirtioDeviceBase, S2_1_2_ABrokenQueueSetsNeedsResetAndNotifies) {
  HostileBalloon balloon(kAll);
  ASSERT_TRUE(balloon.Start());
  balloon.at(BalloonQueue::kDeflate).JumpTo(5);
  balloon.Kick(BalloonQueue::kDeflate);
  balloon.time().RunUntilIdle();
  EXPECT_EQ(balloon.device().status(), kRunningStatus | kVirtioNeedsReset);
  EXPECT_EQ(balloon.config_notifications(), 1);
}

// One broken queue stops all of them: the state of the driver is unknown.
TEST(VirtioDeviceBase, ABrokenQueueStopsTheOthers) {
  HostileBalloon balloon(kAll);
  ASSERT_TRUE(balloon.Start());
  balloon.at(BalloonQueue::kInflate).JumpTo(5);
  balloon.Kick(BalloonQueue::kInflate);
  balloon.Send(BalloonQueue::kReporting, {HostileBalloon::Pages(0x10000)});
  balloon.device().SetTarget(7);
  balloon.time().RunUntilIdle();
  EXPECT_THAT(balloon.discarded(), IsEmpty());
  EXPECT_EQ(balloon.used_notifications(), 0);
  EXPECT_EQ(balloon.config_notifications(), 1);
}

// Front ends of vhost-user stop the queues, and may never reset the device.
TEST(VirtioDeviceBase, NeedsResetEndsWithTheBrokenQueue) {
  HostileBalloon balloon(kAll);
  ASSERT_TRUE(balloon.Start());
  BalloonDevice& device = balloon.device();
  balloon.at(BalloonQueue::kDeflate).JumpTo(5);
  balloon.at(BalloonQueue::kReporting)
      .OfferChain({HostileBalloon::Pages(0x10000)});
  balloon.Kick(BalloonQueue::kDeflate);
  balloon.Kick(BalloonQueue::kReporting);
  balloon.time().RunUntilIdle();
  constexpr uint8_t kBroken = kRunningStatus | kVirtioNeedsReset;
  ASSERT_EQ(device.status(), kBroken);
  ASSERT_TRUE(device.fault().has_value());
  EXPECT_EQ(device.fault()->queue, 1);
  EXPECT_EQ(Message(device.fault()->why),
            "queue 1 is broken: available index moved from 0 to 5, with 0 "
            "chains outstanding in a queue of 4");
  // Another queue changes nothing.
  ASSERT_TRUE(device.StopQueue(0).ok());
  balloon.time().RunUntilIdle();
  EXPECT_EQ(device.status(), kBroken);
  EXPECT_THAT(balloon.discarded(), IsEmpty());
  ASSERT_TRUE(device.StopQueue(1).ok());
  balloon.time().RunUntilIdle();
  EXPECT_EQ(device.status(), kRunningStatus);
  EXPECT_FALSE(device.fault().has_value());
  EXPECT_THAT(balloon.discarded(), SizeIs(1)) << "its kick was kept";

  // The next driver's queue.
  const VirtqueueLayout layout = LayOutVirtqueue(Gpa(0xc000), 4);
  HostileDriver driver(balloon.ram(), layout);
  CountingNotifier used;
  const auto kick = device.SetUpQueue(1, layout, used);
  ASSERT_TRUE(kick.ok()) << kick.status();
  driver.OfferChain({balloon.Words({0x10})});
  (*kick)->Notify();
  balloon.time().RunUntilIdle();
  EXPECT_EQ(driver.used_idx(), 1);
  EXPECT_EQ(used.count(), 1);
}

TEST(VirtioDeviceBase, AQueueWaitsForAKickOfItsOwn) {
  HostileBalloon balloon(kAll);
  ASSERT_TRUE(balloon.Start());
  balloon.at(BalloonQueue::kInflate).OfferChain({balloon.Words({0x10})});
  balloon.Kick(BalloonQueue::kInflate);
  // Before the kick is handled.
  BalloonDevice& device = balloon.device();
  EXPECT_EQ(device.StopQueue(0).value(), 0);
  CountingNotifier used;
  const VirtqueueLayout layout = LayOutVirtqueue(Gpa(kPageSize), 4);
  const auto kick = device.ResumeQueue(0, layout, used, /*start=*/0);
  ASSERT_TRUE(kick.ok()) << kick.status();
  balloon.time().RunUntilIdle();
  EXPECT_EQ(balloon.at(BalloonQueue::kInflate).used_idx(), 0);
  (*kick)->Notify();
  balloon.time().RunUntilIdle();
  EXPECT_EQ(balloon.at(BalloonQueue::kInflate).used_idx(), 1);
}

// A ring that is being handled is between two states.
TEST(VirtioDeviceBase, InvariantsAreCheckedAfterTheHandlingInHand) {
  HostileBalloon balloon(kAll);
  ASSERT_TRUE(balloon.Start());
  HostileDriver& driver = balloon.at(BalloonQueue::kReporting);
  std::atomic<bool> has_checked = false;
  std::thread checker;
  balloon.OnDiscard([&] {
    checker = std::thread([&] {
      EXPECT_EQ(balloon.device().CheckInvariants(), absl::OkStatus());
      EXPECT_EQ(driver.used_idx(), 1);
      has_checked = true;
    });
    // Enough turns for a checker that does not wait.
    for (int i = 0; i < 1000 && !has_checked; ++i) std::this_thread::yield();
    // The device's own work is not its own obstacle.
    EXPECT_EQ(balloon.device().CheckInvariants(), absl::OkStatus());
  });
  balloon.Send(BalloonQueue::kReporting, {HostileBalloon::Pages(0x20000)});
  checker.join();
}

TEST(VirtioDeviceBase, S2_4_1_AResetForgetsEveryQueue) {
  HostileBalloon balloon(kAll);
  ASSERT_TRUE(balloon.Start());
  balloon.at(BalloonQueue::kInflate).OfferChain({balloon.Words({0x10})});
  balloon.at(BalloonQueue::kReporting)
      .OfferChain({HostileBalloon::Pages(0x20000)});
  balloon.Kick(BalloonQueue::kInflate);
  balloon.Kick(BalloonQueue::kReporting);
  balloon.device().SetTarget(7);
  balloon.device().SetStatus(0);
  balloon.time().RunUntilIdle();
  balloon.Kick(BalloonQueue::kInflate);
  balloon.device().SetStatus(kRunningStatus);
  balloon.time().RunUntilIdle();
  EXPECT_THAT(balloon.discarded(), IsEmpty());
  EXPECT_EQ(balloon.at(BalloonQueue::kInflate).used_idx(), 0);
  EXPECT_EQ(balloon.at(BalloonQueue::kReporting).used_idx(), 0);
  EXPECT_EQ(balloon.used_notifications() + balloon.config_notifications(), 0);
}

// The next driver sets its own notifier.
TEST(VirtioDeviceBase, S2_4_1_AResetForgetsTheNotifiers) {
  HostileBalloon balloon(kAll);
  ASSERT_TRUE(balloon.Start());
  BalloonDevice& device = balloon.device();
  device.SetStatus(0);
  device.SetStatus(kUntilFeatures);
  ASSERT_TRUE(
      device.SetDriverFeatures(kVirtioFVersion1 | kBalloonFMustTellHost).ok());
  device.SetStatus(kRunningStatus);
  ASSERT_EQ(device.status(), kRunningStatus);
  device.SetTarget(7);
  balloon.time().RunUntilIdle();
  EXPECT_EQ(balloon.config_notifications(), 0);
}

TEST(VirtioDeviceBase, AnotherDriverMayFollowAfterAReset) {
  HostileBalloon balloon(kAll);
  for (int i = 1; i <= 3; ++i) {
    ASSERT_TRUE(balloon.Start());
    balloon.Send(BalloonQueue::kInflate, {0x10});
    EXPECT_EQ(balloon.at(BalloonQueue::kInflate).used_idx(), 1);
    EXPECT_EQ(balloon.counters().inflated_pages, i);
    balloon.device().SetStatus(0);
  }
}

// --- Configuration.

TEST(VirtioDeviceBase, S2_5_2_EveryFieldCanBeReadBeforeFeaturesOk) {
  HostileBalloon balloon(kAll);
  balloon.device().SetTarget(7);
  EXPECT_EQ(balloon.config(), BalloonConfig{.num_pages = 7});
  for (uint32_t offset = 0; offset < 16; offset += 4) {
    std::array<std::byte, 4> field;
    EXPECT_TRUE(balloon.device().ReadConfig(offset, field).ok());
  }
}

TEST(VirtioDeviceBase, ReadsFromAnyByteOfTheConfiguration) {
  HostileBalloon balloon(kAll);
  balloon.device().SetTarget(0x04030201);
  std::array<std::byte, 2> bytes;
  ASSERT_TRUE(balloon.device().ReadConfig(1, bytes).ok());
  EXPECT_THAT(bytes, ElementsAre(std::byte{2}, std::byte{3}));
  EXPECT_TRUE(balloon.device().ReadConfig(16, {}).ok());
}

TEST(VirtioDeviceBase, RefusesToReadPastTheConfiguration) {
  HostileBalloon balloon({});
  std::array<std::byte, 4> bytes;
  for (const uint32_t offset : {5u, 8u, 9u, 0xffffffffu}) {
    EXPECT_TRUE(absl::IsOutOfRange(balloon.device().ReadConfig(offset, bytes)));
  }
  EXPECT_EQ(Message(balloon.device().ReadConfig(8, bytes)),
            "configuration at 8, 4 bytes: must be within its 8 bytes");
  EXPECT_EQ(Message(WriteWord(balloon.device(), 12, 1)),
            "configuration at 12, 4 bytes: must be within its 8 bytes");
}

// §5.5.4: a field exists if its feature is offered.
TEST(VirtioDeviceBase, TheConfigurationEndsWithTheLastOfferedField) {
  const auto bytes = [](uint64_t features) {
    HostileBalloon balloon({.features = features});
    std::vector<std::byte> into(1);
    while (balloon.device().ReadConfig(0, into).ok()) {
      into.resize(into.size() + 1);
    }
    return into.size() - 1;
  };
  EXPECT_EQ(bytes(kBalloonFPageReporting), 8u);
  EXPECT_EQ(bytes(kBalloonFFreePageHint), 12u);
  EXPECT_EQ(bytes(kBalloonFPagePoison), 16u);
}

TEST(VirtioDeviceBase, RefusesWritesToTheDevicesFields) {
  HostileBalloon balloon(kAll);
  ASSERT_TRUE(balloon.Start());
  BalloonDevice& device = balloon.device();
  EXPECT_TRUE(WriteWord(device, offsetof(BalloonConfig, actual), 9).ok());
  for (const uint32_t offset : {0u, 2u, 5u, 8u}) {
    const absl::Status status = WriteWord(device, offset, 1);
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << offset;
  }
  EXPECT_EQ(Message(WriteWord(device, 8, 1)),
            "configuration write of 4 bytes at 8: must have a field that the "
            "driver may write");
  EXPECT_EQ(Message(WriteWord(device, 2, 1)),
            "configuration write of 4 bytes at 2: must have all of actual or "
            "none");
  EXPECT_EQ(balloon.config(), BalloonConfig{.actual = 9});
}

TEST(VirtioDeviceBase, RefusesToWriteAPartOfAField) {
  HostileBalloon balloon(kAll);
  ASSERT_TRUE(balloon.Start());
  const std::array<std::byte, 8> zeroes = {};
  for (const size_t bytes : {1, 2, 3}) {
    EXPECT_TRUE(absl::IsInvalidArgument(
        balloon.device().WriteConfig(4, std::span(zeroes).first(bytes))))
        << bytes;
  }
  // All of it, and of what is not the driver's: that is skipped.
  for (const size_t bytes : {0, 5, 8}) {
    EXPECT_TRUE(
        balloon.device().WriteConfig(4, std::span(zeroes).first(bytes)).ok())
        << bytes;
  }
}

TEST(VirtioDeviceBase, S2_5_TheGenerationChangesWithTheConfiguration) {
  HostileBalloon balloon(kAll);
  ASSERT_TRUE(balloon.Start());
  const uint32_t first = balloon.device().ConfigGeneration();
  EXPECT_EQ(balloon.device().ConfigGeneration(), first);
  balloon.device().SetTarget(7);
  const uint32_t second = balloon.device().ConfigGeneration();
  EXPECT_NE(second, first);
  ASSERT_TRUE(balloon.device().StartHinting().ok());
  EXPECT_NE(balloon.device().ConfigGeneration(), second);
}

// A reset clears what the driver wrote, so the configuration has changed.
TEST(VirtioDeviceBase, S2_5_TheGenerationChangesWithAReset) {
  HostileBalloon balloon(kAll);
  ASSERT_TRUE(balloon.Start());
  balloon.device().SetTarget(7);
  ASSERT_TRUE(balloon.device().StartHinting().ok());
  ASSERT_TRUE(WriteWord(balloon.device(), 4, 9).ok());
  const uint32_t before = balloon.device().ConfigGeneration();
  balloon.device().SetStatus(0);
  EXPECT_NE(balloon.device().ConfigGeneration(), before);
  EXPECT_EQ(balloon.config(), BalloonConfig{.num_pages = 7})
      << "what the host wants is for the next driver too";
}

// --- Work: a pass over a queue is limited, and queues take turns.

TEST(VirtioDeviceBase, KickedQueuesTakeTurns) {
  HostileBalloon balloon(kAll);
  ASSERT_TRUE(balloon.Start());
  HostileDriver& reports = balloon.at(BalloonQueue::kReporting);
  for (uint16_t i = 0; i < 4; ++i) {
    reports.Describe(i, HostileBalloon::Pages(0x10000));
  }
  // The guest offers the next report from inside each discard.
  uint16_t reported = 0;
  balloon.OnDiscard([&] { reports.Offer(++reported % 4); });
  reports.Offer(0);
  balloon.at(BalloonQueue::kDeflate).OfferChain({balloon.Words({0x10})});
  balloon.Kick(BalloonQueue::kReporting);
  balloon.Kick(BalloonQueue::kDeflate);
  int events = 0;
  balloon.time().WaitUntil([&] { return ++events > 2; }, Workqueue::kForever);
  EXPECT_EQ(balloon.at(BalloonQueue::kDeflate).used_idx(), 1);
  EXPECT_LE(reported, 8) << "more than a queue's length a look";
  balloon.device().SetStatus(0);
}

// What is requested of the device from inside a discard is handled after it.
TEST(VirtioDeviceBase, RequestsDuringADiscardAreHandledAfterIt) {
  HostileBalloon balloon(kAll);
  ASSERT_TRUE(balloon.Start());
  balloon.Send(BalloonQueue::kStats, {VirtqDesc(balloon.Words({}))});
  ASSERT_EQ(balloon.counters().stats_updates, 1u);
  ASSERT_EQ(balloon.at(BalloonQueue::kStats).used_idx(), 0);
  balloon.OnDiscard([&] {
    ASSERT_TRUE(balloon.device().RequestStatistics().ok());
    EXPECT_EQ(balloon.at(BalloonQueue::kStats).used_idx(), 0);
  });
  balloon.Send(BalloonQueue::kReporting, {HostileBalloon::Pages(0x10000)});
  EXPECT_EQ(balloon.at(BalloonQueue::kStats).used_idx(), 1);
}

// --- Where the device may write.

constexpr BalloonQueue kQueues[] = {
    BalloonQueue::kInflate, BalloonQueue::kDeflate, BalloonQueue::kStats,
    BalloonQueue::kFreePage, BalloonQueue::kReporting};

// Offers a chain on each queue.
void OfferToAllQueues(HostileBalloon& balloon) {
  ASSERT_TRUE(balloon.device().StartHinting().ok());
  const uint32_t run = balloon.config().free_page_hint_cmd_id;
  balloon.at(BalloonQueue::kInflate)
      .OfferChain({balloon.Words({0x30, 0x31}, 0x8000)});
  balloon.at(BalloonQueue::kDeflate).OfferChain({balloon.Words({7}, 0x9000)});
  balloon.at(BalloonQueue::kStats)
      .OfferChain({balloon.Bytes(std::vector<std::byte>(20), 0xa000)});
  balloon.at(BalloonQueue::kFreePage)
      .OfferChain(
          {balloon.Words({run}, 0xb000), HostileBalloon::Pages(0x40000)});
  balloon.at(BalloonQueue::kReporting)
      .OfferChain({HostileBalloon::Pages(0x50000)});
}
void HandleAllQueues(HostileBalloon& balloon) {
  for (const BalloonQueue queue : kQueues) balloon.Kick(queue);
  balloon.time().RunUntilIdle();
  ASSERT_TRUE(balloon.device().RequestStatistics().ok());
  balloon.time().RunUntilIdle();
}

// To the used rings only. Discarded memory is changed by the host.
TEST(VirtioDeviceBase, S2_7_5_1_WritesToTheUsedRingsOnly) {
  HostileBalloon balloon(kAll);
  ASSERT_TRUE(balloon.Start());
  OfferToAllQueues(balloon);
  const std::span<std::byte> bytes =
      balloon.ram().Translate({Gpa(0), kMiB})->bytes();
  const std::vector<std::byte> before(bytes.begin(), bytes.end());
  HandleAllQueues(balloon);
  std::vector<bool> is_used_ring(bytes.size());
  for (uint64_t place = 0; place < kBalloonQueues; ++place) {
    const VirtqueueLayout layout =
        LayOutVirtqueue(Gpa((1 + place) * kPageSize), 4);
    const auto start =
        is_used_ring.begin() + static_cast<ptrdiff_t>(layout.used.value());
    std::fill_n(start, layout.used_bytes(), true);
  }
  for (uint64_t at = 0; at < bytes.size(); ++at) {
    if (bytes[at] != before[at]) {
      EXPECT_TRUE(is_used_ring[at]) << "wrote to " << at;
    }
  }
}
TEST(VirtioDeviceBase, S2_7_8_2_ReportsZeroBytesWritten) {
  HostileBalloon balloon(kAll);
  ASSERT_TRUE(balloon.Start());
  OfferToAllQueues(balloon);
  HandleAllQueues(balloon);
  for (const BalloonQueue queue : kQueues) {
    EXPECT_EQ(balloon.at(queue).used_idx(), 1) << Name(queue);
    EXPECT_EQ(balloon.at(queue).used(0).len, 0u) << Name(queue);
  }
}

}  // namespace
}  // namespace guestmm::virtio_device_base_test
