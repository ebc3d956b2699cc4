#include "src/experiment/replay/replay_pace.h"

#include <gtest/gtest.h>

#include "guestmm/base/virtual_time.h"

namespace guestmm::replay_pace_test {
namespace {

using std::chrono::hours;
using std::chrono::microseconds;
using std::chrono::milliseconds;
using std::chrono::seconds;

TEST(ReplayPaceTest, WaitsForTheClock) {
  VirtualTime clock(1);
  clock.RunFor(seconds(7));
  ReplayPace pace(10, clock);
  const auto passed = [&] { return clock.Now() - seconds(7); };
  pace.WaitFor(seconds(1));
  EXPECT_EQ(passed(), milliseconds(100));
  pace.WaitFor(seconds(3));
  EXPECT_EQ(passed(), milliseconds(300));
}

TEST(ReplayPaceTest, DoesNotWaitForWhatIsDue) {
  VirtualTime clock(1);
  ReplayPace pace(0.5, clock);
  clock.RunFor(seconds(10));
  pace.WaitFor(seconds(4));
  EXPECT_EQ(clock.Now(), seconds(10));
  pace.WaitFor(seconds(6));
  EXPECT_EQ(clock.Now(), seconds(12));
}

TEST(ReplayPaceTest, WaitsNoLongerOnceStopped) {
  VirtualTime clock(1);
  ReplayPace pace(1, clock, [&] { return clock.Now() >= seconds(2); });
  pace.WaitFor(hours(1));
  EXPECT_EQ(clock.Now(), seconds(2));
}

TEST(ReplayPaceTest, DefersShortWaits) {
  VirtualTime clock(1);
  ReplayPace pace(1, clock);
  pace.WaitFor(microseconds(999));
  EXPECT_EQ(clock.Now(), Nanoseconds(0));
  pace.WaitFor(microseconds(1001));
  EXPECT_EQ(clock.Now(), microseconds(1001));
}

}  // namespace
}  // namespace guestmm::replay_pace_test
