// Free page hinting: runs that the device starts, with a driver that may write
// anything.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <vector>

#include "absl/strings/str_format.h"
#include "tests/virtio/balloon_testing.h"
#include "tests/virtio/virtio_testing.h"

namespace guestmm::hinting_device_test {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::SizeIs;

constexpr BalloonQueue kFreePage = BalloonQueue::kFreePage;
constexpr BalloonDeviceOptions kWithHints = {.features = kBalloonFFreePageHint};

// A device whose driver accepted FREE_PAGE_HINT, and may write anything.
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

// 0 and 1 are commands.
TEST(HintRunTest, NumbersWrapAroundTheCommands) {
  EXPECT_EQ(NextHintRun(kFirstHintRun), kFirstHintRun + 1);
  EXPECT_EQ(NextHintRun(~uint32_t{0}), kFirstHintRun);
}

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
TEST_F(HintingDeviceTest, S5_5_6_5_2_IgnoresHintsBeforeTheRunStarted) {
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
TEST_F(HintingDeviceTest, S5_5_6_5_2_IgnoresHintsOfAStoppedRun) {
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
// Even if hint and STOP are in one chain, which no driver may send.
TEST_F(HintingDeviceTest, S5_5_6_5_2_DiscardsBeforeItSendsDone) {
  SendCommand(StartRun());
  uint32_t during = 99;
  balloon_.OnDiscard([&] { during = CommandId(); });
  balloon_.Send(kFreePage,
                {HostileBalloon::Pages(0x10000), balloon_.Words({kHintStop})});
  EXPECT_EQ(CommandId(), kHintDone);
  EXPECT_THAT(balloon_.discarded(), SizeIs(1));
  EXPECT_NE(during, kHintDone);
}
TEST_F(HintingDeviceTest, S5_5_6_5_2_SendsDoneHoweverTheRunEnds) {
  SendCommand(StartRun());
  SendCommand(kHintStop);
  EXPECT_EQ(CommandId(), kHintDone);
  SendCommand(StartRun());
  balloon_.device().StopHinting();
  SendCommand(kHintStop);
  EXPECT_EQ(CommandId(), kHintDone);
}
// The driver may still hold the pages of the previous run.
TEST_F(HintingDeviceTest, S5_5_6_5_2_SendsDoneForARunThatNeverStarted) {
  SendCommand(StartRun());
  SendCommand(kHintStop);
  StartRun();
  balloon_.device().StopHinting();
  EXPECT_EQ(CommandId(), kHintDone);
  EXPECT_FALSE(balloon_.device().hinting());
}
TEST_F(HintingDeviceTest, S5_5_6_5_2_DoesNotReuseIds) {
  std::vector<uint32_t> ids;
  for (int i = 0; i < 5; ++i) {
    ids.push_back(StartRun());
    EXPECT_TRUE(absl::IsFailedPrecondition(balloon_.device().StartHinting()));
    if (i == 3) {
      balloon_.device().StopHinting();  // not started
      continue;
    }
    SendCommand(ids.back());
    EXPECT_TRUE(absl::IsFailedPrecondition(balloon_.device().StartHinting()));
    if (i == 2) {
      balloon_.device().StopHinting();
      const absl::Status early = balloon_.device().StartHinting();
      EXPECT_EQ(Message(early),
                absl::StrFormat("hints requested while run %d has not ended",
                                ids.back()));
    }
    SendCommand(kHintStop);
  }
  // A reset does not make the device reuse ids.
  balloon_.device().SetStatus(0);
  EXPECT_EQ(CommandId(), kHintStop);
  ASSERT_TRUE(balloon_.Start());
  ids.push_back(StartRun());
  std::sort(ids.begin(), ids.end());
  EXPECT_EQ(std::unique(ids.begin(), ids.end()), ids.end());
  EXPECT_GE(ids.front(), kFirstHintRun);
}
TEST_F(HintingDeviceTest, CountsARepeatedId) {
  const uint32_t run = StartRun();
  SendCommand(run);
  SendCommand(run);
  EXPECT_EQ(balloon_.counters().hint_runs, 1u);
  EXPECT_EQ(balloon_.counters().bad_commands, 1u);
  SendHint(0x10000);
  EXPECT_EQ(balloon_.counters().hints, 1u) << "of a run that goes on";
}
// A STOP of the previous run does not end one that was not started.
TEST_F(HintingDeviceTest, ALateStopDoesNotEndTheNextRun) {
  const uint32_t run = StartRun();
  SendCommand(kHintStop);
  EXPECT_EQ(CommandId(), run);
  EXPECT_TRUE(balloon_.device().hinting());
  EXPECT_EQ(balloon_.counters().bad_commands, 1u);
}
TEST_F(HintingDeviceTest, SkipsInvalidCommands) {
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
TEST_F(HintingDeviceTest, SkipsBadHintsAndContinues) {
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
TEST_F(HintingDeviceTest, StoppingWithoutARunHasNoEffect) {
  const uint32_t before = balloon_.device().ConfigGeneration();
  balloon_.device().StopHinting();
  SendCommand(StartRun());
  balloon_.device().StopHinting();
  const uint32_t stopped = balloon_.device().ConfigGeneration();
  balloon_.device().StopHinting();
  EXPECT_EQ(balloon_.device().ConfigGeneration(), stopped);
  EXPECT_EQ(stopped, before + 2);
}
TEST(HintingDevice, RefusesToAskADriverWithoutTheFeature) {
  HostileBalloon balloon(kWithHints);
  EXPECT_TRUE(absl::IsFailedPrecondition(balloon.device().StartHinting()));
  ASSERT_TRUE(balloon.Start(/*refused=*/kBalloonFFreePageHint));
  EXPECT_EQ(Message(balloon.device().StartHinting()),
            "hints requested of a driver that did not accept FREE_PAGE_HINT");
}

// A run ends with its driver, also if the device is not reset.
TEST(HintingDevice, TheNextDriverCanBeAskedForHints) {
  HostileBalloon balloon(kWithHints);
  ASSERT_TRUE(balloon.Start());
  ASSERT_TRUE(balloon.device().StartHinting().ok());
  balloon.Send(BalloonQueue::kFreePage,
               std::vector{balloon.config().free_page_hint_cmd_id});
  balloon.StopQueues();
  EXPECT_TRUE(balloon.device().hinting());
  ASSERT_TRUE(balloon.Start());
  EXPECT_FALSE(balloon.device().hinting());
  EXPECT_EQ(balloon.config().free_page_hint_cmd_id, kHintDone);
  EXPECT_TRUE(balloon.device().StartHinting().ok());
}

}  // namespace
}  // namespace guestmm::hinting_device_test
