// What a device does alike whatever kind it is of: configuration, status,
// features, and queues side by side. The balloon is the kind at hand.

#include "guestmm/virtio/device/virtio_device_base.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <memory>
#include <vector>

#include "tests/virtio/balloon_testing.h"
#include "tests/virtio/virtio_testing.h"

namespace guestmm::virtio_device_base_test {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

// With each field of the configuration there is.
constexpr BalloonDeviceOptions kAll = {.features = kBalloonFeatures};

// --- Features.

TEST(VirtioDeviceBase, S6_2_OffersVersion1) {
  HostileBalloon balloon({.features = 0, .queue_features = {}});
  EXPECT_EQ(balloon.device().DeviceFeatures(), kVirtioFVersion1);
}

// Whatever the driver takes of what is offered will do, but what MUST_TELL_HOST
// says of itself.
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

// What was changed before there was a driver, it hears of when there is.
TEST(VirtioDeviceBase, NotifiesAtDriverOkOfWhatChangedBefore) {
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

// One broken queue stops them all: nobody knows what the driver thinks.
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

// Who wants to hear of changes is the next driver's to say.
TEST(VirtioDeviceBase, S2_4_1_AResetForgetsWhomToNotify) {
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
            "configuration from 8, 4 bytes: it has 8");
  EXPECT_EQ(Message(WriteWord(balloon.device(), 12, 1)),
            "configuration from 12, 4 bytes: it has 8");
}

// As in §5.5.4: a field is there if its feature is offered.
TEST(VirtioDeviceBase, TheConfigurationEndsWithWhatIsOffered) {
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

TEST(VirtioDeviceBase, RefusesToWriteWhatIsNotTheDrivers) {
  HostileBalloon balloon(kAll);
  ASSERT_TRUE(balloon.Start());
  BalloonDevice& device = balloon.device();
  EXPECT_TRUE(WriteWord(device, offsetof(BalloonConfig, actual), 9).ok());
  for (const uint32_t offset : {0u, 2u, 5u, 8u}) {
    const absl::Status status = WriteWord(device, offset, 1);
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << offset;
  }
  EXPECT_EQ(Message(WriteWord(device, 8, 1)),
            "configuration written from 8, 4 bytes: the driver may write "
            "actual and, with PAGE_POISON, poison_val, each as a whole");
  EXPECT_EQ(balloon.config(), BalloonConfig{.actual = 9});
}

TEST(VirtioDeviceBase, RefusesToWriteAPartOfAField) {
  HostileBalloon balloon(kAll);
  ASSERT_TRUE(balloon.Start());
  const std::array<std::byte, 8> ones = {};
  for (const size_t bytes : {0, 1, 2, 3, 5, 8}) {
    EXPECT_TRUE(absl::IsInvalidArgument(
        balloon.device().WriteConfig(4, std::span(ones).first(bytes))))
        << bytes;
  }
}

TEST(VirtioDeviceBase, S2_5_TheGenerationChangesWithWhatTheDeviceChanges) {
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

// A reset clears what the driver wrote: who read before and after saw two.
TEST(VirtioDeviceBase, S2_5_TheGenerationChangesWithWhatAResetClears) {
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

// --- Work: a queue's length at a time, the queues in turn.

TEST(VirtioDeviceBase, EachKickedQueueHasItsTurnHoweverManyChainsOneHas) {
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

// In virtual time others run while a discard takes its time. What they ask of
// the device then is not forgotten.
TEST(VirtioDeviceBase, WhatIsAskedFromInsideADiscardIsDoneAfterIt) {
  HostileBalloon balloon(kAll);
  ASSERT_TRUE(balloon.Start());
  balloon.Send(BalloonQueue::kStats, {VirtqDesc(balloon.Words({}))});
  ASSERT_EQ(balloon.counters().stats_updates, 1u);
  ASSERT_EQ(balloon.at(BalloonQueue::kStats).used_idx(), 0);
  balloon.OnDiscard([&] {
    ASSERT_TRUE(balloon.device().RequestStatistics().ok());
    balloon.time().RunUntilIdle();
    EXPECT_EQ(balloon.at(BalloonQueue::kStats).used_idx(), 0);
  });
  balloon.Send(BalloonQueue::kReporting, {HostileBalloon::Pages(0x10000)});
  EXPECT_EQ(balloon.at(BalloonQueue::kStats).used_idx(), 1);
}

// --- What it may write.

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

// To the used rings, and to nothing else of the guest's; what it discards is
// the host's to do.
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
TEST(VirtioDeviceBase, S2_7_8_2_SaysOfNoChainThatItWasWrittenTo) {
  HostileBalloon balloon(kAll);
  ASSERT_TRUE(balloon.Start());
  OfferToAllQueues(balloon);
  HandleAllQueues(balloon);
  for (const BalloonQueue queue : kQueues) {
    EXPECT_EQ(balloon.at(queue).used_idx(), 1) << Name(queue);
    EXPECT_EQ(balloon.at(queue).used(0).len, 0u) << Name(queue);
  }
}

// --- A driver that goes by the book.

TEST(DriverSetup, S3_1_1_DoesItInTheOrderOfTheText) {
  BalloonGuest guest({.features = kBalloonFeatures});
  ASSERT_TRUE(guest.Start({.queue_features = {}}).ok());
  EXPECT_THAT(
      guest.slow().calls(),
      ElementsAre("status 0x0", "status 0x1", "status 0x3",
                  "features 0x10000002f", "status 0xb", "queue 0", "queue 1",
                  "queue 2", "queue 3", "queue 4", "status 0xf", "kick 2"));
}

// §5.5.5 has the poison before DRIVER_OK, and §3.1.1 has no write before
// FEATURES_OK and no kick before DRIVER_OK.
TEST(DriverSetup, S3_1_1_WritesThePoisonBetweenFeaturesOkAndDriverOk) {
  BalloonGuest guest({.features = kBalloonFeatures}, PagePoisonMode::kPoison);
  ASSERT_TRUE(guest.Start({.queue_features = {}}).ok());
  EXPECT_THAT(guest.slow().calls(),
              ElementsAre("status 0x0", "status 0x1", "status 0x3",
                          "features 0x10000003f", "status 0xb", "queue 0",
                          "queue 1", "queue 2", "queue 3", "queue 4",
                          "write 12: 0xaaaaaaaa", "status 0xf", "kick 2"));
}

// Between two resets bits are added only.
TEST(DriverSetup, S2_1_1_ClearsNoStatusBit) {
  BalloonGuest guest({.features = kBalloonFeatures});
  for (int i = 0; i < 3; ++i) {
    ASSERT_TRUE(guest.Start().ok());
    guest.Stop();
  }
  unsigned before = 0;
  int resets = 0;
  for (const std::string& call : guest.slow().calls()) {
    if (!call.starts_with("status 0x")) continue;
    const auto status = static_cast<unsigned>(
        std::stoul(call.substr(std::string("status 0x").size()), nullptr, 16));
    if (status == 0) {
      ++resets;
    } else {
      EXPECT_EQ(before & ~status, 0u) << call;
    }
    before = status;
  }
  EXPECT_EQ(resets, 6) << "one before, one after, each time";
}

TEST(DriverSetup, S2_1_1_ResetsADeviceThatItFailedWith) {
  BalloonGuest guest({});
  EXPECT_FALSE(guest.Start({.queue_size = 3}).ok());
  EXPECT_EQ(guest.device().status(), kVirtioFailed);
  guest.slow().Forget();
  ASSERT_TRUE(guest.Start().ok());
  EXPECT_EQ(guest.slow().calls().front(), "status 0x0");
  EXPECT_EQ(guest.device().status(), kRunningStatus);
}

TEST(DriverSetup, S2_2_1_AcceptsNothingThatIsNotOffered) {
  for (uint64_t offered = 0; offered <= kBalloonFeatures; ++offered) {
    for (const PagePoisonMode mode :
         {PagePoisonMode::kOff, PagePoisonMode::kPoison}) {
      BalloonGuest guest({.features = offered, .queue_features = {}}, mode);
      ASSERT_TRUE(guest.Start().ok()) << offered;
      EXPECT_EQ(guest.driver().features() & ~(offered | kVirtioFVersion1), 0u);
    }
  }
}

TEST(DriverSetup, S6_1_AcceptsVersion1) {
  BalloonGuest guest({.features = 0, .queue_features = {}});
  ASSERT_TRUE(guest.Start().ok());
  EXPECT_EQ(guest.driver().features(), kVirtioFVersion1);
}

// §2.5.1: fields that were read while they changed are of two configurations.
// Here the host's second wish comes right after the first was read.
TEST(DriverSetup, S2_5_1_ReadsAgainWhatChangedMeanwhile) {
  BalloonGuest guest({});
  ASSERT_TRUE(guest.Start().ok());
  guest.slow().after_read = [&] { guest.device().SetTarget(3); };
  guest.slow().Hold(0);
  guest.device().SetTarget(9);
  guest.time().RunUntilIdle();
  EXPECT_EQ(guest.LastWords(0).size(), 3u) << "went by the first of the two";
}

// Fields whose feature is not offered are not there to be read, whatever the
// driver can do.
TEST(DriverSetup, S2_5_1_ReadsNoFieldWhoseFeatureIsNotOffered) {
  BalloonGuest guest({.features = kBalloonFPageReporting});
  ASSERT_TRUE(guest.Start().ok());
  guest.device().SetTarget(3);
  guest.time().RunUntilIdle();
  EXPECT_EQ(guest.driver().balloon_pages(), PageCount(3))
      << "reading all 16 bytes of a configuration of 8 fails";
}

}  // namespace
}  // namespace guestmm::virtio_device_base_test
