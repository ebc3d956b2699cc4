// Page poison: the contents of pages that the host may have discarded.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <vector>

#include "guestmm/host/discard/discarding_hypervisor.h"
#include "tests/virtio/balloon_testing.h"
#include "tests/virtio/virtio_testing.h"

namespace guestmm::balloon_poison_test {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::SizeIs;

constexpr uint64_t kReport = kBalloonFPageReporting;
constexpr uint64_t kPoisonBit = kBalloonFPagePoison;
constexpr size_t kPoisonAt = offsetof(BalloonConfig, poison_val);

// --- Which features the driver accepts.

struct Case {
  uint64_t offered;
  PagePoisonMode mode;
  uint64_t taken;
};

TEST(PoisonDriver, S5_5_3_1_AcceptsReportingOnlyIfPoisonAllows) {
  using Mode = PagePoisonMode;
  for (const Case& c : {
           // The contents of free pages do not matter: the host need not know
           // about poison.
           Case{kReport, Mode::kOff, kReport},
           Case{kPoisonBit, Mode::kOff, 0},
           Case{kReport | kPoisonBit, Mode::kOff, kReport},
           // Free pages must keep their contents.
           Case{kReport, Mode::kPoison, 0},
           Case{kReport, Mode::kInitOnFree, 0},
           Case{kPoisonBit, Mode::kPoison, kPoisonBit},
           Case{kReport | kPoisonBit, Mode::kPoison, kReport | kPoisonBit},
           Case{kReport | kPoisonBit, Mode::kInitOnFree, kReport | kPoisonBit},
       }) {
    BalloonGuest guest({.features = c.offered, .queue_features = {}}, c.mode);
    ASSERT_TRUE(guest.Start().ok());
    EXPECT_EQ(guest.driver().features(), kVirtioFVersion1 | c.taken)
        << "offered " << c.offered << ", mode " << static_cast<int>(c.mode);
  }
}
// A driver that may not accept PAGE_POISON behaves as if it were not offered.
TEST(PoisonDriver, S5_5_3_1_AlsoIfItMayNotAcceptPoison) {
  BalloonGuest guest({.features = kReport | kPoisonBit, .queue_features = {}},
                     PagePoisonMode::kPoison);
  ASSERT_TRUE(guest.Start({.features = kReport}).ok());
  EXPECT_EQ(guest.driver().features(), kVirtioFVersion1);
}
TEST(PoisonDriver, S5_5_3_1_AcceptsMustTellHostIfOffered) {
  BalloonGuest guest({.features = kBalloonFMustTellHost});
  ASSERT_TRUE(guest.Start().ok());
  EXPECT_NE(guest.driver().features() & kBalloonFMustTellHost, 0u);
}

TEST(PoisonDriver, S5_5_6_6_1_WritesPoisonValBeforeDriverOkAndNotAgain) {
  for (const auto& [mode, value] :
       {std::pair(PagePoisonMode::kPoison, "0xaaaaaaaa"),
        std::pair(PagePoisonMode::kInitOnFree, "0x0")}) {
    BalloonGuest guest({.features = kReport | kPoisonBit}, mode);
    ASSERT_TRUE(guest.Start().ok());
    guest.device().SetTarget(10);
    guest.time().RunUntilIdle();
    guest.device().SetTarget(0);
    guest.time().RunUntilIdle();
    std::vector<std::string> calls = guest.slow().calls();
    const std::string write = absl::StrFormat("write 12: %s", value);
    const auto written = std::find(calls.begin(), calls.end(), write);
    const auto ready = std::find(calls.begin(), calls.end(), "status 0xf");
    EXPECT_LT(written, ready) << write;
    EXPECT_EQ(std::count_if(calls.begin(), calls.end(),
                            [](const std::string& call) {
                              return call.starts_with("write 12");
                            }),
              1);
  }
}
TEST(PoisonDriver, DoesNotWritePoisonValWithoutTheFeature) {
  BalloonGuest guest({.features = kReport | kPoisonBit});
  ASSERT_TRUE(guest.Start().ok());
  for (const std::string& call : guest.slow().calls()) {
    EXPECT_FALSE(call.starts_with("write")) << call;
  }
}

// The host discards them, but the next owner finds them filled.
TEST(PoisonDriver, S5_5_6_6_1_PagesOfTheBalloonComeBackFilled) {
  const auto ram = MakeRam({{Gpa(0), 8 * kMiB}});
  PagePoison poison(*ram, {.mode = PagePoisonMode::kPoison});
  DiscardingHypervisor madvise(*ram);
  VirtualTime time(1);
  BalloonDevice device(*ram, madvise, time, {.features = kPoisonBit});
  const auto allocator = PageAllocator::Create({.memory = {{Pfn(0), Pfn(1024)}},
                                                .cpus = 1,
                                                .max_order = Order(4),
                                                .min_free_kbytes = 64,
                                                .per_cpu_limits = {},
                                                .poison = &poison})
                             .value();
  const auto driver =
      BalloonDriver::Create(device, *ram, *allocator, time,
                            {.page_poison = PagePoisonMode::kPoison})
          .value();
  device.SetTarget(300);
  time.RunUntilIdle();
  ASSERT_EQ(driver->balloon_pages(), PageCount(300));
  ASSERT_EQ(madvise.counters().bytes, 300 * kPageSize);
  device.SetTarget(0);
  time.RunUntilIdle();
  std::vector<Pfn> all;
  while (const auto pfn = allocator->Allocate(0, Order(0))) all.push_back(*pfn);
  EXPECT_GT(all.size(), 300u);
  EXPECT_EQ(poison.corrupted_pages(), 0u);
  for (const Pfn pfn : all) allocator->Free(0, pfn, Order(0));
}

// Even if the host does not know about poison, so that hints are discarded.
TEST(PoisonDriver, S5_5_6_5_1_HintedPagesComeBackFilled) {
  BalloonGuest guest({.features = kBalloonFFreePageHint},
                     PagePoisonMode::kPoison);
  DiscardingHypervisor madvise(guest.ram());
  ASSERT_TRUE(guest.Start().ok());
  guest.on_discard = [&] {
    ASSERT_TRUE(madvise.Discard(guest.hypervisor().batches().back()).ok());
  };
  ASSERT_TRUE(guest.device().StartHinting().ok());
  guest.time().RunUntilIdle();
  EXPECT_GT(madvise.counters().bytes, 2 * kMiB);
  EXPECT_EQ(guest.held_pages(), 0u);
  EXPECT_GT(guest.TakeAllPages(), 500u);
  EXPECT_EQ(guest.poison().corrupted_pages(), 0u);
}

// --- The device.

BalloonDeviceOptions All() {
  return {.features = kReport | kPoisonBit | kBalloonFFreePageHint};
}

// Negotiates, and writes poison_val before DRIVER_OK.
void StartWithPoison(HostileBalloon& balloon, uint32_t value) {
  ASSERT_TRUE(balloon.Start(/*refused=*/0, value));
}

TEST(PoisonDevice, S5_5_6_6_1_RefusesPoisonValWhileDriverOkIsSet) {
  HostileBalloon balloon(All());
  StartWithPoison(balloon, 0xaaaaaaaa);
  const absl::Status status = WriteWord(balloon.device(), kPoisonAt, 1);
  EXPECT_TRUE(absl::IsInvalidArgument(status));
  EXPECT_EQ(Message(status),
            "poison_val: must not change while DRIVER_OK is set");
  EXPECT_EQ(balloon.config().poison_val, 0xaaaaaaaau);
}
// The device still has DRIVER_OK: not all front ends reset it in between.
TEST(PoisonDevice, TheNextDriverHasAPoisonOfItsOwn) {
  HostileBalloon balloon(All());
  StartWithPoison(balloon, 0xaaaaaaaa);
  balloon.StopQueues();
  EXPECT_TRUE(WriteWord(balloon.device(), kPoisonAt, 0).ok());
  ASSERT_TRUE(balloon.Start(/*refused=*/0, /*poison=*/std::nullopt));
  balloon.Send(BalloonQueue::kReporting, {HostileBalloon::Pages(0x10000)});
  EXPECT_THAT(balloon.discarded(), SizeIs(1));
}
// Pages of the balloon are filled before they are used, if the driver knows
// with what.
TEST(PoisonDevice, S5_5_6_6_1_DiscardsInflatedPagesOnceThePoisonIsKnown) {
  for (const bool is_known : {false, true}) {
    HostileBalloon balloon(All());
    ASSERT_TRUE(balloon.Start(
        /*refused=*/0, is_known ? std::optional(0xaaaaaaaau) : std::nullopt));
    balloon.Send(BalloonQueue::kInflate, std::vector<uint32_t>{0x10});
    EXPECT_THAT(balloon.discarded(), SizeIs(is_known ? 1 : 0));
  }
}
// A front end of vhost-user writes it before it has negotiated; the driver may
// not take PAGE_POISON.
TEST(PoisonDevice, TakesPoisonValWherePagePoisonIsOffered) {
  HostileBalloon balloon(All());
  EXPECT_TRUE(WriteWord(balloon.device(), kPoisonAt, 0xaaaaaaaa).ok());
  ASSERT_TRUE(balloon.Start(/*refused=*/kPoisonBit));
  balloon.Send(BalloonQueue::kReporting, {HostileBalloon::Pages(0x10000)});
  EXPECT_THAT(balloon.discarded(), SizeIs(1));
  HostileBalloon without({.features = kReport | kBalloonFFreePageHint});
  EXPECT_FALSE(WriteWord(without.device(), kPoisonAt, 0xaaaaaaaa).ok());
}
TEST(PoisonDevice, TakesTheValueThatItHasWhileDriverOkIsSet) {
  HostileBalloon balloon(All());
  StartWithPoison(balloon, 0);
  EXPECT_TRUE(WriteWord(balloon.device(), kPoisonAt, 0).ok());
  balloon.Send(BalloonQueue::kReporting, {HostileBalloon::Pages(0x10000)});
  EXPECT_THAT(balloon.discarded(), SizeIs(1));
}
// As QEMU passes on any write: the whole configuration, with what the front end
// last read of the device's fields.
TEST(PoisonDevice, TakesTheWholeConfiguration) {
  HostileBalloon balloon(All());
  balloon.device().SetTarget(7);
  const BalloonConfig written = {
      .num_pages = 3, .actual = 5, .poison_val = 0xaaaaaaaa};
  EXPECT_TRUE(balloon.device()
                  .WriteConfig(0, std::as_bytes(std::span(&written, 1)))
                  .ok());
  EXPECT_EQ(
      balloon.config(),
      (BalloonConfig{.num_pages = 7, .actual = 5, .poison_val = 0xaaaaaaaa}));
}
// PAGE_POISON was negotiated, and nothing says which poison.
TEST(PoisonDevice, DiscardsNothingWhileThePoisonIsUnknown) {
  HostileBalloon balloon(All());
  ASSERT_TRUE(balloon.Start(/*refused=*/0, /*poison=*/std::nullopt));
  balloon.Send(BalloonQueue::kReporting, {HostileBalloon::Pages(0x10000)});
  EXPECT_THAT(balloon.discarded(), IsEmpty());
  EXPECT_EQ(balloon.counters().poisoned_ranges, 1u);
}
// The guest may have another poison than the device knows.
TEST(PoisonDevice, DiscardsNothingAfterARefusedWrite) {
  HostileBalloon balloon(All());
  StartWithPoison(balloon, 0);
  EXPECT_FALSE(WriteWord(balloon.device(), kPoisonAt, 0xaaaaaaaa).ok());
  balloon.Send(BalloonQueue::kReporting, {HostileBalloon::Pages(0x10000)});
  EXPECT_THAT(balloon.discarded(), IsEmpty());
}
TEST(PoisonDevice, S5_5_6_7_2_LeavesPoisonedReports) {
  HostileBalloon balloon(All());
  StartWithPoison(balloon, 0xaaaaaaaa);
  balloon.Send(BalloonQueue::kReporting, {HostileBalloon::Pages(0x10000),
                                          HostileBalloon::Pages(kMiB, kMiB),
                                          HostileBalloon::Pages(3 * kMiB)});
  EXPECT_THAT(balloon.discarded(), IsEmpty());
  EXPECT_EQ(balloon.at(BalloonQueue::kReporting).used_idx(), 1);
  const BalloonDeviceCounters counters = balloon.counters();
  EXPECT_EQ(counters.acknowledged, 1u);
  EXPECT_EQ(counters.ranges, 0u);
  EXPECT_EQ(counters.poisoned_ranges, 2u);
  EXPECT_EQ(counters.poisoned_bytes, kMiB + kPageSize);
  EXPECT_EQ(counters.skipped_outside_ram, 1u);
}
TEST(PoisonDevice, S5_5_6_7_2_LeavesHintsToo) {
  HostileBalloon balloon(All());
  StartWithPoison(balloon, 1);
  ASSERT_TRUE(balloon.device().StartHinting().ok());
  balloon.Send(BalloonQueue::kFreePage,
               {balloon.config().free_page_hint_cmd_id});
  balloon.Send(BalloonQueue::kFreePage, {HostileBalloon::Pages(0x10000)});
  EXPECT_THAT(balloon.discarded(), IsEmpty());
  EXPECT_EQ(balloon.counters().hints, 0u);
  EXPECT_EQ(balloon.counters().poisoned_ranges, 1u);
}
// A discarded page reads as zeroes, which is the poison.
TEST(PoisonDevice, S5_5_6_7_2_DiscardsIfThePoisonIsZero) {
  HostileBalloon balloon(All());
  StartWithPoison(balloon, 0);
  balloon.Send(BalloonQueue::kReporting, {HostileBalloon::Pages(0x10000)});
  EXPECT_THAT(balloon.discarded(),
              ElementsAre(GpaRange{Gpa(0x10000), kPageSize}));
}
TEST(PoisonDevice, S5_5_6_7_2_DiscardsWithoutPoison) {
  HostileBalloon balloon(All());
  ASSERT_TRUE(balloon.Start(/*refused=*/kPoisonBit));
  uint16_t used = 99;
  balloon.OnDiscard(
      [&] { used = balloon.at(BalloonQueue::kReporting).used_idx(); });
  balloon.Send(BalloonQueue::kReporting, {HostileBalloon::Pages(0x10000)});
  EXPECT_THAT(balloon.discarded(), SizeIs(1));
  EXPECT_EQ(used, 0) << "discarded after the acknowledgement";
}
// Pages are given up with their poison.
TEST(PoisonDevice, InflatesPoisonedPages) {
  HostileBalloon balloon(All());
  StartWithPoison(balloon, 0xaaaaaaaa);
  balloon.Send(BalloonQueue::kInflate, {0x10});
  EXPECT_THAT(balloon.discarded(), SizeIs(1));
}
TEST(PoisonDevice, AResetForgetsThePoison) {
  HostileBalloon balloon(All());
  StartWithPoison(balloon, 0xaaaaaaaa);
  balloon.device().SetStatus(0);
  EXPECT_EQ(balloon.config().poison_val, 0u);
  ASSERT_TRUE(balloon.Start());
  balloon.Send(BalloonQueue::kReporting, {HostileBalloon::Pages(0x10000)});
  EXPECT_THAT(balloon.discarded(), SizeIs(1));
}

// --- Reports, driver and device.

// Takes 64 KiB from the allocator and reports them, as a reporter does.
class ReportTest : public ::testing::Test {
 protected:
  void Start(PagePoisonMode mode, Hypervisor* hypervisor = nullptr) {
    guest_ = std::make_unique<BalloonGuest>(
        BalloonDeviceOptions{.features = kReport | kPoisonBit}, mode,
        hypervisor);
    ASSERT_TRUE(guest_->Start().ok());
    const auto pfn =
        guest_->allocator().Allocate(0, BalloonGuest::kLargest, kGfpUser);
    ASSERT_TRUE(pfn);
    block_ = {ToGpa(*pfn), BalloonGuest::kLargest.bytes()};
  }
  void TearDown() override {
    guest_->allocator().Free(0, PfnOf(block_.gpa), BalloonGuest::kLargest);
  }
  static Pfn PfnOf(Gpa gpa) { return Pfn(gpa.value() / kPageSize); }

  BalloonClient client_;
  std::unique_ptr<BalloonGuest> guest_;
  GpaRange block_ = {};
};

constexpr uint16_t kReportingIndex = 2;

TEST_F(ReportTest, S5_5_6_7_1_DoesNotUseReportedPagesBeforeTheAcknowledgement) {
  Start(PagePoisonMode::kOff);
  guest_->slow().Hold(kReportingIndex);
  ASSERT_TRUE(guest_->driver().Report({{block_}}, client_).ok());
  guest_->time().RunFor(std::chrono::seconds(100));
  EXPECT_THAT(client_.ended(), IsEmpty());
  guest_->slow().LetGo(kReportingIndex);
  guest_->time().RunUntilIdle();
  EXPECT_THAT(client_.ended(), ElementsAre(true));
}
TEST_F(ReportTest, S5_5_6_7_1_ReportsAfterDriverOkOnly) {
  Start(PagePoisonMode::kOff);
  guest_->slow().Forget();
  guest_->driver().Remove();
  EXPECT_FALSE(guest_->driver().Report({{block_}}, client_).ok());
  EXPECT_THAT(guest_->slow().calls(), ElementsAre("status 0x0"));
}
TEST_F(ReportTest, S5_5_6_7_1_ABufferIsForTheDeviceToWrite) {
  Start(PagePoisonMode::kOff);
  guest_->slow().Hold(kReportingIndex);
  ASSERT_TRUE(guest_->driver().Report({{block_}}, client_).ok());
  const VirtqueueMemory memory =
      guest_->slow().QueueMemory(guest_->ram(), kReportingIndex);
  EXPECT_EQ(memory.LoadDescriptor(memory.available_ring(0).load()),
            (VirtqDesc{.addr = block_.gpa.value(),
                       .len = static_cast<uint32_t>(block_.bytes),
                       .flags = kVirtqDescWrite,
                       .next = 0}));
}
// The contents of a reported page are not preserved.
TEST_F(ReportTest, S5_5_6_7_1_WithoutPoisonItsContentsAreLost) {
  Start(PagePoisonMode::kOff);
  DiscardingHypervisor madvise(guest_->ram());
  guest_->on_discard = [&] { ASSERT_TRUE(madvise.Discard({{block_}}).ok()); };
  const std::span<std::byte> bytes = guest_->Bytes(block_.gpa, block_.bytes);
  std::fill(bytes.begin(), bytes.end(), std::byte{0x5a});
  ASSERT_TRUE(guest_->driver().Report({{block_}}, client_).ok());
  guest_->time().RunUntilIdle();
  EXPECT_THAT(client_.ended(), ElementsAre(true));
  EXPECT_EQ(std::count(bytes.begin(), bytes.end(), std::byte{0}),
            static_cast<ptrdiff_t>(bytes.size()));
}
TEST_F(ReportTest, S5_5_6_7_1_AFreePageHoldsPoisonWhenItIsReported) {
  Start(PagePoisonMode::kPoison);
  // Checks the contents of each free page that could be reported.
  int wrong = 0;
  std::vector<Pfn> taken;
  while (const auto pfn = guest_->allocator().Allocate(0, Order(0), kGfpUser)) {
    const std::span<std::byte> bytes = guest_->Bytes(ToGpa(*pfn));
    wrong += std::count(bytes.begin(), bytes.end(), PagePoison::kPoison) !=
                     static_cast<ptrdiff_t>(kPageSize)
                 ? 1
                 : 0;
    taken.push_back(*pfn);
  }
  EXPECT_EQ(wrong, 0);
  EXPECT_GT(taken.size(), 500u);
  EXPECT_EQ(guest_->config().poison_val, 0xaaaaaaaau) << "as sent to the host";
  for (const Pfn pfn : taken) guest_->allocator().Free(0, pfn, Order(0));
}
TEST_F(ReportTest, S5_5_6_7_2_PoisonIsStillThereAfterAReport) {
  Start(PagePoisonMode::kPoison);
  const std::span<std::byte> bytes = guest_->Bytes(block_.gpa, block_.bytes);
  std::fill(bytes.begin(), bytes.end(), PagePoison::kPoison);
  ASSERT_TRUE(guest_->driver().Report({{block_}}, client_).ok());
  guest_->time().RunUntilIdle();
  EXPECT_THAT(client_.ended(), ElementsAre(true));
  EXPECT_THAT(guest_->hypervisor().batches(), IsEmpty());
  EXPECT_EQ(std::count(bytes.begin(), bytes.end(), PagePoison::kPoison),
            static_cast<ptrdiff_t>(bytes.size()));
}

}  // namespace
}  // namespace guestmm::balloon_poison_test
