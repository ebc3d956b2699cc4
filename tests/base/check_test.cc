#include "guestmm/base/check.h"

#include <gtest/gtest.h>

namespace guestmm::check_test {
namespace {

TEST(CheckTest, SaysNothingWhenTheConditionHolds) { GUESTMM_CHECK(1 + 1 == 2); }

TEST(CheckDeathTest, NamesFileConditionAndMessage) {
  const int pages = 3;
  EXPECT_DEATH(GUESTMM_CHECK(pages == 4) << "there are " << pages << " pages",
               "check_test.cc:[0-9]+: check failed: pages == 4 "
               "there are 3 pages");
}

TEST(CheckDeathTest, NeedsNoMessage) {
  EXPECT_DEATH(GUESTMM_CHECK(false), "check failed: false");
}

TEST(CheckTest, EvaluatesTheMessageOnlyOnFailure) {
  int evaluated = 0;
  GUESTMM_CHECK(true) << ++evaluated;
  EXPECT_EQ(evaluated, 0);
}

TEST(CheckTest, EvaluatesTheConditionOnce) {
  int evaluated = 0;
  GUESTMM_CHECK(++evaluated == 1);
  EXPECT_EQ(evaluated, 1);
}

// The macro is one expression, so that it neither captures nor loses an else.
TEST(CheckTest, StandsInAnIfWithoutBraces) {
  bool otherwise = false;
  if (otherwise)
    GUESTMM_CHECK(true) << "not here";
  else
    otherwise = true;
  EXPECT_TRUE(otherwise);
}

}  // namespace
}  // namespace guestmm::check_test
