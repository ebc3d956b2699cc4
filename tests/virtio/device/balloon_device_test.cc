#include "guestmm/virtio/device/balloon_device.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <cstring>
#include <memory>
#include <thread>
#include <vector>

#include "guestmm/base/thread_workqueue.h"
#include "guestmm/base/virtual_time.h"
#include "guestmm/host/discard/discarding_hypervisor.h"
#include "tests/testing/huge_page_pool.h"
#include "tests/testing/test_hypervisors.h"
#include "tests/virtio/virtio_testing.h"

namespace guestmm::balloon_device_test {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr uint16_t kReporting = 2;
constexpr uint64_t kFeatures = kVirtioFVersion1 | kBalloonFPageReporting;
constexpr uint8_t kUntilFeatures = kVirtioAcknowledge | kVirtioDriver;
constexpr uint8_t kAgreed = kUntilFeatures | kVirtioFeaturesOk;
constexpr uint8_t kRunning = kAgreed | kVirtioDriverOk;

// A device over two regions, with a ring of 4 in the first:
//
//   0          1 MiB      2 MiB          5 MiB      6 MiB
//   | region 0 | region 1 |     hole     | region 2 |
class BalloonDeviceTest : public ::testing::Test {
 protected:
  // Performs the handshake and sets the queue up.
  void Start(VirtioDevice& device) {
    device.SetStatus(kVirtioAcknowledge);
    device.SetStatus(kUntilFeatures);
    ASSERT_TRUE(device.SetDriverFeatures(kFeatures).ok());
    device.SetStatus(kAgreed);
    device.SetConfigNotifier(config_);
    const auto kick = device.SetUpQueue(kReporting, layout_, used_);
    ASSERT_TRUE(kick.ok()) << kick.status();
    kick_ = *kick;
    device.SetStatus(kRunning);
    ASSERT_EQ(device.status(), kRunning);
  }
  void Start() { Start(device_); }
  void KickAndRun() {
    kick_->Notify();
    time_.RunUntilIdle();
  }
  static VirtqDesc Pages(uint64_t gpa, uint64_t len = kPageSize) {
    return {.addr = gpa,
            .len = static_cast<uint32_t>(len),
            .flags = kVirtqDescWrite,
            .next = 0};
  }
  void ExpectAcknowledged(uint16_t chains) {
    EXPECT_EQ(driver_.used_idx(), chains);
    EXPECT_EQ(driver_.used((chains - 1) % 4).len, 0u);
    EXPECT_EQ(device_.counters().acknowledged, chains);
    EXPECT_EQ(device_.status(), kRunning);
    EXPECT_TRUE(device_.CheckInvariants().ok());
  }
  // Offers `bad` between two good pages: these are discarded, and `bad` is not.
  void ExpectSkipped(VirtqDesc bad, uint64_t BalloonDeviceCounters::*reason) {
    Start();
    driver_.OfferChain({Pages(0x10000), bad, Pages(0x20000)});
    KickAndRun();
    ExpectAcknowledged(1);
    EXPECT_THAT(hypervisor_.batches(),
                ElementsAre(ElementsAre(GpaRange{Gpa(0x10000), kPageSize},
                                        GpaRange{Gpa(0x20000), kPageSize})));
    const BalloonDeviceCounters counters = device_.counters();
    EXPECT_EQ(counters.*reason, 1u);
    EXPECT_EQ(counters.skipped(), 1u);
    EXPECT_EQ(counters.ranges, 2u);
    EXPECT_EQ(counters.bytes, 2 * kPageSize);
  }
  void ExpectNeedsReset() {
    KickAndRun();
    EXPECT_EQ(device_.status(), kRunning | kVirtioNeedsReset);
    EXPECT_EQ(config_.count(), 1);
    EXPECT_EQ(used_.count(), 0);
    EXPECT_EQ(driver_.used_idx(), 0);
    EXPECT_EQ(device_.counters().broken_queues, 1u);
    EXPECT_THAT(hypervisor_.batches(), IsEmpty());
  }

  const std::unique_ptr<GuestRam> ram_ =
      MakeRam({{Gpa(0), kMiB}, {Gpa(kMiB), kMiB}, {Gpa(5 * kMiB), kMiB}});
  const VirtqueueLayout layout_ = LayOutVirtqueue(Gpa(0x1000), 4);
  HostileDriver driver_{*ram_, layout_};
  CountingNotifier used_;
  CountingNotifier config_;
  Notifier* kick_ = nullptr;
  RecordingHypervisor hypervisor_;
  VirtualTime time_{1};
  BalloonDevice device_{*ram_, hypervisor_, time_};
};

TEST_F(BalloonDeviceTest, DiscardsAReportAsOneBatchAndAcknowledges) {
  Start();
  driver_.OfferChain({Pages(0), Pages(0x80000, 0x80000), Pages(kMiB, kMiB)});
  KickAndRun();
  ExpectAcknowledged(1);
  EXPECT_EQ(used_.count(), 1);
  EXPECT_EQ(config_.count(), 0);
  EXPECT_THAT(hypervisor_.batches(),
              ElementsAre(ElementsAre(GpaRange{Gpa(0), kPageSize},
                                      GpaRange{Gpa(0x80000), 0x80000},
                                      GpaRange{Gpa(kMiB), kMiB})));
  const BalloonDeviceCounters counters = device_.counters();
  EXPECT_EQ(counters.reports, 1u);
  EXPECT_EQ(counters.ranges, 3u);
  EXPECT_EQ(counters.bytes, kPageSize + 0x80000 + kMiB);
  EXPECT_EQ(counters.skipped(), 0u);
  EXPECT_EQ(counters.discard_errors, 0u);
}

// --- Bad descriptors: skipped, counted, the chain acknowledged.

TEST_F(BalloonDeviceTest, SkipsReadableBuffers) {
  VirtqDesc bad = Pages(0x30000);
  bad.flags = 0;
  ExpectSkipped(bad, &BalloonDeviceCounters::skipped_readable);
}
TEST_F(BalloonDeviceTest, SkipsIndirectIfNotNegotiated) {
  VirtqDesc bad = Pages(0x30000);
  bad.flags |= kVirtqDescIndirect;
  ExpectSkipped(bad, &BalloonDeviceCounters::skipped_indirect);
}
TEST_F(BalloonDeviceTest, SkipsAnEmptyRange) {
  ExpectSkipped(Pages(0x30000, 0), &BalloonDeviceCounters::skipped_empty);
}
TEST_F(BalloonDeviceTest, SkipsAnUnalignedAddress) {
  ExpectSkipped(Pages(0x30010), &BalloonDeviceCounters::skipped_unaligned);
}
TEST_F(BalloonDeviceTest, SkipsAnUnalignedLength) {
  ExpectSkipped(Pages(0x30000, kPageSize - 1),
                &BalloonDeviceCounters::skipped_unaligned);
}
// The host can only discard whole huge pages.
TEST_F(BalloonDeviceTest, SkipsPartsOfGranules) {
  const auto pool = HugePagePool::Reserve(3);
  if (!pool.ok()) GTEST_SKIP() << "NOT tested: " << pool.status();
  const auto ram = GuestRam::Create({.regions = {{Gpa(0), 6 * kMiB}},
                                     .source = MemorySource::kHugetlb})
                       .value();
  HostileDriver driver(*ram, layout_);
  BalloonDevice device(*ram, hypervisor_, time_);
  Start(device);
  driver.OfferChain({Pages(2 * kMiB + kPageSize, 2 * kMiB),
                     Pages(2 * kMiB, kMiB), Pages(4 * kMiB, 2 * kMiB)});
  KickAndRun();
  EXPECT_THAT(hypervisor_.batches(),
              ElementsAre(ElementsAre(GpaRange{Gpa(4 * kMiB), 2 * kMiB})));
  EXPECT_EQ(device.counters().skipped_unaligned, 2u);
  EXPECT_EQ(device.counters().acknowledged, 1u);
}
TEST_F(BalloonDeviceTest, SkipsARangeInTheHole) {
  ExpectSkipped(Pages(3 * kMiB), &BalloonDeviceCounters::skipped_outside_ram);
}
TEST_F(BalloonDeviceTest, SkipsARangePastTheEnd) {
  ExpectSkipped(Pages(6 * kMiB), &BalloonDeviceCounters::skipped_outside_ram);
}
TEST_F(BalloonDeviceTest, SkipsARangeThatWrapsAround) {
  ExpectSkipped(Pages(~uint64_t{0xfff}, 2 * kPageSize),
                &BalloonDeviceCounters::skipped_outside_ram);
}
TEST_F(BalloonDeviceTest, SkipsARangeThatLeavesItsRegion) {
  ExpectSkipped(Pages(6 * kMiB - kPageSize, 2 * kPageSize),
                &BalloonDeviceCounters::skipped_across_region);
}
// Adjacent in guest-physical addresses does not imply adjacent on the host.
TEST_F(BalloonDeviceTest, SkipsARangeThatCrossesIntoTheNextRegion) {
  ExpectSkipped(Pages(kMiB - kPageSize, 2 * kPageSize),
                &BalloonDeviceCounters::skipped_across_region);
}
TEST_F(BalloonDeviceTest, SkipsTheLargestLength) {
  ExpectSkipped(Pages(0x30000, 0xfffff000),
                &BalloonDeviceCounters::skipped_across_region);
}

TEST_F(BalloonDeviceTest, AcknowledgesAChainWithNothingValid) {
  Start();
  driver_.OfferChain({Pages(3 * kMiB), Pages(1)});
  KickAndRun();
  ExpectAcknowledged(1);
  EXPECT_EQ(used_.count(), 1);
  EXPECT_THAT(hypervisor_.batches(), IsEmpty());
}

TEST_F(BalloonDeviceTest, ForwardsDuplicatesAndOverlaps) {
  Start();
  driver_.OfferChain(
      {Pages(0x10000, 0x4000), Pages(0x10000, 0x4000), Pages(0x12000, 0x4000)});
  KickAndRun();
  ExpectAcknowledged(1);
  EXPECT_EQ(device_.counters().ranges, 3u);
}

TEST_F(BalloonDeviceTest, CountsAHypervisorsErrorAndAcknowledges) {
  FailingHypervisor failing(hypervisor_, [](uint64_t n) { return n == 0; });
  BalloonDevice device(*ram_, failing, time_);
  Start(device);
  driver_.OfferChain({Pages(0x10000)});
  KickAndRun();
  driver_.OfferChain({Pages(0x10000)});
  KickAndRun();
  EXPECT_EQ(driver_.used_idx(), 2);
  EXPECT_EQ(device.counters().discard_errors, 1u);
  EXPECT_EQ(hypervisor_.batches().size(), 1u);
}

// --- A broken ring: NEEDS_RESET, then nothing.

TEST_F(BalloonDeviceTest, NeedsResetAfterAHeadPastTheTable) {
  Start();
  driver_.Offer(4);
  ExpectNeedsReset();
}
TEST_F(BalloonDeviceTest, NeedsResetAfterAnIndexJump) {
  Start();
  driver_.JumpTo(5);
  ExpectNeedsReset();
}
TEST_F(BalloonDeviceTest, NeedsResetAfterALoop) {
  Start();
  VirtqDesc loop = Pages(0x10000);
  loop.flags |= kVirtqDescNext;
  loop.next = 1;
  driver_.Describe(1, loop);
  driver_.Offer(1);
  ExpectNeedsReset();
}
// A guest reports its own ring, so that the next index read is 0.
TEST_F(BalloonDeviceTest, NeedsResetAfterTheGuestReportedItsRing) {
  DiscardingHypervisor madvise(*ram_);
  BalloonDevice device(*ram_, madvise, time_);
  Start(device);
  driver_.OfferChain({Pages(0x10000)});
  KickAndRun();
  driver_.OfferChain({Pages(0x1000)});
  KickAndRun();
  EXPECT_EQ(device.counters().acknowledged, 2u);
  EXPECT_NE(device.status() & kVirtioNeedsReset, 0);
}
TEST_F(BalloonDeviceTest, StopsUntilItIsReset) {
  Start();
  driver_.JumpTo(5);
  ExpectNeedsReset();
  driver_.memory().Clear();
  driver_.JumpTo(0);
  driver_.OfferChain({Pages(0x10000)});
  KickAndRun();
  EXPECT_EQ(config_.count(), 1);
  EXPECT_THAT(hypervisor_.batches(), IsEmpty());

  device_.SetStatus(0);
  EXPECT_EQ(device_.status(), 0);
  driver_.memory().Clear();
  driver_.JumpTo(0);
  Start();
  driver_.OfferChain({Pages(0x10000)});
  KickAndRun();
  EXPECT_EQ(driver_.used_idx(), 1);
  EXPECT_EQ(hypervisor_.batches().size(), 1u);
}
TEST_F(BalloonDeviceTest, BreaksWithoutAConfigNotifier) {
  device_.SetStatus(kUntilFeatures);
  ASSERT_TRUE(device_.SetDriverFeatures(kFeatures).ok());
  device_.SetStatus(kAgreed);
  kick_ = device_.SetUpQueue(kReporting, layout_, used_).value();
  device_.SetStatus(kRunning);
  driver_.JumpTo(5);
  KickAndRun();
  EXPECT_NE(device_.status() & kVirtioNeedsReset, 0);
}

// --- Notifications, and bounded work.

TEST_F(BalloonDeviceTest, S2_7_7_DoesNotNotifyIfTheDriverDisabledIt) {
  Start();
  driver_.SuppressNotifications();
  driver_.OfferChain({Pages(0x10000)});
  KickAndRun();
  ExpectAcknowledged(1);
  EXPECT_EQ(used_.count(), 0);
}
TEST_F(BalloonDeviceTest, S2_7_10_2_ASpuriousKickDoesNothing) {
  Start();
  KickAndRun();
  KickAndRun();
  EXPECT_EQ(used_.count() + config_.count(), 0);
  EXPECT_EQ(device_.status(), kRunning);
}
TEST_F(BalloonDeviceTest, DisablesKicksDuringAPass) {
  uint16_t seen = 0;
  RecordingHypervisor hypervisor(nullptr, [&](std::span<const GpaRange>) {
    seen = driver_.memory().used_flags().load();
  });
  BalloonDevice device(*ram_, hypervisor, time_);
  Start(device);
  driver_.OfferChain({Pages(0x10000)});
  KickAndRun();
  EXPECT_EQ(seen, kVirtqUsedNoNotify);
  EXPECT_EQ(driver_.memory().used_flags().load(), 0);
}
// A guest that offers the next report from inside each discard could occupy the
// workqueue forever. After as many chains as the queue has entries, other work
// runs.
TEST_F(BalloonDeviceTest, HandlesAtMostAQueuesLengthPerPass) {
  int discards = 0;
  RecordingHypervisor hypervisor(nullptr, [&](std::span<const GpaRange>) {
    ++discards;
    driver_.Offer(static_cast<uint16_t>(discards % 4));
  });
  BalloonDevice device(*ram_, hypervisor, time_);
  Start(device);
  for (uint16_t i = 0; i < 4; ++i) driver_.Describe(i, Pages(0x10000));
  driver_.Offer(0);
  kick_->Notify();
  std::vector<int> after_each_event;
  time_.WaitUntil(
      [&] {
        after_each_event.push_back(discards);
        return after_each_event.size() == 4;
      },
      Workqueue::kForever);
  EXPECT_THAT(after_each_event, ElementsAre(0, 4, 8, 12));
  device.SetStatus(0);
}

// used.flags overlaps available.idx, so that a chain seems to appear and
// disappear when the device turns kicks off and on. When it turns them on, the
// index differs from the one that it read, so it looks again: forever, but one
// pass at a time.
TEST_F(BalloonDeviceTest, LooksAgainIfTheIndexMovedMeanwhile) {
  VirtqueueLayout layout = LayOutVirtqueue(Gpa(0x2000), 4);
  layout.available = Gpa(0x3002);
  layout.used = Gpa(0x3004);
  ASSERT_TRUE(device_.SetDriverFeatures(kFeatures).ok());
  device_.SetStatus(kAgreed);
  kick_ = device_.SetUpQueue(kReporting, layout, used_).value();
  device_.SetStatus(kRunning);
  kick_->Notify();
  int events = 0;
  EXPECT_TRUE(
      time_.WaitUntil([&] { return ++events > 5; }, Workqueue::kForever));
  EXPECT_EQ(device_.counters().acknowledged, 1u);
  EXPECT_EQ(device_.status(), kRunning);
}

// --- Status.

TEST_F(BalloonDeviceTest, S2_1_2_TouchesNothingBeforeDriverOk) {
  ASSERT_TRUE(device_.SetDriverFeatures(kFeatures).ok());
  device_.SetStatus(kAgreed);
  kick_ = device_.SetUpQueue(kReporting, layout_, used_).value();
  driver_.OfferChain({Pages(0x10000)});
  KickAndRun();
  EXPECT_EQ(driver_.used_idx(), 0);
  device_.SetStatus(kRunning);
  KickAndRun();
  ExpectAcknowledged(1);
}
TEST_F(BalloonDeviceTest, S2_1_TouchesNothingAfterTheDriverFailed) {
  Start();
  device_.SetStatus(kRunning | kVirtioFailed);
  driver_.OfferChain({Pages(0x10000)});
  KickAndRun();
  EXPECT_EQ(driver_.used_idx(), 0);
}

// --- Reset.

TEST_F(BalloonDeviceTest, S2_4_1_TouchesNothingAfterAReset) {
  Start();
  driver_.OfferChain({Pages(0x10000)});
  kick_->Notify();
  device_.SetStatus(0);
  time_.RunUntilIdle();
  KickAndRun();
  EXPECT_EQ(driver_.used_idx(), 0);
  EXPECT_EQ(used_.count() + config_.count(), 0);
  EXPECT_THAT(hypervisor_.batches(), IsEmpty());
}
// On one thread, a reset from inside a discard cannot wait for the discard. It
// completes, and status() reads 0, when the discard has ended.
TEST_F(BalloonDeviceTest, AResetFromInsideADiscardCompletesAfterIt) {
  BalloonDevice* device = nullptr;
  int discards = 0;
  RecordingHypervisor hypervisor(nullptr, [&](std::span<const GpaRange>) {
    ++discards;
    device->SetStatus(0);
    EXPECT_EQ(device->status(), kRunning) << "not complete yet";
    device->SetStatus(kVirtioAcknowledge);  // no effect
    kick_->Notify();
    EXPECT_TRUE(device->CheckInvariants().ok());
  });
  BalloonDevice reentered(*ram_, hypervisor, time_);
  device = &reentered;
  Start(reentered);
  driver_.Describe(1, Pages(0x20000));
  driver_.OfferChain({Pages(0x10000)});
  driver_.Offer(1);
  KickAndRun();
  EXPECT_EQ(reentered.status(), 0);
  EXPECT_EQ(discards, 1) << "the second report was handled after the reset";
  EXPECT_EQ(driver_.used_idx(), 0);
  EXPECT_EQ(used_.count(), 0);
  EXPECT_EQ(reentered.counters().reports, 1u);
  EXPECT_EQ(reentered.counters().acknowledged, 0u);
}
// On two threads SetStatus(0) waits for a discard in progress.
TEST_F(BalloonDeviceTest, AResetWaitsForTheDiscardOfAnotherThread) {
  std::atomic<bool> in_discard = false;
  std::atomic<bool> resetting = false;
  std::atomic<bool> discarded = false;
  RecordingHypervisor hypervisor(nullptr, [&](std::span<const GpaRange>) {
    in_discard = true;
    in_discard.notify_one();
    resetting.wait(false);
    // Gives a reset that does not wait time to finish.
    for (int i = 0; i < 100; ++i) std::this_thread::yield();
    discarded = true;
  });
  ThreadWorkqueue workqueue;
  BalloonDevice device(*ram_, hypervisor, workqueue);
  Start(device);
  driver_.OfferChain({Pages(0x10000)});
  kick_->Notify();
  in_discard.wait(false);
  EXPECT_EQ(device.status(), kRunning) << "status does not wait";

  resetting = true;
  resetting.notify_one();
  device.SetStatus(0);
  EXPECT_TRUE(discarded) << "the reset overtook the discard";
  EXPECT_EQ(device.status(), 0);
  // Acknowledged only if the discard ended before the reset was requested.
  EXPECT_EQ(driver_.used_idx(), device.counters().acknowledged);
  EXPECT_EQ(used_.count(), driver_.used_idx());
}

using BalloonDeviceDeathTest = BalloonDeviceTest;

TEST_F(BalloonDeviceDeathTest, AQueueSizeThatIsNoPowerOfTwo) {
  EXPECT_DEATH(
      BalloonDevice(*ram_, hypervisor_, time_, {.reporting_queue_size = 33}),
      "balloon queue of 33 descriptors: must be a power of 2 up to "
      "32768");
}
TEST_F(BalloonDeviceDeathTest, DestroyedFromInsideItsDiscard) {
  std::unique_ptr<BalloonDevice> device;
  RecordingHypervisor hypervisor(
      nullptr, [&](std::span<const GpaRange>) { device.reset(); });
  device = std::make_unique<BalloonDevice>(*ram_, hypervisor, time_);
  Start(*device);
  driver_.OfferChain({Pages(0x10000)});
  EXPECT_DEATH(KickAndRun(), "device destroyed from inside its own handler");
}

}  // namespace
}  // namespace guestmm::balloon_device_test
