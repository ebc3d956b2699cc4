#include "guestmm/host/accounting/footprint.h"

#include <gtest/gtest.h>

#include <chrono>

namespace guestmm::footprint_test {
namespace {

using std::chrono::hours;
using std::chrono::microseconds;
using std::chrono::minutes;
using std::chrono::nanoseconds;

constexpr PageCount kGibPages(kGiB / kPageSize);

TEST(FootprintIntegralTest, AddsPagesTimesMicroseconds) {
  FootprintIntegral integral;
  integral.Add(PageCount(3), microseconds(10));
  integral.Add(PageCount(0), microseconds(20));
  integral.Add(PageCount(5), microseconds(21));
  EXPECT_EQ(integral.page_microseconds(), 3 * 10 + 5 * 1);
}

TEST(FootprintIntegralTest, NothingIsHeldBeforeItsStart) {
  FootprintIntegral integral(minutes(5));
  integral.Add(kGibPages * 2, minutes(8));
  EXPECT_EQ(integral.gib_minutes(), 2 * 3);
}

// Fractions are not lost: each addition ends where the next one begins.
TEST(FootprintIntegralTest, RoundsTimesDownNotIntervals) {
  FootprintIntegral integral;
  for (int i = 1; i <= 10; ++i)
    integral.Add(PageCount(1), nanoseconds(i * 900));
  EXPECT_EQ(integral.page_microseconds(), 9);
}

// 64 bits overflow after 19 hours of 1 TiB.
TEST(FootprintIntegralTest, AYearOfATebibyteFits) {
  FootprintIntegral integral;
  integral.Add(kGibPages * 1024, hours(24 * 365));
  EXPECT_EQ(integral.gib_minutes(), 1024.0 * 60 * 24 * 365);
}

}  // namespace
}  // namespace guestmm::footprint_test
