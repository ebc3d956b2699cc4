#include "guestmm/vmm/line_log.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <condition_variable>
#include <string>
#include <vector>

#include "guestmm/base/thread_workqueue.h"
#include "guestmm/base/virtual_time.h"

namespace guestmm::line_log_test {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::SizeIs;

// In virtual time: lines are written when the test runs it.
class LineLogTest : public ::testing::Test {
 protected:
  // Four lines wait at most; of Say, two at once and then two per second.
  VirtualTime time_{1};
  std::vector<std::string> written_;
  LineLog log_{time_,
               [this](const std::string& line) { written_.push_back(line); },
               [this](const std::string& text) { written_.push_back(text); },
               {.max_lines = 4, .burst = 2, .lines_per_second = 2}};
};

TEST_F(LineLogTest, WritesLinesInOrder) {
  log_.Say("a");
  log_.Tell("b");
  EXPECT_THAT(written_, IsEmpty()) << "not by the caller";
  EXPECT_TRUE(log_.Flush(seconds(1)));
  EXPECT_THAT(written_, ElementsAre("a", "b"));
}

TEST_F(LineLogTest, ShowsTheLatestProgressAfterTheLines) {
  log_.Show("1");
  log_.Tell("a");
  log_.Show("2");
  time_.RunUntilIdle();
  EXPECT_THAT(written_, ElementsAre("a", "2"));
}

TEST_F(LineLogTest, LinesBeyondTheRateAreCountedAndTold) {
  for (int i = 0; i < 5; ++i) log_.Say("a");
  time_.RunFor(milliseconds(499));
  log_.Say("b");
  time_.RunFor(milliseconds(1));
  log_.Say("c");
  log_.Say("d");
  time_.RunUntilIdle();
  EXPECT_THAT(written_, ElementsAre("a", "a", "(4 lines left out)", "c"));
  EXPECT_TRUE(log_.Flush(seconds(1)));
  EXPECT_EQ(written_.back(), "(1 lines left out)");
}

TEST_F(LineLogTest, SavesUpForNoMoreThanTheBurst) {
  time_.RunFor(std::chrono::hours(1));
  for (int i = 0; i < 5; ++i) log_.Say("a");
  time_.RunUntilIdle();
  EXPECT_THAT(written_, ElementsAre("a", "a"));
}

TEST_F(LineLogTest, TellHasNoRate) {
  for (int i = 0; i < 4; ++i) log_.Tell("a");
  time_.RunUntilIdle();
  EXPECT_THAT(written_, SizeIs(4));
}

TEST_F(LineLogTest, LinesThatWaitAreBounded) {
  for (int i = 0; i < 100; ++i) log_.Tell("a");
  time_.RunUntilIdle();
  EXPECT_THAT(written_, SizeIs(4));
  log_.Tell("b");
  time_.RunUntilIdle();
  EXPECT_THAT(written_,
              ElementsAre("a", "a", "a", "a", "(96 lines left out)", "b"));
}

// A writer that is stuck holds up nobody.
TEST(LineLogThreads, NobodyWaitsForTheWriter) {
  ThreadWorkqueue writer;
  Mutex mutex;
  std::condition_variable_any changed;
  bool is_stuck = true;
  size_t written = 0;
  const auto write = [&](const std::string&) {
    LockHolder hold(mutex);
    ++written;
    changed.notify_all();
    while (is_stuck) changed.wait(mutex);
  };
  LineLog log(writer, write, [](const std::string&) {}, {.max_lines = 10});
  log.Tell("a");
  {
    LockHolder hold(mutex);
    while (written == 0) changed.wait(mutex);
  }
  for (int i = 0; i < 100; ++i) {
    log.Say("b");
    log.Show("c");
  }
  EXPECT_FALSE(log.Flush(milliseconds(1)));
  {
    LockHolder hold(mutex);
    is_stuck = false;
    changed.notify_all();
  }
  EXPECT_TRUE(log.Flush(Workqueue::kForever));
  EXPECT_EQ(written, 1u + 10u + 1u) << "with the count of those left out";
}

}  // namespace
}  // namespace guestmm::line_log_test
