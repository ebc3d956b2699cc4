#ifndef GUESTMM_TESTS_EXPERIMENT_REPLAY_REPLAY_TESTING_H_
#define GUESTMM_TESTS_EXPERIMENT_REPLAY_REPLAY_TESTING_H_

// Replays of small traces that tests write.

#include <gtest/gtest.h>

#include <cstdint>
#include <utility>

#include "absl/status/statusor.h"
#include "guestmm/experiment/replay/replay.h"
#include "tests/testing/handmade_recording.h"

namespace guestmm {

// A guest of 512 MiB, unless said otherwise.
class HandmadeReplayTest : public HandmadeRecordingTest {
 protected:
  static constexpr uint64_t kPages = 0x20000;

  explicit HandmadeReplayTest(uint64_t pages = kPages, uint64_t in_use = 0)
      : HandmadeRecordingTest(pages, in_use) {}

  absl::StatusOr<ReplayResult> TryReplay(const ReplayOptions& options,
                                         const ReplayWatch& watch = {}) const {
    WriteTrace();
    return Replay(recording_, options, nullptr, watch);
  }
  ReplayResult Run(const ReplayOptions& options = {},
                   const ReplayWatch& watch = {}) const {
    auto result = TryReplay(options, watch);
    EXPECT_TRUE(result.ok()) << result.status();
    return result.ok() ? *std::move(result) : ReplayResult{};
  }
};

}  // namespace guestmm

#endif  // GUESTMM_TESTS_EXPERIMENT_REPLAY_REPLAY_TESTING_H_
