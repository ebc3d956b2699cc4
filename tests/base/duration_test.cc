#include "guestmm/base/duration.h"

#include <gtest/gtest.h>

#include <chrono>
#include <optional>

namespace guestmm::duration_test {
namespace {

using std::chrono::hours;
using std::chrono::microseconds;
using std::chrono::milliseconds;
using std::chrono::minutes;
using std::chrono::seconds;

TEST(ParseDurationTest, TakesSecondsAndOtherUnits) {
  EXPECT_EQ(ParseDuration("0"), Nanoseconds(0));
  EXPECT_EQ(ParseDuration("10"), seconds(10));
  EXPECT_EQ(ParseDuration("0.5"), milliseconds(500));
  EXPECT_EQ(ParseDuration("1e-3"), milliseconds(1));
  EXPECT_EQ(ParseDuration("1.5s"), milliseconds(1500));
  EXPECT_EQ(ParseDuration("100ms"), milliseconds(100));
  EXPECT_EQ(ParseDuration("500us"), microseconds(500));
  EXPECT_EQ(ParseDuration("0.90 us"), Nanoseconds(900));
  EXPECT_EQ(ParseDuration("7ns"), Nanoseconds(7));
  EXPECT_EQ(ParseDuration("2 min"), minutes(2));
  EXPECT_EQ(ParseDuration("2m"), minutes(2));
  EXPECT_EQ(ParseDuration("2H"), hours(2));
}

TEST(ParseDurationTest, TakesNothingElse) {
  for (const char* text : {"", "s", "-1", "-1ms", "nan", "inf", "infs", "1e300",
                           "1 ", " 1", "1  s", "1,5", "1d", "0x10", "3e6h"}) {
    EXPECT_EQ(ParseDuration(text), std::nullopt) << text;
  }
}

}  // namespace
}  // namespace guestmm::duration_test
