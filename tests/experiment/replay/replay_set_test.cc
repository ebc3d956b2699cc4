#include "guestmm/experiment/replay/replay_set.h"

#include <gtest/gtest.h>

#include <chrono>
#include <string>

#include "absl/status/status.h"
#include "guestmm/base/virtual_time.h"
#include "guestmm/experiment/report/replay_report.h"
#include "nlohmann/json.hpp"
#include "tests/experiment/replay/replay_testing.h"

namespace guestmm::replay_set_test {
namespace {

using std::chrono::seconds;

using ReplaySetTest = HandmadeReplayTest;

TEST_F(ReplaySetTest, OnceStoppedHasThePoliciesThatWereDone) {
  Alloc(1.0, kFirst, 9);
  Free(2.0, kFirst, 9);
  WriteTrace();
  const ReplaySetOptions options = {.policies = {"off", "v12", "linux"}};
  EXPECT_TRUE(ReplayEach(recording_, options).complete);
  // In the middle of a replay: at the first sample under v12.
  std::string policy;
  const ReplaySet set = ReplayEach(
      recording_, options,
      [&](const std::string& under, const ReplayProgress&) { policy = under; },
      [&] { return policy == "v12"; });
  EXPECT_FALSE(set.complete);
  EXPECT_EQ(set.status, absl::OkStatus());
  ASSERT_EQ(set.results.size(), 1u);
  EXPECT_EQ(set.results[0].options.policy, "off");
  EXPECT_EQ(set.results[0].end, std::chrono::seconds(2));
  const auto summary =
      nlohmann::json::parse(ReplaySummaryJson(recording_, set));
  EXPECT_EQ(summary["complete"], false);
  EXPECT_FALSE(summary.contains("error"));
}

TEST_F(ReplaySetTest, OneThatIsStoppedAtOnceHasNoResults) {
  Alloc(1.0, kFirst, 9);
  WriteTrace();
  const ReplaySet set = ReplayEach(recording_, {}, {}, [] { return true; });
  EXPECT_FALSE(set.complete);
  EXPECT_EQ(set.status, absl::OkStatus());
  EXPECT_TRUE(set.results.empty());
}

TEST_F(ReplaySetTest, AReplayIsStoppedWhileItWaitsForItsSpeed) {
  Alloc(1.0, kFirst, 9);
  Free(1000.0, kFirst, 9);
  WriteTrace();
  VirtualTime clock(1);
  ReplayResult partial;
  EXPECT_EQ(Replay(recording_, {.speed = 1}, &partial,
                   {.stopped = [&] { return clock.Now() >= seconds(7); },
                    .clock = &clock})
                .status(),
            absl::CancelledError("stopped"));
  EXPECT_EQ(clock.Now(), seconds(7));
  EXPECT_EQ(partial.counters.events, 1u);
}

}  // namespace
}  // namespace guestmm::replay_set_test
