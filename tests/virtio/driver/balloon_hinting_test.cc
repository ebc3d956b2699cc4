// Free page hinting: runs that the device names, hints that the driver gives,
// and who may touch the pages when.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "tests/virtio/balloon_testing.h"
#include "tests/virtio/virtio_testing.h"

namespace guestmm::balloon_hinting_test {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::SizeIs;

constexpr BalloonQueue kFreePage = BalloonQueue::kFreePage;
constexpr uint16_t kFreePageIndex = 2;
constexpr BalloonDeviceOptions kWithHints = {.features = kBalloonFFreePageHint};

// --- The device.

// Whose driver has taken FREE_PAGE_HINT, and obeys nothing.
class HintingDeviceTest : public ::testing::Test {
 protected:
  void SetUp() override { ASSERT_TRUE(balloon_.Start()); }

  // Starts a run and returns its id.
  uint32_t StartRun() {
    EXPECT_TRUE(balloon_.device().StartHinting().ok());
    return CommandId();
  }
  uint32_t CommandId() { return balloon_.config().free_page_hint_cmd_id; }
  void SendCommand(uint32_t command) { balloon_.Send(kFreePage, {command}); }
  void SendHint(uint64_t gpa) {
    balloon_.Send(kFreePage, {HostileBalloon::Pages(gpa)});
  }

  HostileBalloon balloon_{kWithHints};
};

TEST_F(HintingDeviceTest, ARunFromItsStartToDone) {
  EXPECT_EQ(CommandId(), kHintStop);
  EXPECT_FALSE(balloon_.device().hinting());
  const uint32_t run = StartRun();
  EXPECT_GE(run, kFirstHintRun);
  EXPECT_TRUE(balloon_.device().hinting());
  SendCommand(run);
  SendHint(0x10000);
  balloon_.Send(kFreePage, {HostileBalloon::Pages(0x20000),
                            HostileBalloon::Pages(kMiB, kMiB)});
  EXPECT_EQ(CommandId(), run);
  SendCommand(kHintStop);
  EXPECT_EQ(CommandId(), kHintDone);
  EXPECT_FALSE(balloon_.device().hinting());
  EXPECT_THAT(balloon_.discarded(),
              ElementsAre(GpaRange{Gpa(0x10000), kPageSize},
                          GpaRange{Gpa(0x20000), kPageSize},
                          GpaRange{Gpa(kMiB), kMiB}));
  EXPECT_EQ(balloon_.counters().hint_runs, 1u);
  EXPECT_EQ(balloon_.counters().hints, 3u);
  EXPECT_EQ(balloon_.counters().hinted_bytes, kMiB + 2 * kPageSize);
  EXPECT_EQ(balloon_.counters().bad_commands, 0u);
  EXPECT_EQ(balloon_.at(kFreePage).used_idx(), 4) << "all are acknowledged";
}
TEST_F(HintingDeviceTest, S5_5_6_5_2_IgnoresHintsBeforeTheRunWasBegun) {
  SendHint(0x10000);
  StartRun();
  SendHint(0x10000);
  EXPECT_THAT(balloon_.discarded(), IsEmpty());
  EXPECT_EQ(balloon_.counters().skipped_hints, 2u);
}
TEST_F(HintingDeviceTest, S5_5_6_5_2_IgnoresHintsOfAnotherRun) {
  const uint32_t run = StartRun();
  SendCommand(run + 1);
  SendHint(0x10000);
  SendCommand(run - 1);
  SendHint(0x10000);
  EXPECT_THAT(balloon_.discarded(), IsEmpty());
  EXPECT_EQ(balloon_.counters().bad_commands, 2u);
  EXPECT_EQ(balloon_.counters().skipped_hints, 2u);
}
TEST_F(HintingDeviceTest, S5_5_6_5_2_IgnoresHintsOfARunThatItWantsNoMore) {
  const uint32_t run = StartRun();
  SendCommand(run);
  balloon_.device().StopHinting();
  EXPECT_EQ(CommandId(), kHintStop);
  SendHint(0x10000);
  EXPECT_THAT(balloon_.discarded(), IsEmpty());
  EXPECT_TRUE(balloon_.device().hinting()) << "till the driver says so";
  SendCommand(kHintStop);
  EXPECT_FALSE(balloon_.device().hinting());
}
TEST_F(HintingDeviceTest, S5_5_6_5_2_TouchesNothingAfterDone) {
  const uint32_t run = StartRun();
  SendCommand(run);
  SendCommand(kHintStop);
  ASSERT_EQ(CommandId(), kHintDone);
  SendHint(0x10000);
  SendCommand(run);
  SendHint(0x10000);
  EXPECT_THAT(balloon_.discarded(), IsEmpty());
  EXPECT_EQ(CommandId(), kHintDone);
}
// Also of a chain that has the hint before the STOP, which no driver may send.
TEST_F(HintingDeviceTest, S5_5_6_5_2_DiscardsBeforeItSaysDone) {
  SendCommand(StartRun());
  uint32_t during = 99;
  balloon_.OnDiscard([&] { during = CommandId(); });
  balloon_.Send(kFreePage,
                {HostileBalloon::Pages(0x10000), balloon_.Words({kHintStop})});
  EXPECT_EQ(CommandId(), kHintDone);
  EXPECT_THAT(balloon_.discarded(), SizeIs(1));
  EXPECT_NE(during, kHintDone);
}
TEST_F(HintingDeviceTest, S5_5_6_5_2_SaysDoneHoweverTheRunEnds) {
  SendCommand(StartRun());
  SendCommand(kHintStop);
  EXPECT_EQ(CommandId(), kHintDone);
  SendCommand(StartRun());
  balloon_.device().StopHinting();
  SendCommand(kHintStop);
  EXPECT_EQ(CommandId(), kHintDone);
}
// The driver may still hold what it hinted at in the run before.
TEST_F(HintingDeviceTest, S5_5_6_5_2_SaysDoneOfARunThatWasNeverBegun) {
  SendCommand(StartRun());
  SendCommand(kHintStop);
  StartRun();
  balloon_.device().StopHinting();
  EXPECT_EQ(CommandId(), kHintDone);
  EXPECT_FALSE(balloon_.device().hinting());
}
TEST_F(HintingDeviceTest, S5_5_6_5_2_UsesNoIdAgain) {
  std::vector<uint32_t> ids;
  for (int i = 0; i < 5; ++i) {
    ids.push_back(StartRun());
    EXPECT_TRUE(absl::IsFailedPrecondition(balloon_.device().StartHinting()));
    if (i == 3) {
      balloon_.device().StopHinting();  // not begun
      continue;
    }
    SendCommand(ids.back());
    EXPECT_TRUE(absl::IsFailedPrecondition(balloon_.device().StartHinting()));
    if (i == 2) {
      balloon_.device().StopHinting();
      const absl::Status early = balloon_.device().StartHinting();
      EXPECT_EQ(Message(early),
                absl::StrFormat("hints asked for while run %d has not ended",
                                ids.back()));
    }
    SendCommand(kHintStop);
  }
  // Neither does a reset bring them back.
  balloon_.device().SetStatus(0);
  EXPECT_EQ(CommandId(), kHintStop);
  ASSERT_TRUE(balloon_.Start());
  ids.push_back(StartRun());
  std::sort(ids.begin(), ids.end());
  EXPECT_EQ(std::unique(ids.begin(), ids.end()), ids.end());
  EXPECT_GE(ids.front(), kFirstHintRun);
}
TEST_F(HintingDeviceTest, CountsAnIdThatComesAgain) {
  const uint32_t run = StartRun();
  SendCommand(run);
  SendCommand(run);
  EXPECT_EQ(balloon_.counters().hint_runs, 1u);
  EXPECT_EQ(balloon_.counters().bad_commands, 1u);
  SendHint(0x10000);
  EXPECT_EQ(balloon_.counters().hints, 1u) << "of a run that goes on";
}
// A STOP of the run before says nothing of one that was not begun.
TEST_F(HintingDeviceTest, AStopThatComesLateEndsNoNewRun) {
  const uint32_t run = StartRun();
  SendCommand(kHintStop);
  EXPECT_EQ(CommandId(), run);
  EXPECT_TRUE(balloon_.device().hinting());
  EXPECT_EQ(balloon_.counters().bad_commands, 1u);
}
TEST_F(HintingDeviceTest, SkipsCommandsThatAreNone) {
  SendCommand(StartRun());
  balloon_.Send(kFreePage, {kHintStop, kHintStop});
  VirtqDesc odd = balloon_.Words({kHintStop});
  odd.len = 3;
  balloon_.Send(kFreePage, {odd});
  VirtqDesc empty = balloon_.Words({kHintStop});
  empty.len = 0;
  balloon_.Send(kFreePage, {empty});
  EXPECT_TRUE(balloon_.device().hinting());
  EXPECT_EQ(balloon_.counters().bad_commands, 1u);
  EXPECT_EQ(balloon_.counters().skipped_unaligned, 1u);
  EXPECT_EQ(balloon_.counters().skipped_empty, 1u);
}
TEST_F(HintingDeviceTest, SkipsHintsThatAreBadAndGoesOn) {
  SendCommand(StartRun());
  balloon_.Send(kFreePage, {HostileBalloon::Pages(3 * kMiB),
                            HostileBalloon::Pages(0x10000)});
  SendHint(0x10010);
  EXPECT_THAT(balloon_.discarded(),
              ElementsAre(GpaRange{Gpa(0x10000), kPageSize}));
  EXPECT_EQ(balloon_.counters().skipped_outside_ram, 1u);
  EXPECT_EQ(balloon_.counters().skipped_unaligned, 1u);
}
TEST_F(HintingDeviceTest, AResetEndsTheRun) {
  SendCommand(StartRun());
  balloon_.device().SetStatus(0);
  EXPECT_FALSE(balloon_.device().hinting());
  ASSERT_TRUE(balloon_.Start());
  SendHint(0x10000);
  EXPECT_THAT(balloon_.discarded(), IsEmpty());
}
TEST_F(HintingDeviceTest, StoppingWhatDoesNotRunHasNoEffect) {
  const uint32_t before = balloon_.device().ConfigGeneration();
  balloon_.device().StopHinting();
  SendCommand(StartRun());
  balloon_.device().StopHinting();
  const uint32_t stopped = balloon_.device().ConfigGeneration();
  balloon_.device().StopHinting();
  EXPECT_EQ(balloon_.device().ConfigGeneration(), stopped);
  EXPECT_EQ(stopped, before + 2);
}
TEST(HintingDevice, RefusesToAskADriverThatGivesNone) {
  HostileBalloon balloon(kWithHints);
  EXPECT_TRUE(absl::IsFailedPrecondition(balloon.device().StartHinting()));
  ASSERT_TRUE(balloon.Start(/*refused=*/kBalloonFFreePageHint));
  EXPECT_EQ(Message(balloon.device().StartHinting()),
            "hints asked of a driver that did not take FREE_PAGE_HINT");
}

// --- The driver.

class HintingDriverTest : public ::testing::Test {
 protected:
  void SetUp() override { ASSERT_TRUE(guest_.Start().ok()); }

  // What the driver has put into the queue from chain `from` on.
  std::vector<VirtqDesc> Sent(uint16_t from = 0) {
    const VirtqueueMemory memory =
        guest_.slow().QueueMemory(guest_.ram(), kFreePageIndex);
    std::vector<VirtqDesc> sent;
    for (uint16_t i = from; i != memory.available_idx().load(); ++i) {
      sent.push_back(
          memory.LoadDescriptor(memory.available_ring(memory.slot(i)).load()));
    }
    return sent;
  }
  uint32_t Word(const VirtqDesc& descriptor) {
    uint32_t word = 0;
    std::memcpy(&word, guest_.Bytes(Gpa(descriptor.addr), 4).data(), 4);
    return word;
  }
  uint32_t CommandId() { return guest_.config().free_page_hint_cmd_id; }
  void StartRun() { ASSERT_TRUE(guest_.device().StartHinting().ok()); }
  // Starts a run of which the device has seen the id, and no hint yet.
  void StartRunHeldUp() {
    guest_.slow().Hold(kFreePageIndex);
    StartRun();
    guest_.time().RunUntilIdle();
    guest_.slow().LetGo(kFreePageIndex);
    guest_.slow().Hold(kFreePageIndex);
    guest_.time().RunUntilIdle();
    ASSERT_GT(guest_.driver().hinted_pages(), PageCount(0));
  }
  void LetGo() {
    guest_.slow().LetGo(kFreePageIndex);
    guest_.time().RunUntilIdle();
  }

  // Blocks are of 64 KiB: 64 of them at most, and the queue takes 128.
  BalloonGuest guest_{kWithHints};
};

TEST_F(HintingDriverTest, S5_5_6_5_1_ARunIsItsIdThenPagesThenStop) {
  guest_.slow().Hold(kFreePageIndex);
  StartRun();
  guest_.time().RunUntilIdle();
  std::vector<VirtqDesc> sent = Sent();
  ASSERT_THAT(sent, SizeIs(1));
  EXPECT_EQ(Word(sent.front()), CommandId());
  EXPECT_EQ(sent.front().flags, 0) << "an output buffer";
  EXPECT_EQ(sent.front().len, 4u);

  guest_.slow().LetGo(kFreePageIndex);
  guest_.slow().Hold(kFreePageIndex);
  guest_.time().RunUntilIdle();
  sent = Sent(1);
  ASSERT_GT(sent.size(), 10u);
  EXPECT_EQ(Word(sent.back()), kHintStop);
  EXPECT_EQ(sent.back().flags, 0);
  EXPECT_EQ(sent.back().len, 4u);
  sent.pop_back();
  for (const VirtqDesc& hint : sent) {
    EXPECT_EQ(hint.flags, kVirtqDescWrite) << "an input buffer";
    EXPECT_EQ(hint.len, BalloonGuest::kLargest.bytes());
  }
  EXPECT_EQ(guest_.driver().hinted_pages().value(), guest_.held_pages());
  EXPECT_EQ(guest_.held_pages(),
            sent.size() * BalloonGuest::kLargest.pages().value());
}
TEST_F(HintingDriverTest, S5_5_6_5_1_SendsTheIdOnce) {
  StartRunHeldUp();
  const size_t sent = Sent().size();
  // News of other things, and what the device uses, change nothing.
  guest_.device().SetTarget(1);
  guest_.time().RunUntilIdle();
  EXPECT_THAT(Sent(), SizeIs(sent));
  LetGo();
  guest_.device().SetTarget(2);
  guest_.time().RunUntilIdle();
  EXPECT_THAT(Sent(), SizeIs(sent));
  EXPECT_EQ(guest_.device().counters().hint_runs, 1u);
  EXPECT_EQ(guest_.device().counters().bad_commands, 0u);
}
TEST_F(HintingDriverTest, EveryHintIsDiscardedAndThenThePagesComeBack) {
  StartRun();
  guest_.time().RunUntilIdle();
  EXPECT_FALSE(guest_.device().hinting());
  EXPECT_EQ(CommandId(), kHintDone);
  EXPECT_GT(guest_.device().counters().hints, 10u);
  EXPECT_EQ(guest_.device().counters().hints, Sent().size() - 2);
  EXPECT_EQ(guest_.device().counters().skipped(), 0u);
  EXPECT_EQ(guest_.driver().hinted_pages(), PageCount(0));
  EXPECT_EQ(guest_.held_pages(), 0u);
  EXPECT_TRUE(guest_.allocator().CheckInvariants().ok());
}
TEST_F(HintingDriverTest, OneRunFollowsAnother) {
  for (uint64_t run = 1; run <= 100; ++run) {
    StartRun();
    guest_.time().RunUntilIdle();
    ASSERT_EQ(CommandId(), kHintDone);
    ASSERT_EQ(guest_.device().counters().hint_runs, run);
  }
  EXPECT_EQ(guest_.held_pages(), 0u);
}
TEST_F(HintingDriverTest, S5_5_6_5_1_HoldsThePagesUntilDone) {
  StartRunHeldUp();
  const uint64_t held = guest_.held_pages();
  EXPECT_GT(held, 0u);
  guest_.time().RunFor(std::chrono::seconds(10));
  EXPECT_EQ(guest_.held_pages(), held);
  LetGo();
  EXPECT_EQ(CommandId(), kHintDone);
  EXPECT_EQ(guest_.held_pages(), 0u);
}
// The run ends with STOP as soon as the host wants no more, whether by STOP or
// DONE; pages are let go at DONE.
TEST_F(HintingDriverTest, S5_5_6_5_1_StopsWhereTheHostWantsNoMore) {
  guest_.slow().Hold(kFreePageIndex);
  StartRun();
  // The id is out, and no hint yet.
  guest_.time().WaitUntil([&] { return guest_.Offered(kFreePageIndex) == 1; },
                          Workqueue::kForever);
  guest_.device().StopHinting();
  guest_.time().RunUntilIdle();
  const std::vector<VirtqDesc> sent = Sent();
  EXPECT_EQ(Word(sent.back()), kHintStop);
  LetGo();
  EXPECT_EQ(CommandId(), kHintDone);
  EXPECT_EQ(guest_.held_pages(), 0u);
}
TEST_F(HintingDriverTest, S5_5_6_5_1_StartsNothingWhileNothingIsWanted) {
  guest_.device().SetTarget(1);
  guest_.time().RunUntilIdle();
  StartRun();
  guest_.device().StopHinting();
  guest_.time().RunUntilIdle();
  EXPECT_EQ(guest_.driver().hinted_pages(), PageCount(0));
  EXPECT_THAT(Sent(), IsEmpty());
}
// The host ends a run that the driver has not begun while the driver has the
// pages of the last yet: it never saw the DONE in between.
TEST_F(HintingDriverTest, S5_5_6_5_1_LetsThePagesGoWhoseDoneItMissed) {
  StartRunHeldUp();
  ASSERT_GT(guest_.held_pages(), 0u);
  guest_.slow().LetGo(kFreePageIndex);
  guest_.time().WaitUntil([&] { return !guest_.device().hinting(); },
                          Workqueue::kForever);
  StartRun();
  guest_.device().StopHinting();
  guest_.time().RunUntilIdle();
  EXPECT_EQ(guest_.held_pages(), 0u);
}
TEST_F(HintingDriverTest, S5_5_6_5_1_InitializesWhatItReleasesBeforeDone) {
  StartRunHeldUp();
  const std::vector<VirtqDesc> sent = Sent(1);
  for (const VirtqDesc& hint : sent) {
    if (hint.flags != kVirtqDescWrite) continue;
    const std::span<std::byte> bytes = guest_.Bytes(Gpa(hint.addr), hint.len);
    std::fill(bytes.begin(), bytes.end(), std::byte{0x5a});
  }
  // The device uses all that it was given, and says DONE later.
  const VirtqueueMemory memory =
      guest_.slow().QueueMemory(guest_.ram(), kFreePageIndex);
  for (uint16_t i = 1; i <= sent.size(); ++i) {
    memory.StoreUsed(
        memory.slot(i),
        {.id = memory.available_ring(memory.slot(i)).load(), .len = 0});
  }
  memory.used_idx().store(static_cast<uint16_t>(1 + sent.size()));
  guest_.device().SetTarget(1);  // has the driver look
  guest_.time().RunUntilIdle();
  ASSERT_NE(CommandId(), kHintDone);
  const uint64_t held = guest_.driver().hinted_pages().value();
  // An allocation in need comes before that.
  guest_.TakeAllPages();
  EXPECT_LT(guest_.driver().hinted_pages().value(), held);
  int initialized = 0;
  for (const VirtqDesc& hint : sent) {
    if (hint.flags != kVirtqDescWrite) continue;
    const std::span<std::byte> bytes = guest_.Bytes(Gpa(hint.addr), hint.len);
    const auto zeroes = std::count(bytes.begin(), bytes.end(), std::byte{0});
    EXPECT_TRUE(zeroes == 0 || static_cast<size_t>(zeroes) == bytes.size());
    initialized += zeroes > 0 ? 1 : 0;
  }
  EXPECT_EQ(static_cast<uint64_t>(initialized) *
                BalloonGuest::kLargest.pages().value(),
            held - guest_.driver().hinted_pages().value());
}
// The same where the host wants the next run before the driver saw DONE.
TEST_F(HintingDriverTest, S5_5_6_5_1_InitializesWhatItReleasesForTheNextRun) {
  StartRunHeldUp();
  std::vector<VirtqDesc> hints = Sent(1);
  hints.pop_back();
  for (const VirtqDesc& hint : hints) {
    const std::span<std::byte> bytes = guest_.Bytes(Gpa(hint.addr), hint.len);
    std::fill(bytes.begin(), bytes.end(), std::byte{0x5a});
  }
  guest_.slow().LetGo(kFreePageIndex);
  guest_.time().WaitUntil([&] { return !guest_.device().hinting(); },
                          Workqueue::kForever);
  StartRun();
  guest_.time().RunUntilIdle();
  EXPECT_EQ(guest_.device().counters().hint_runs, 2u);
  for (const VirtqDesc& hint : hints) {
    const std::span<std::byte> bytes = guest_.Bytes(Gpa(hint.addr), hint.len);
    EXPECT_EQ(std::count(bytes.begin(), bytes.end(), std::byte{0x5a}), 0);
  }
}
// Till it has used the commands of a run, the words are its own.
TEST_F(HintingDriverTest, BeginsNoRunWhileTheDeviceHasNotSeenTheEndOfTheLast) {
  guest_.slow().Hold(kFreePageIndex);
  StartRun();
  guest_.time().RunUntilIdle();
  const uint32_t first = CommandId();
  guest_.device().StopHinting();
  guest_.time().RunUntilIdle();
  StartRun();
  guest_.time().RunUntilIdle();
  const std::vector<VirtqDesc> sent = Sent();
  ASSERT_THAT(sent, SizeIs(2));
  EXPECT_EQ(Word(sent.front()), first);
  EXPECT_EQ(Word(sent.back()), kHintStop);
  LetGo();
  EXPECT_EQ(guest_.device().counters().hint_runs, 1u) << "the second";
  EXPECT_EQ(CommandId(), kHintDone);
  EXPECT_EQ(guest_.held_pages(), 0u);
}
// A device says DONE, and has hints that it has not used: it may not touch them
// any more, but that is its word alone.
TEST_F(HintingDriverTest, HoldsThePagesOfHintsThatAreOutWhateverItIsTold) {
  StartRunHeldUp();
  const PageCount held = guest_.driver().hinted_pages();
  guest_.slow().hint_command = kHintDone;
  guest_.device().SetTarget(1);
  guest_.time().RunUntilIdle();
  EXPECT_EQ(guest_.driver().hinted_pages(), held);
  LetGo();
  EXPECT_EQ(guest_.driver().hinted_pages(), PageCount(0));
}
// The device may yet take what it has not used: an allocation gets none of it.
TEST_F(HintingDriverTest, ADeviceThatUsesNoHintKeepsThePages) {
  StartRunHeldUp();
  const PageCount held = guest_.driver().hinted_pages();
  guest_.TakeAllPages();
  EXPECT_EQ(guest_.driver().hinted_pages(), held);
  guest_.device().StopHinting();
  guest_.time().RunFor(std::chrono::seconds(10));
  EXPECT_EQ(guest_.driver().hinted_pages(), held);
  guest_.Stop();
  EXPECT_EQ(guest_.device().status(), 0);
}
TEST_F(HintingDriverTest, AResetReturnsEveryPage) {
  StartRunHeldUp();
  guest_.Stop();
  EXPECT_EQ(guest_.allocator().Counts().allocated(), PageCount(0));
  EXPECT_TRUE(guest_.allocator().CheckInvariants().ok());
}
// Of a queue that is shorter than the run, the driver goes on as there is room.
TEST(HintingDriver, GoesOnAsTheQueueHasRoom) {
  BalloonGuest guest(kWithHints);
  ASSERT_TRUE(guest.Start({.queue_size = 4}).ok());
  ASSERT_TRUE(guest.device().StartHinting().ok());
  guest.time().RunUntilIdle();
  EXPECT_GT(guest.device().counters().hints, 40u);
  EXPECT_EQ(guest.config().free_page_hint_cmd_id, kHintDone);
  EXPECT_EQ(guest.held_pages(), 0u);
}
TEST(HintingDriver, StopsInTheMiddleOfWhatTheQueueHoldsNot) {
  BalloonGuest guest(kWithHints);
  ASSERT_TRUE(guest.Start({.queue_size = 4}).ok());
  ASSERT_TRUE(guest.device().StartHinting().ok());
  guest.on_discard = [&] { guest.device().StopHinting(); };
  guest.time().RunUntilIdle();
  EXPECT_LT(guest.device().counters().hints, 10u);
  EXPECT_FALSE(guest.device().hinting());
  EXPECT_EQ(guest.config().free_page_hint_cmd_id, kHintDone);
  EXPECT_EQ(guest.held_pages(), 0u);
}
TEST(HintingDriver, NeedsAQueueOfFour) {
  BalloonGuest guest({.features = kBalloonFFreePageHint, .queue_size = 4});
  ASSERT_TRUE(guest.Start().ok());
  const absl::Status status = [] {
    BalloonGuest small(kWithHints);
    return small.Start({.queue_size = 2});
  }();
  EXPECT_TRUE(absl::IsFailedPrecondition(status));
}

}  // namespace
}  // namespace guestmm::balloon_hinting_test
