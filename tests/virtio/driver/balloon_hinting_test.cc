// Free page hinting: hints from the driver, and which side may use the pages
// when.

#include "src/virtio/driver/balloon_hinting.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "tests/virtio/balloon_testing.h"
#include "tests/virtio/virtio_testing.h"

namespace guestmm::balloon_hinting_test {
namespace {

using ::testing::IsEmpty;
using ::testing::SizeIs;

constexpr uint16_t kFreePageIndex = 2;
constexpr BalloonDeviceOptions kWithHints = {.features = kBalloonFFreePageHint};

class HintingDriverTest : public ::testing::Test {
 protected:
  void SetUp() override { ASSERT_TRUE(guest_.Start().ok()); }

  // What the driver has sent, from chain `from` on.
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
  // Starts a run. The device has seen the id, and no hint yet.
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

  // Blocks are of 64 KiB: at most 64 of them, while the queue has 128 entries.
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
  // Other changes of the configuration, and used hints, change nothing.
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
// When the host wants no more hints (STOP or DONE) the driver ends the run with
// STOP; pages are released at DONE.
TEST_F(HintingDriverTest, S5_5_6_5_1_StopsWhenTheHostStops) {
  guest_.slow().Hold(kFreePageIndex);
  StartRun();
  // The id is sent, and no hint yet.
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
TEST_F(HintingDriverTest, S5_5_6_5_1_StartsNoRunUnlessRequested) {
  guest_.device().SetTarget(1);
  guest_.time().RunUntilIdle();
  StartRun();
  guest_.device().StopHinting();
  guest_.time().RunUntilIdle();
  EXPECT_EQ(guest_.driver().hinted_pages(), PageCount(0));
  EXPECT_THAT(Sent(), IsEmpty());
}
// The host ends a run that the driver has not started, while the driver still
// holds the pages of the previous run: it never saw the DONE in between.
TEST_F(HintingDriverTest, S5_5_6_5_1_ReleasesPagesWhoseDoneItMissed) {
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
TEST_F(HintingDriverTest, S5_5_6_5_1_InitializesPagesReleasedBeforeDone) {
  StartRunHeldUp();
  const std::vector<VirtqDesc> sent = Sent(1);
  for (const VirtqDesc& hint : sent) {
    if (hint.flags != kVirtqDescWrite) continue;
    const std::span<std::byte> bytes = guest_.Bytes(Gpa(hint.addr), hint.len);
    std::fill(bytes.begin(), bytes.end(), std::byte{0x5a});
  }
  // The device uses all hints, and says DONE later.
  const VirtqueueMemory memory =
      guest_.slow().QueueMemory(guest_.ram(), kFreePageIndex);
  for (uint16_t i = 1; i <= sent.size(); ++i) {
    memory.StoreUsed(
        memory.slot(i),
        {.id = memory.available_ring(memory.slot(i)).load(), .len = 0});
  }
  memory.used_idx().store(static_cast<uint16_t>(1 + sent.size()));
  guest_.device().SetTarget(1);  // wakes the driver
  guest_.time().RunUntilIdle();
  ASSERT_NE(CommandId(), kHintDone);
  const uint64_t held = guest_.driver().hinted_pages().value();
  // An allocation takes the pages before that.
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
// The same, if the host starts the next run before the driver has seen DONE.
TEST_F(HintingDriverTest, S5_5_6_5_1_InitializesPagesReleasedForTheNextRun) {
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
// The words of the commands belong to the device until it has used them.
TEST_F(HintingDriverTest, StartsNoRunBeforeTheDeviceHasSeenTheLastOneEnd) {
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
// The device says DONE but has unused hints. It must not touch them any more,
// but may do so.
TEST_F(HintingDriverTest, HoldsThePagesOfOutstandingHintsInAnyCase) {
  StartRunHeldUp();
  const PageCount held = guest_.driver().hinted_pages();
  guest_.slow().hint_command = kHintDone;
  guest_.device().SetTarget(1);
  guest_.time().RunUntilIdle();
  EXPECT_EQ(guest_.driver().hinted_pages(), held);
  LetGo();
  EXPECT_EQ(guest_.driver().hinted_pages(), PageCount(0));
}
// The device may still discard what it has not used: an allocation gets none of
// it.
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
// If the queue is shorter than the run, the driver continues when there are
// free descriptors.
TEST(HintingDriver, ContinuesAsDescriptorsBecomeFree) {
  BalloonGuest guest(kWithHints);
  ASSERT_TRUE(guest.Start({.queue_size = 4}).ok());
  ASSERT_TRUE(guest.device().StartHinting().ok());
  guest.time().RunUntilIdle();
  EXPECT_GT(guest.device().counters().hints, 40u);
  EXPECT_EQ(guest.config().free_page_hint_cmd_id, kHintDone);
  EXPECT_EQ(guest.held_pages(), 0u);
}
TEST(HintingDriver, StopsARunThatExceedsTheQueue) {
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
// STOP has a descriptor of its own, also while the queue is full of hints that
// the device does not take.
TEST(HintingDriver, StopsARunOfWhichTheQueueIsFull) {
  BalloonGuest guest(kWithHints);
  ASSERT_TRUE(guest.Start({.queue_size = 4}).ok());
  guest.slow().Hold(kFreePageIndex);
  ASSERT_TRUE(guest.device().StartHinting().ok());
  guest.time().RunUntilIdle();
  guest.slow().LetGo(kFreePageIndex);
  guest.slow().Hold(kFreePageIndex);
  guest.time().RunUntilIdle();
  ASSERT_EQ(guest.Offered(kFreePageIndex), 1 + 3) << "the id, and hints";
  guest.device().StopHinting();
  guest.time().RunUntilIdle();
  EXPECT_EQ(guest.Offered(kFreePageIndex), 1 + 3 + 1);
  EXPECT_EQ(guest.LastWords(kFreePageIndex), std::vector<uint32_t>{kHintStop});
  guest.slow().LetGo(kFreePageIndex);
  guest.time().RunUntilIdle();
  EXPECT_FALSE(guest.device().hinting());
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
