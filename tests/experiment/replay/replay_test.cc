// Replays of small traces written here, of a guest of 512 MiB.

#include "guestmm/experiment/replay/replay.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <span>
#include <string>

#include "guestmm/experiment/replay/replay_set.h"
#include "guestmm/experiment/report/replay_report.h"
#include "nlohmann/json.hpp"
#include "tests/experiment/replay/replay_testing.h"

namespace guestmm::replay_test {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

using ReplayTest = HandmadeReplayTest;

// 4 MiB allocated and freed as one block are reported two seconds later.
TEST_F(ReplayTest, WhatTheGuestFreesIsReported) {
  Alloc(10.0, kFirst, 10);
  Free(11.0, kFirst, 10);
  for (const ReplayPlacement placement :
       {ReplayPlacement::kRecorded, ReplayPlacement::kNative}) {
    ReplayOptions options;
    options.placement = placement;
    options.tail = std::chrono::seconds(10);
    const ReplayResult result = Run(options);
    EXPECT_EQ(result.counters.events, 2u);
    EXPECT_EQ(result.counters.allocations, 1u);
    EXPECT_EQ(result.counters.forced_placements, 0u);
    EXPECT_EQ(result.memory_bytes, kPages * kPageSize);
    EXPECT_EQ(result.start, std::chrono::seconds(10));
    if (placement == ReplayPlacement::kRecorded) {
      const GpaRange block = {Gpa(kFirst * kPageSize), 4 * kMiB};
      const auto report =
          std::find_if(result.reports.begin(), result.reports.end(),
                       [&](const ReplayReport& r) { return r.range == block; });
      ASSERT_NE(report, result.reports.end());
      EXPECT_GE(report->time, std::chrono::seconds(12));
    }
    EXPECT_EQ(result.samples.back().resident_bytes, 0u);
  }
}

TEST_F(ReplayTest, LogsEachPass) {
  Alloc(10.0, kFirst, 10);
  Free(11.0, kFirst, 10);
  Alloc(20.0, kFirst, 10);
  Free(21.0, kFirst, 10);
  ReplayOptions options;
  options.tail = std::chrono::seconds(10);
  const ReplayResult result = Run(options);
  ASSERT_THAT(result.passes, Not(IsEmpty()));
  Nanoseconds before = result.start;
  uint64_t reports = 0;
  uint64_t bytes = 0;
  for (const ReplayPass& pass : result.passes) {
    EXPECT_LE(before, pass.start);
    EXPECT_LE(pass.start, pass.end);
    before = pass.end;
    for (const ReplayReport& report : result.reports) {
      if (pass.start > report.time || report.time > pass.end) continue;
      ++reports;
      bytes += report.range.bytes;
    }
    reports -= pass.reports;
    bytes -= pass.bytes;
  }
  EXPECT_EQ(reports, 0u);
  EXPECT_EQ(bytes, 0u);
  // One delay after the last free.
  EXPECT_EQ(result.passes.back().start, std::chrono::seconds(23));
  EXPECT_EQ(result.passes.back().bytes, 4 * kMiB);
  EXPECT_GT(result.passes.back().end, result.passes.back().start);
}

// The device's formula, with the costs of the options.
TEST_F(ReplayTest, CostsDelayReports) {
  for (uint64_t pfn = kFirst; pfn < kFirst + kPages; pfn += 1024) {
    recording_.first->reported.emplace_back(pfn);
  }
  // Two runs: adjacent blocks, and a separate one.
  for (const uint64_t block : {0, 1, 4}) {
    Alloc(10.0, kFirst + 1024 * block, 10);
    Free(11.0, kFirst + 1024 * block, 10);
  }
  ReplayOptions options;
  options.tail = std::chrono::seconds(10);
  options.costs = {.discard_call = 100'000,
                   .discard_4k = 10,
                   .discard_2m = 10'000,
                   .report = 1'000'000,
                   .kick = 10'000'000,
                   // Delays a vCPU, and no report.
                   .interrupt = 100'000'000};
  const auto took = [&] {
    const ReplayResult result = Run(options);
    EXPECT_EQ(result.reports.size(), 3u);
    return result.reports.front().time - std::chrono::seconds(13);
  };
  EXPECT_EQ(took(), Nanoseconds(11'000'000 + 2 * 100'000 + 6 * 10'000));
  options.granule = Order(0);
  EXPECT_EQ(took(), Nanoseconds(11'000'000 + 2 * 100'000 + 3 * 1024 * 10));
}

// Nothing is freed for memory that the host has already.
TEST_F(ReplayTest, AReportOfMemoryThatIsNotResidentOnlyTakesItsCalls) {
  Alloc(10.0, kFirst, 10);
  ReplayOptions options;
  options.tail = std::chrono::seconds(10);
  const Nanoseconds before = Run(options).reports.front().time;
  options.costs.discard_2m = 1'000'000'000;
  EXPECT_EQ(Run(options).reports.front().time, before);
}

TEST_F(ReplayTest, WithoutReportingTouchedMemoryStaysResident) {
  Alloc(10.0, kFirst, 10);
  Free(11.0, kFirst, 10);
  ReplayOptions options;
  options.policy = "off";
  options.tail = std::chrono::seconds(10);
  const ReplayResult result = Run(options);
  EXPECT_THAT(result.reports, IsEmpty());
  EXPECT_EQ(result.samples.back().resident_bytes, 4 * kMiB);
  EXPECT_EQ(result.samples.back().free_bytes, kPages * kPageSize);
}

// Pages in use at the start are resident, and reported ones are not reported
// again.
TEST_F(ReplayTest, BeginsInTheRecordedState) {
  auto& states = recording_.first->states;
  for (uint64_t pfn = kFirst; pfn < kFirst + 512; ++pfn) {
    states[pfn] = RecordedPages::State::kInUse;
  }
  for (uint64_t pfn = kFirst + 1024; pfn < kFirst + kPages; pfn += 1024) {
    recording_.first->reported.push_back(Pfn(pfn));
  }
  Free(10.0, kFirst, 9);
  ReplayOptions options;
  options.tail = std::chrono::seconds(10);
  const ReplayResult result = Run(options);
  EXPECT_EQ(result.samples.front().resident_bytes, 2 * kMiB);
  // The half that was freed, and the other half, which had not been reported.
  EXPECT_EQ(result.reported_bytes, 4 * kMiB);
  EXPECT_EQ(result.needless_bytes, 0u);
}

// Only a free makes a block of the largest order. If all of them are marked as
// reported, the guest's reporter had nothing to do.
TEST_F(ReplayTest, AReporterThatWasAtRestWaitsForAFree) {
  auto& states = recording_.first->states;
  for (uint64_t pfn = kFirst; pfn < kFirst + 512; ++pfn) {
    states[pfn] = RecordedPages::State::kInUse;
  }
  for (uint64_t pfn = kFirst + 1024; pfn < kFirst + kPages; pfn += 1024) {
    recording_.first->reported.push_back(Pfn(pfn));
  }
  Alloc(10.0, kFirst + 512, 0);
  ReplayOptions options;
  options.tail = std::chrono::seconds(10);
  EXPECT_THAT(Run(options).passes, IsEmpty());
  recording_.first->reported.pop_back();
  EXPECT_FALSE(Run(options).passes.empty());
  recording_.first->reported.clear();
  EXPECT_FALSE(Run(options).passes.empty()) << "nothing had been reported";
}

// Its next pass is one delay after its last one, wherever the trace begins.
TEST_F(ReplayTest, AReporterThatHadLeftWorkOverKeepsItsPhase) {
  Alloc(10.0, kFirst, 10);
  recording_.end = std::chrono::seconds(20);
  const auto first_pass = [this](const std::string& policy) {
    ReplayOptions options;
    options.policy = policy;
    return Run(options).passes.front().start;
  };
  const GpaRange block = {Gpa(kFirst * kPageSize), 4 * kMiB};
  EXPECT_EQ(first_pass("linux"), std::chrono::seconds(12));
  recording_.reports = {{std::chrono::milliseconds(5000), block},
                        {std::chrono::milliseconds(9250), block},
                        {std::chrono::milliseconds(15000), block}};
  EXPECT_EQ(first_pass("linux"), std::chrono::milliseconds(11250));
  recording_.start = std::chrono::milliseconds(9500);
  EXPECT_EQ(first_pass("linux"), std::chrono::milliseconds(11250));
  // When it was asked for a pass since then is unknown.
  recording_.start.reset();
  recording_.reports[1].time = std::chrono::seconds(8);
  EXPECT_EQ(first_pass("linux"), std::chrono::seconds(12));
}

// With transparent huge pages the kernel raises its watermarks, below which
// nothing is reported.
TEST_F(ReplayTest, TheWatermarksAreTheGuests) {
  Alloc(10.0, kFirst, 10);
  Free(11.0, kFirst, 10);
  ReplayOptions options;
  options.tail = std::chrono::seconds(10);
  EXPECT_GT(Run(options).reported_bytes, 0u);
  RecordedZone& zone = recording_.zones.emplace_back();
  zone.name = "DMA32";
  zone.min = PageCount(kPages * 3 / 4);
  EXPECT_EQ(Run(options).reported_bytes, 0u);
}

TEST_F(ReplayTest, OfReportsThereAreListsAndCalls) {
  for (uint64_t pfn = kFirst; pfn < kFirst + kPages; pfn += 1024) {
    recording_.first->reported.emplace_back(pfn);
  }
  // Adjacent blocks, and a separate one.
  for (const uint64_t block : {0, 1, 4}) {
    Alloc(10.0, kFirst + 1024 * block, 10);
    Free(11.0, kFirst + 1024 * block, 10);
  }
  ReplayOptions options;
  options.tail = std::chrono::seconds(10);
  const ReplayResult result = Run(options);
  EXPECT_EQ(result.reported_bytes, 12 * kMiB);
  EXPECT_EQ(result.scatterlists, 1u);
  EXPECT_EQ(result.discard_calls, 2u);
}

TEST_F(ReplayTest, CountsWhatItCannotFollow) {
  Alloc(10.0, kFirst, 3);
  Free(10.1, kFirst + 4, 2);   // a part
  Free(10.2, kFirst + 64, 0);  // never allocated
  Alloc(10.3, kFirst, 0);      // in use
  Alloc(10.4, 0x10, 0);        // no such memory
  for (const ReplayPlacement placement :
       {ReplayPlacement::kRecorded, ReplayPlacement::kNative}) {
    ReplayOptions options;
    options.placement = placement;
    const ReplayResult result = Run(options);
    EXPECT_EQ(result.counters.events, 5u);
    EXPECT_EQ(result.counters.split_frees, 1u);
    EXPECT_EQ(result.counters.unmatched_frees, 1u);
    EXPECT_EQ(result.counters.forced_placements, 1u);
    EXPECT_EQ(result.counters.outside_memory, 1u);
  }
}

TEST_F(ReplayTest, TheSameSeedIsTheSameResult) {
  for (int i = 0; i < 2000; ++i) {
    const double time = 10 + 0.01 * i;
    Alloc(time, kFirst + 8 * static_cast<uint64_t>(i % 1000), i % 4, i % 2);
    if (i % 3 == 0) {
      Free(time + 0.001, kFirst + 8 * static_cast<uint64_t>(i % 1000), i % 4);
    }
  }
  const auto text = [&] {
    const ReplayResult result = Run();
    return ReplaySeriesCsv(recording_, std::span(&result, 1));
  };
  EXPECT_EQ(text(), text());
}

TEST_F(ReplayTest, DrawsAMapOfTheGuestsBlocks) {
  Alloc(10.0, kFirst, 9);
  Free(11.0, kFirst + 0, 9);
  ReplayOptions options;
  options.frame_interval = std::chrono::seconds(1);
  options.tail = std::chrono::seconds(10);
  const ReplayResult result = Run(options);
  ASSERT_GT(result.frames.size(), 5u);
  const std::string absent(kFirst / 512, '.');
  EXPECT_THAT(result.frames.back().blocks, testing::StartsWith(absent + "a"))
      << "in the vCPU's list";
  EXPECT_THAT(result.frames.back().blocks, testing::EndsWith("hhh"));
}

TEST_F(ReplayTest, SamplesShowWhatIsIsolatedForAReport) {
  for (uint64_t pfn = kFirst; pfn < kFirst + kPages; pfn += 1024) {
    recording_.first->reported.emplace_back(pfn);
  }
  Alloc(10.0, kFirst, 10);
  Free(11.0, kFirst, 10);
  ReplayOptions options;
  options.tail = std::chrono::seconds(10);
  options.sample_interval = std::chrono::milliseconds(10);
  options.costs.report = 100'000'000;
  uint64_t most = 0;
  for (const ReplaySample& sample : Run(options).samples) {
    most = std::max(most, sample.isolated_bytes);
  }
  EXPECT_EQ(most, 4 * kMiB);
}

// Free memory that the guest has used is resident without reporting; what was
// free all along never was.
TEST_F(ReplayTest, TheMapShowsWhatIsFreeAndWhatTheHostHas) {
  Alloc(10.0, kFirst, 10);
  Free(11.0, kFirst, 10);
  Alloc(12.0, kFirst + 1024, 8);  // leaves blocks of order 8 and 9
  ReplayOptions options;
  options.policy = "off";
  options.frame_interval = std::chrono::seconds(1);
  options.tail = std::chrono::seconds(2);
  const ReplayResult result = Run(options);
  const std::string absent(kFirst / 512, '.');
  ASSERT_FALSE(result.frames.empty());
  EXPECT_THAT(result.frames.back().blocks,
              testing::StartsWith(absent + "ffah"));
}

// Of a long replay every second sample is dropped, and the interval doubles.
TEST_F(ReplayTest, KeepsABoundedNumberOfSamplesAndFrames) {
  Alloc(10.0, kFirst, 9);
  ReplayOptions options;
  options.policy = "off";
  options.sample_interval = std::chrono::milliseconds(1);
  options.frame_interval = std::chrono::milliseconds(250);
  options.tail = std::chrono::seconds(450);
  const ReplayResult result = Run(options);
  // Thinned at 200 s and 400 s, and at 300 s.
  ASSERT_EQ(result.samples.size(), 112'501u);
  ASSERT_EQ(result.frames.size(), 901u);
  for (size_t i = 1; i < result.samples.size(); ++i) {
    ASSERT_EQ(result.samples[i].time - result.samples[i - 1].time,
              std::chrono::milliseconds(4));
  }
  for (size_t i = 1; i < result.frames.size(); ++i) {
    ASSERT_EQ(result.frames[i].time - result.frames[i - 1].time,
              std::chrono::milliseconds(500));
    ASSERT_THAT(result.frames[i].blocks, HasSubstr("a"));
  }
  EXPECT_EQ(result.samples.front().time, result.start);
  EXPECT_EQ(result.samples.back().time, result.end);
}

TEST_F(ReplayTest, SaysWhatIsMissing) {
  ReplayOptions options;
  options.policy = "real";
  EXPECT_EQ(TryReplay(options).status(),
            absl::InvalidArgumentError(
                "--policies=real: must have a recording of what the guest's "
                "kernel reported (reports.csv)"));
  options.policy_option = MechanismOption::kMechanisms;
  EXPECT_THAT(TryReplay(options).status().ToString(),
              HasSubstr("--mechanisms=real: must have a recording of"));
  options.policy_option = MechanismOption::kPolicies;
  recording_.reports.resize(1);
  options.placement = ReplayPlacement::kNative;
  EXPECT_EQ(TryReplay(options).status(),
            absl::InvalidArgumentError(
                "--placement=native: must be recorded with the policy real, as "
                "pages lie elsewhere than where they were reported"));
  options.policy = "nonsense";
  EXPECT_THAT(TryReplay(options).status().ToString(), HasSubstr("nonsense"));
  recording_.memory.clear();
  EXPECT_THAT(TryReplay({}).status().ToString(),
              HasSubstr("the recording must have a memory map (iomem)"));
}

// E.g. of a guest with larger pages, or with the memory map of another one.
TEST_F(ReplayTest, ATraceOfOtherMemoryIsRefused) {
  Alloc(10.0, 0x10, 0);
  Free(11.0, 0x10, 0);
  WriteTrace();
  ReplayResult partial;
  EXPECT_EQ(Replay(recording_, {}, &partial).status().message(),
            recording_.trace_path +
                ": none of 2 events is in the guest's memory (iomem or "
                "--memory), which is of 131072 pages of 4 KiB up to page "
                "135168; the first event is of page 16");
  EXPECT_EQ(partial.counters.events, 0u);
}

TEST_F(ReplayTest, ATraceOfAnotherTimeThanItsWindowIsRefused) {
  recording_.end = std::chrono::seconds(9);
  Alloc(10.0, kFirst, 0);
  EXPECT_EQ(TryReplay({}).status().message(),
            recording_.trace_path +
                ": begins at 10.000000 s, but window.csv ends at 9.000000 s: "
                "must be by one clock");
}

// Numbers, or names of another kernel, are no flags to touch by.
TEST_F(ReplayTest, FlagsThatNoAllocationHasAreRefused) {
  Write("trace.txt",
        "  task-1 [000] .....  10.000000: mm_page_alloc: page=0 "
        "pfn=0x1000 order=0 migratetype=1 gfp_flags=0x80000000\n");
  ReplayOptions options;
  options.touch = ParseTouch("__GFP_ZERO").value();
  EXPECT_THAT(Replay(recording_, options).status().ToString(),
              HasSubstr("--touch=__GFP_ZERO: must be gfp flags that an "
                        "allocation in the trace has; the flags of "));
  const ReplaySet set = ReplayEach(recording_, {.replay = options});
  EXPECT_TRUE(set.results.empty());
}

// On a host of granules of 2 MiB.
TEST_F(ReplayTest, SaysWhyFreeMemoryStaysWithTheGuest) {
  Alloc(10.0, kFirst, 10);
  Alloc(10.0, kFirst + 1024, 10);
  Alloc(10.0, kFirst + 2048, 10);
  Alloc(10.0, kFirst + 3072, 10);
  Free(11.0, kFirst, 10);
  Free(11.0, kFirst + 2048, 8);  // half of a granule
  Free(11.0, kFirst + 3072, 8);  // and the other half, so past the lists
  Free(11.0, kFirst + 3072 + 256, 8);
  ReplayOptions options;
  options.policy = "linux:order=10:delay=2";
  FreeAtEnd free = Run(options).free_at_end;
  EXPECT_EQ(free.bytes, kPages * kPageSize - 9 * kMiB);
  EXPECT_EQ(free.with_host, free.bytes - 7 * kMiB);
  EXPECT_EQ(free.fragmented, kMiB);
  EXPECT_EQ(free.below_order, 2 * kMiB);
  EXPECT_EQ(free.below_watermark, 0u);
  EXPECT_EQ(free.not_due, 4 * kMiB);
  options.tail = std::chrono::seconds(5);
  free = Run(options).free_at_end;
  EXPECT_EQ(free.with_host, free.bytes - 3 * kMiB);
  EXPECT_EQ(free.not_due, 0u);
}

// E.g. after the guest's clock was set. The replay ends instead of running
// there.
TEST_F(ReplayTest, ATimeThatIsFarOffEndsIt) {
  Alloc(10.0, kFirst, 10);
  Free(9'000'000'000.0, kFirst, 10);
  WriteTrace();
  ReplayResult partial;
  EXPECT_THAT(Replay(recording_, {}, &partial).status().ToString(),
              HasSubstr("trace.txt: event 2 is 9000000000.0 s by the trace's "
                        "clock, which began at 10.0 s: must be at most "
                        "604800 s later"));
  EXPECT_EQ(partial.counters.events, 1u);
  EXPECT_LT(partial.samples.size(), 10u);

  recording_.end = std::chrono::seconds(8'000'000'000);
  EXPECT_THAT(Replay(recording_, {}, &partial).status().ToString(),
              HasSubstr("trace.txt: event 2 is"));
  ClearTrace();
  Alloc(10.0, kFirst, 10);
  WriteTrace();
  EXPECT_THAT(Replay(recording_, {}, &partial).status().ToString(),
              HasSubstr("trace.txt: its end is 8000000000.0 s by the"));
  EXPECT_EQ(partial.counters.events, 1u);

  ReplayOptions options;
  options.tail = std::chrono::hours(24 * 365);
  EXPECT_THAT(Replay(recording_, options).status().ToString(),
              HasSubstr("--tail=31536000: must be 0 to 604800 seconds"));
}

TEST_F(ReplayTest, ADamagedTraceIsReplayedUpToTheDamage) {
  Alloc(10.0, kFirst, 10);
  Free(11.0, kFirst, 10);
  AddDamage();
  WriteTrace();
  ReplayResult partial;
  const auto result = Replay(recording_, {}, &partial);
  EXPECT_THAT(result.status().ToString(), HasSubstr("trace.txt:3"));
  EXPECT_EQ(partial.counters.events, 2u);
  EXPECT_EQ(partial.error, result.status().message());
}

// Otherwise the guest would count as idle.
TEST_F(ReplayTest, AfterADamageThereIsNoMoreTime) {
  Alloc(10.0, kFirst, 10);
  Free(11.0, kFirst, 10);
  recording_.end = std::chrono::seconds(100);
  ReplayOptions options;
  options.tail = std::chrono::seconds(10);
  const ReplayResult whole = Run(options);
  EXPECT_EQ(whole.end, std::chrono::seconds(110));
  EXPECT_EQ(whole.error, "");
  AddDamage();
  WriteTrace();
  ReplayResult partial;
  EXPECT_FALSE(Replay(recording_, options, &partial).ok());
  EXPECT_EQ(partial.end, std::chrono::seconds(11));
  EXPECT_EQ(partial.samples.back().time, std::chrono::seconds(11));
  const auto json = nlohmann::json::parse(
      ReplaySummaryJson(recording_, {.results = {partial}}));
  EXPECT_EQ(json["rows"][0]["error"], partial.error);
}

}  // namespace
}  // namespace guestmm::replay_test
