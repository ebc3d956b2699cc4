#ifndef GUESTMM_TESTS_TESTING_MADE_REPLAYS_H_
#define GUESTMM_TESTS_TESTING_MADE_REPLAYS_H_

// A fabricated recording and replays of it, for tests of reports.

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "guestmm/experiment/replay/replay.h"
#include "guestmm/trace/recording.h"

namespace guestmm {

// The start of the replays, by the trace's clock.
inline constexpr Nanoseconds kMadeStart = std::chrono::seconds(100);
inline constexpr uint64_t kMadeBlocks = 256;
inline constexpr int kMadeSeconds = 20;

inline constexpr Nanoseconds MadeTime(int seconds) {
  return kMadeStart + std::chrono::seconds(seconds);
}

inline GpaRange MadeBlock(int block) {
  return {.gpa = Gpa(static_cast<uint64_t>(block) * kPageblockOrder.bytes()),
          .bytes = kPageblockOrder.bytes()};
}

// A replay of a guest of 512 MiB, all of which is in use for five seconds. In
// each of the next ten seconds ten blocks are freed and, except under "off",
// reported in a pass.
inline ReplayResult MadeReplay(const std::string& policy) {
  const bool reports = policy != "off";
  ReplayResult result;
  result.options.policy = policy;
  result.memory_bytes = kMadeBlocks * kPageblockOrder.bytes();
  result.start = kMadeStart;
  result.end = MadeTime(kMadeSeconds);
  result.counters = {
      .events = 1000, .allocations = 600, .frees = 400, .unmatched_frees = 3};
  std::string blocks(kMadeBlocks, 'a');
  for (size_t hole = 200; hole < 216; ++hole) blocks[hole] = '.';
  ReplaySample sample = {.resident_bytes = result.memory_bytes};
  for (int second = 0; second <= kMadeSeconds; ++second) {
    sample.time = MadeTime(second);
    sample.free_blocks[3] = static_cast<uint64_t>(second);
    sample.isolated_bytes = 0;
    if (second >= 5 && second < 15) {
      if (reports) {
        result.passes.push_back(
            {.start = MadeTime(second),
             .end = MadeTime(second) + std::chrono::milliseconds(9),
             .reports = 10,
             .bytes = 10 * kPageblockOrder.bytes()});
      }
      for (int block = 10 * second; block < 10 * second + 10; ++block) {
        const auto i = static_cast<size_t>(block);
        blocks[i] = 'f';
        sample.free_blocks[9] += 1;
        if (!reports) continue;
        blocks[i] = block % 10 == 9 ? 'i' : 'h';
        result.reports.push_back(
            {.time = MadeTime(second) + std::chrono::milliseconds(block % 10),
             .range = MadeBlock(block)});
        result.reported_bytes += kPageblockOrder.bytes();
        sample.resident_bytes -= kPageblockOrder.bytes();
        sample.isolated_bytes = kPageblockOrder.bytes();
      }
    }
    sample.free_bytes = sample.free_blocks[9] * kPageblockOrder.bytes() +
                        sample.free_blocks[3] * Order(3).bytes();
    result.samples.push_back(sample);
    result.frames.push_back({.time = sample.time, .blocks = blocks});
  }
  return result;
}

// A recording of a guest that does what `result` does, with some truth before
// and after it.
inline Recording MadeRecording(const ReplayResult& result) {
  Recording recording;
  recording.trace_path = "traces/made/trace.txt";
  recording.memory = {{.gpa = Gpa(0), .bytes = result.memory_bytes}};
  recording.reports.push_back({.time = MadeTime(-50), .range = MadeBlock(0)});
  recording.resident.push_back({.time = MadeTime(-50), .bytes = 12345});
  for (const ReplayReport& report : result.reports) {
    recording.reports.push_back({.time = report.time, .range = report.range});
  }
  for (const ReplaySample& sample : result.samples) {
    recording.resident.push_back(
        {.time = sample.time, .bytes = sample.resident_bytes + 8 * kMiB});
    RecordedBuddyInfo info = {.time = sample.time, .zones = {{}, {}}};
    info.zones[0].blocks[9] = sample.free_blocks[9];
    info.zones[1].blocks[9] = 1;
    recording.buddyinfo.push_back(info);
  }
  recording.reports.push_back({.time = MadeTime(90), .range = MadeBlock(1)});
  recording.resident.push_back({.time = MadeTime(90), .bytes = 12345});
  return recording;
}

}  // namespace guestmm

#endif  // GUESTMM_TESTS_TESTING_MADE_REPLAYS_H_
