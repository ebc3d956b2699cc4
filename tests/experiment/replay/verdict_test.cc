#include "guestmm/experiment/replay/verdict.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <utility>
#include <vector>

#include "guestmm/trace/trace_event.h"

namespace guestmm::verdict_test {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::IsEmpty;
using State = RecordedPages::State;
using Trust = ReplayVerdict::Trust;

constexpr uint64_t kPages = 100;

// A recording of 100 pages with nothing to doubt.
Recording MakeRecording() {
  Recording recording;
  recording.trace_path = "a folder/trace";
  recording.kernel = "6.1.0";
  recording.memory = {{Gpa(0), kPages * kPageSize}};
  recording.first.emplace();
  recording.first->states.assign(kPages, State::kFree);
  recording.zones.emplace_back().free = PageCount(kPages);
  return recording;
}

ReplayResult MakeResult(const std::string& policy = "linux") {
  ReplayResult result;
  result.options.policy = policy;
  result.memory_bytes = kPages * kPageSize;
  result.counters = {.events = 1000, .allocations = 500, .frees = 500};
  result.free_at_end = {.bytes = 1000, .with_host = 1000};
  return result;
}

ReplayVerdict Judge(const Recording& recording, const ReplayResult& result) {
  return JudgeReplays(recording, std::vector{result});
}

std::vector<std::string> Commands(const ReplayVerdict& verdict) {
  std::vector<std::string> commands;
  for (const ReplayVerdict::Advice& advice : verdict.advice) {
    commands.push_back(advice.command);
  }
  return commands;
}

TEST(VerdictTest, MemoryIsKnownByItsUse) {
  Recording recording = MakeRecording();
  auto& states = recording.first->states;
  states[0] = State::kAnonymous;
  states[1] = states[2] = State::kPageCache;
  states[3] = states[4] = states[5] = State::kSlab;
  states[6] = State::kReserved;
  states[7] = State::kInUse;
  states[8] = State::kNoFlags;
  states[9] = State::kOffline;
  states.resize(kPages + 5, State::kAnonymous);  // no RAM
  const MemoryUse use =
      *MemoryUseAtStart(recording, UnmanagedBytes{.offline = kPageSize});
  EXPECT_EQ(use.anonymous, kPageSize);
  EXPECT_EQ(use.page_cache, 2 * kPageSize);
  EXPECT_EQ(use.slab, 3 * kPageSize);
  EXPECT_EQ(use.other, 3 * kPageSize);
  EXPECT_EQ(use.free, 90 * kPageSize);
  EXPECT_EQ(use.unmanaged, kPageSize);
  recording.first.reset();
  EXPECT_FALSE(MemoryUseAtStart(recording, {}));
}

TEST(VerdictTest, AGoodRecordingLeavesNoDoubt) {
  const ReplayVerdict verdict = Judge(MakeRecording(), MakeResult());
  EXPECT_EQ(verdict.trust, Trust::kGood);
  EXPECT_THAT(verdict.doubts, IsEmpty());
  EXPECT_THAT(verdict.advice, IsEmpty());
}

TEST(VerdictTest, MissingFilesAreDoubts) {
  Recording recording = MakeRecording();
  recording.zones.clear();
  EXPECT_EQ(Judge(recording, MakeResult()).trust, Trust::kLimited);
  recording.first.reset();
  const ReplayVerdict verdict = Judge(recording, MakeResult());
  EXPECT_EQ(verdict.trust, Trust::kPoor);
  EXPECT_THAT(
      verdict.doubts,
      ElementsAre(
          "no kpageflags.start: all memory counts as in use at the start",
          "no zoneinfo.start: vCPUs, their lists and watermarks are guessed",
          "no file shows the size of a page: it is taken for 4 KiB"));
  EXPECT_THAT(Commands(verdict),
              ElementsAre("scripts/record-a-trace OUT -- COMMAND"));
}

TEST(VerdictTest, DoubtsAboutFilesAreTold) {
  Recording recording = MakeRecording();
  recording.doubts = {"rss.csv:7: may be cut"};
  const ReplayVerdict verdict = Judge(recording, MakeResult());
  EXPECT_EQ(verdict.trust, Trust::kLimited);
  EXPECT_EQ(verdict.doubts, recording.doubts);
}

TEST(VerdictTest, AKernelThatNothingNamesIsADoubt) {
  Recording recording = MakeRecording();
  recording.kernel.clear();
  ReplayResult result = MakeResult();
  const ReplayVerdict verdict = Judge(recording, result);
  EXPECT_EQ(verdict.trust, Trust::kLimited);
  EXPECT_THAT(
      verdict.doubts,
      ElementsAre("no uname: the kernel is taken for Linux 6.1 (--kernel)"));
  result.options.kernel = KernelVersion::kV6_1;
  EXPECT_THAT(Judge(recording, result).doubts, IsEmpty());
  // The trace shows what its lists do.
  result.options.kernel.reset();
  result.follows_moves = true;
  EXPECT_THAT(Judge(recording, result).doubts, IsEmpty());
}

TEST(VerdictTest, ABusyGuestsFilesDiffer) {
  Recording recording = MakeRecording();
  recording.zones[0].free = PageCount(98);
  EXPECT_THAT(Judge(recording, MakeResult()).doubts,
              ElementsAre("free memory is 400.00 KiB by kpageflags.start, "
                          "392.00 KiB by zoneinfo.start"));
}

TEST(VerdictTest, RamWithoutAStructPageIsADoubt) {
  ReplayResult result = MakeResult();
  result.unmanaged.no_page = kPageSize;
  EXPECT_THAT(Judge(MakeRecording(), result).doubts,
              ElementsAre("4.00 KiB of RAM have no struct page: they are not "
                          "online, or named twice"));
}

TEST(VerdictTest, WhatTheTraceLacksIsADoubt) {
  ReplayResult result = MakeResult();
  result.error = "damaged";
  result.counters.lost_events = 1;
  result.counters.late = 2;
  result.counters.late_by = std::chrono::milliseconds(1500);
  result.counters.bad_lines = 3;
  result.counters.cut_lines = 1;
  const ReplayVerdict verdict = Judge(MakeRecording(), result);
  EXPECT_EQ(verdict.trust, Trust::kPoor);
  EXPECT_THAT(verdict.doubts,
              ElementsAre("the trace could not be replayed to its end",
                          "1 events were lost, 0.10 %",
                          "the time of 2 events went back, by up to 1.500000 s",
                          "4 lines of the trace could not be read"));
  EXPECT_THAT(
      Commands(verdict),
      ElementsAre("scripts/record-a-trace OUT --buffer 1024 -- COMMAND"));
}

TEST(VerdictTest, WhatCouldNotBeFollowedIsADoubtIfItIsMuch) {
  ReplayResult result = MakeResult();
  result.counters.unmatched_frees = 14;
  EXPECT_EQ(Judge(MakeRecording(), result).trust, Trust::kGood);
  result.counters.unmatched_frees = 15;
  result.counters.forced_placements = 15;
  result.counters.failed_allocations = 15;
  EXPECT_EQ(Judge(MakeRecording(), result).trust, Trust::kLimited);
  result.counters.outside_memory = 100;
  const ReplayVerdict verdict = Judge(MakeRecording(), result);
  EXPECT_EQ(verdict.trust, Trust::kPoor);
  EXPECT_THAT(
      verdict.doubts,
      ElementsAre(
          "3.00 % of frees are unmatched: their allocations were not seen",
          "3.00 % of allocations are forced: of pages that were not free",
          "3.00 % of allocations failed for want of memory",
          "10.00 % of events are outside the guest's memory"));
  EXPECT_THAT(Commands(verdict),
              ElementsAre("guestmm replay 'a folder/trace' --memory MAP"));
}

TEST(VerdictTest, MovesThatDoNotFitAreADoubtSooner) {
  ReplayResult result = MakeResult();
  result.counters.moves = 1000;
  result.counters.unfit_moves = 1;
  EXPECT_EQ(Judge(MakeRecording(), result).trust, Trust::kGood);
  result.counters.unfit_moves = 2;
  const ReplayVerdict verdict = Judge(MakeRecording(), result);
  EXPECT_EQ(verdict.trust, Trust::kLimited);
  EXPECT_THAT(verdict.doubts,
              ElementsAre("0.20 % of moves between lists and zones do not fit "
                          "the other events"));
  result.counters.unfit_moves = 100;
  EXPECT_EQ(Judge(MakeRecording(), result).trust, Trust::kPoor);
}

// The kernel reports 20 blocks, one a second.
class VerdictOfReportsTest : public ::testing::Test {
 protected:
  static constexpr uint64_t kBlocks = 20;

  VerdictOfReportsTest() {
    result_.start = std::chrono::seconds(0);
    result_.end = std::chrono::seconds(kBlocks);
    for (uint64_t i = 0; i < kBlocks; ++i) {
      recording_.reports.push_back({.time = std::chrono::seconds(i),
                                    .range = {Gpa(i * 2 * kMiB), 2 * kMiB}});
    }
  }
  // The verdict if the first `matched` of them are replayed.
  ReplayVerdict JudgeMatched(uint64_t matched) {
    result_.reports.clear();
    for (uint64_t i = 0; i < matched; ++i) {
      result_.reports.push_back(
          {recording_.reports[i].time, recording_.reports[i].range});
    }
    result_.reported_bytes = matched * 2 * kMiB;
    return Judge(recording_, result_);
  }

  Recording recording_ = MakeRecording();
  ReplayResult result_ = MakeResult();
};

TEST_F(VerdictOfReportsTest, ReportsThatAreNotMatchedAreADoubt) {
  EXPECT_EQ(JudgeMatched(18).trust, Trust::kGood);
  EXPECT_EQ(JudgeMatched(12).trust, Trust::kLimited);
  const ReplayVerdict verdict = JudgeMatched(11);
  EXPECT_EQ(verdict.trust, Trust::kPoor);
  EXPECT_THAT(verdict.doubts,
              ElementsAre("only 55.0 % of the blocks that the guest's kernel "
                          "reported are matched"));
}

TEST_F(VerdictOfReportsTest, ReportsOfAnotherTimeAreADoubt) {
  for (auto& report : recording_.reports) report.time *= 1000;
  recording_.reports.front().time = std::chrono::hours(1);
  const ReplayVerdict verdict = JudgeMatched(kBlocks);
  EXPECT_EQ(verdict.trust, Trust::kPoor);
  EXPECT_THAT(verdict.doubts,
              ElementsAre("the guest's kernel reported nothing in the replayed "
                          "time, in which linux reports 40.00 MiB"));
}

TEST_F(VerdictOfReportsTest, OtherPoliciesNeedNotMatch) {
  result_.options.policy = "v12";
  EXPECT_EQ(JudgeMatched(0).trust, Trust::kGood);
  result_.options.policy = "linux";
  result_.options.placement = ReplayPlacement::kNative;
  EXPECT_EQ(JudgeMatched(0).trust, Trust::kGood);
  result_.options.placement = ReplayPlacement::kRecorded;
  recording_.reports.back().range.bytes = 64 * kKiB;  // of another order
  EXPECT_EQ(JudgeMatched(0).trust, Trust::kGood);
  recording_.reports.resize(9);  // too few to say anything
  EXPECT_EQ(JudgeMatched(0).trust, Trust::kGood);
}

TEST(VerdictTest, FilesOfTheStartThatAreOfTheEndAreADoubt) {
  using std::chrono::seconds;
  Recording recording = MakeRecording();
  recording.zones_at_end.emplace_back().free = PageCount(kPages - 4);
  const auto info = [](int second, uint64_t pages) {
    RecordedBuddyInfo sample;
    sample.time = seconds(second);
    sample.zones.emplace_back().blocks[0] = pages;
    return sample;
  };
  recording.buddyinfo = {info(1, 0), info(11, kPages), info(19, kPages - 4)};
  ReplayResult result = MakeResult();
  result.start = seconds(10);
  result.end = seconds(20);
  EXPECT_EQ(Judge(recording, result).trust, Trust::kGood);
  std::swap(recording.zones.front().free, recording.zones_at_end.front().free);
  const ReplayVerdict verdict = Judge(recording, result);
  EXPECT_EQ(verdict.trust, Trust::kPoor);
  EXPECT_THAT(verdict.doubts,
              Contains("by buddyinfo.log, zoneinfo.start is of the end and "
                       "zoneinfo.end of the start"));
}

TEST(VerdictTest, ATraceThatLacksAPartOfTheWindowIsADoubt) {
  using std::chrono::seconds;
  Recording recording = MakeRecording();
  recording.start = seconds(10);
  recording.end = seconds(60);
  ReplayResult result = MakeResult();
  result.longest_pause = seconds(2);
  result.first_event = seconds(13);
  result.last_event = seconds(57);
  EXPECT_EQ(Judge(recording, result).trust, Trust::kGood);
  result.first_event = seconds(14);
  result.last_event = seconds(55);
  const ReplayVerdict verdict = Judge(recording, result);
  EXPECT_EQ(verdict.trust, Trust::kLimited);
  EXPECT_THAT(verdict.doubts,
              ElementsAre("the trace begins 4.0 s after the window does",
                          "the trace ends 5.0 s before the window does"));
  result.longest_pause = seconds(3);
  EXPECT_EQ(Judge(recording, result).trust, Trust::kGood);
  recording.start = seconds(56);
  EXPECT_EQ(Judge(recording, result).trust, Trust::kPoor);
}

TEST(VerdictTest, ATruthOfAnotherTimeOrGuestIsADoubt) {
  Recording recording = MakeRecording();
  ReplayResult result = MakeResult();
  result.start = std::chrono::seconds(100);
  result.end = std::chrono::seconds(110);
  const auto sample = [](int second, uint64_t pages) {
    return Recording::Resident{.time = std::chrono::seconds(second),
                               .bytes = pages * kPageSize};
  };
  recording.resident = {sample(101, 50), sample(110, 100)};
  EXPECT_EQ(Judge(recording, result).trust, Trust::kGood);
  recording.resident.back().time = std::chrono::seconds(105);
  EXPECT_THAT(Judge(recording, result).doubts,
              ElementsAre("rss.csv has 40 % of the replayed time"));
  recording.resident = {sample(0, 50), sample(10, 106)};
  const ReplayVerdict verdict = Judge(recording, result);
  EXPECT_EQ(verdict.trust, Trust::kPoor);
  EXPECT_THAT(verdict.doubts,
              ElementsAre("rss.csv has 0 % of the replayed time",
                          "rss.csv has 424.00 KiB resident, of a guest of "
                          "400.00 KiB"));
}

TEST(VerdictTest, ATraceWithoutEventsIsADoubt) {
  ReplayResult result = MakeResult();
  result.counters = {};
  EXPECT_THAT(Judge(MakeRecording(), result).doubts,
              ElementsAre("the trace has no events"));
}

TEST(VerdictTest, TracesOfEachCpuAreReplayedByTheirFolder) {
  Recording recording = MakeRecording();
  recording.trace_path = "a folder/per_cpu";
  ReplayResult result = MakeResult();
  result.free_at_end.with_host = 0;
  result.free_at_end.below_order = 1000;
  const std::vector<std::string> commands = Commands(Judge(recording, result));
  ASSERT_FALSE(commands.empty());
  EXPECT_THAT(commands,
              testing::Each(testing::StartsWith("guestmm replay 'a folder' ")));
}

TEST(VerdictTest, ListsOf6_12ThatAreInferredAreADoubt) {
  ReplayResult result = MakeResult();
  result.kernel = KernelVersion::kV6_12;
  const ReplayVerdict verdict = Judge(MakeRecording(), result);
  EXPECT_EQ(verdict.trust, Trust::kLimited);
  EXPECT_THAT(verdict.doubts,
              ElementsAre("no event shows what lists drain "
                          "(mm_page_pcpu_drain), which is inferred"));
  result.follows_moves = true;
  EXPECT_EQ(Judge(MakeRecording(), result).trust, Trust::kGood);
  result.moves_end_early = true;
  EXPECT_EQ(Judge(MakeRecording(), result).trust, Trust::kPoor);
}

TEST(VerdictTest, UnknownFlagsMatterToTouch) {
  ReplayResult result = MakeResult();
  result.counters.unknown_gfp = 250;
  EXPECT_THAT(Judge(MakeRecording(), result).doubts, IsEmpty());
  result.options.touch = {GfpFlags::kZero};
  const ReplayVerdict verdict = Judge(MakeRecording(), result);
  EXPECT_EQ(verdict.trust, Trust::kPoor);
  EXPECT_THAT(verdict.doubts,
              ElementsAre("--touch cannot tell for 50.00 % of allocations: "
                          "unknown gfp flags"));
  EXPECT_THAT(Commands(verdict),
              ElementsAre("guestmm replay 'a folder/trace'"));
}

TEST(VerdictTest, FreeMemoryThatIsLeftHasItsCommand) {
  Recording recording = MakeRecording();
  recording.memory_given = true;
  ReplayResult worse = MakeResult("v12");
  worse.free_at_end.with_host = 1;
  ReplayResult best = MakeResult("linux:order=10");
  best.free_at_end = {.bytes = 1000,
                      .with_host = 500,
                      .fragmented = 100,
                      .below_order = 100,
                      .below_watermark = 100,
                      .not_due = 200};
  const std::string command =
      "guestmm replay 'a folder/trace' --memory 0-0x64000 --policies ";
  EXPECT_THAT(
      Commands(JudgeReplays(recording, std::vector{worse, best})),
      ElementsAre(command + "linux:order=10 --tail 60",
                  command + "linux:order=9", command + "linux:order=0"));
  EXPECT_THAT(Commands(Judge(MakeRecording(), MakeResult("off"))),
              ElementsAre("guestmm replay 'a folder/trace'"));
}

}  // namespace
}  // namespace guestmm::verdict_test
