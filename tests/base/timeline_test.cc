#include "guestmm/base/timeline.h"

#include <gtest/gtest.h>

#include <chrono>

namespace guestmm::timeline_test {
namespace {

constexpr Nanoseconds kSoon{1};
constexpr Nanoseconds kLate{2};

class TimelineTest : public testing::Test {
 protected:
  Work a_{[] {}};
  Work b_{[] {}};
  Work c_{[] {}};
  Timeline timeline_;
};

TEST_F(TimelineTest, GivesWhatIsDueFirst) {
  EXPECT_TRUE(timeline_.empty());
  timeline_.Add(a_, kLate, 0);
  timeline_.Add(b_, kSoon, 9);
  EXPECT_EQ(timeline_.next(), kSoon);
  EXPECT_EQ(&timeline_.TakeFirst(), &b_);
  EXPECT_EQ(timeline_.next(), kLate);
  EXPECT_EQ(&timeline_.TakeFirst(), &a_);
  EXPECT_TRUE(timeline_.empty());
}

TEST_F(TimelineTest, TiesGoByTheirNumber) {
  timeline_.Add(a_, kSoon, 2);
  timeline_.Add(b_, kSoon, 1);
  EXPECT_EQ(&timeline_.TakeFirst(), &b_);
}

TEST_F(TimelineTest, EqualTiesKeepTheOrderOfAdding) {
  for (Work* work : {&c_, &a_, &b_}) timeline_.Add(*work, kSoon, 0);
  EXPECT_EQ(&timeline_.TakeFirst(), &c_);
  EXPECT_EQ(&timeline_.TakeFirst(), &a_);
  EXPECT_EQ(&timeline_.TakeFirst(), &b_);
}

TEST_F(TimelineTest, RemovesTheOneThatWasMeant) {
  for (Work* work : {&a_, &b_, &c_}) timeline_.Add(*work, kSoon, 0);
  EXPECT_TRUE(timeline_.Remove(b_));
  EXPECT_FALSE(timeline_.Remove(b_));
  EXPECT_EQ(&timeline_.TakeFirst(), &a_);
  EXPECT_EQ(&timeline_.TakeFirst(), &c_);
}

TEST_F(TimelineTest, AWorkIsDueOnce) {
  EXPECT_TRUE(timeline_.Add(a_, kLate, 0));
  EXPECT_FALSE(timeline_.Add(a_, kSoon, 0));
  EXPECT_EQ(timeline_.next(), kLate);
  timeline_.TakeFirst();
  EXPECT_TRUE(timeline_.Add(a_, kSoon, 0));
}

}  // namespace
}  // namespace guestmm::timeline_test
