#include "guestmm/buddy/block_window.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <cstdint>
#include <latch>
#include <span>
#include <thread>
#include <vector>

namespace guestmm {
namespace {

using ::testing::ElementsAre;

// A window of at most 4 blocks, with room for 2 at once.
class BlockWindowTest : public ::testing::Test {
 protected:
  BlockWindowTest() {
    window_.Reserve(4);
    window_.SetRoom(2);
  }

  std::vector<uint64_t> Blocks() const {
    std::vector<uint64_t> blocks;
    for (const Pfn pfn : window_.blocks()) blocks.push_back(pfn.value());
    return blocks;
  }

  BlockWindow window_;
};

TEST_F(BlockWindowTest, TheNewestIsPoppedFirst) {
  window_.Push(Pfn(1));
  window_.Push(Pfn(2));
  EXPECT_THAT(Blocks(), ElementsAre(2, 1));
  EXPECT_EQ(window_.Pop(), Pfn(2));
  EXPECT_EQ(window_.Pop(), Pfn(1));
  EXPECT_TRUE(window_.empty());
}

TEST_F(BlockWindowTest, PopMakesRoomUnlessItIsClosed) {
  window_.Push(Pfn(1));
  window_.Push(Pfn(2));
  EXPECT_FALSE(window_.HasRoom());
  window_.Pop();
  EXPECT_TRUE(window_.HasRoom());
  window_.Close();
  EXPECT_FALSE(window_.HasRoom());
  window_.Pop();
  EXPECT_FALSE(window_.HasRoom());
}

TEST_F(BlockWindowTest, TheOldestAreTakenFromTheOtherEnd) {
  for (uint64_t pfn = 1; pfn <= 4; ++pfn) window_.PushSlow(Pfn(pfn));
  const std::span<const Pfn> oldest = window_.TakeOldest(3);
  EXPECT_THAT(oldest, ElementsAre(Pfn(3), Pfn(2), Pfn(1)));
  EXPECT_THAT(Blocks(), ElementsAre(4));
}

TEST_F(BlockWindowTest, AFilledWindowHasItsFirstBlockOnTop) {
  EXPECT_EQ(window_.Fill(4,
                         [](std::span<Pfn> blocks) {
                           EXPECT_EQ(blocks.size(), 4);
                           blocks[0] = Pfn(7);
                           blocks[1] = Pfn(8);
                           return size_t{2};
                         }),
            2);
  EXPECT_THAT(Blocks(), ElementsAre(7, 8));
}

// Through the array many times: what is in the window and what went through it
// is the same as if the array had no beginning.
TEST_F(BlockWindowTest, AWindowThatIsPutBackLosesNothing) {
  for (uint64_t pfn = 0; pfn < 100; ++pfn) {
    window_.PushSlow(Pfn(pfn));
    if (pfn < 2) continue;
    EXPECT_EQ(window_.TakeOldest(1)[0], Pfn(pfn - 2));
    if (pfn % 10 == 9) {
      EXPECT_EQ(window_.Pop(), Pfn(pfn));
      window_.PushSlow(Pfn(pfn));
    }
  }
  EXPECT_THAT(Blocks(), ElementsAre(99, 98));
  EXPECT_EQ(window_.Read().size, 2);
  EXPECT_EQ(window_.Read().popped, -100);
}

TEST_F(BlockWindowTest, AReaderNeverSeesAWindowHalfMoved) {
  std::atomic<bool> done = false;
  std::latch reading(1);
  std::thread reader([&] {
    reading.count_down();
    while (!done) {
      const BlockWindow::Snapshot seen = window_.Read();
      EXPECT_LE(seen.size, 4);
      EXPECT_LE(seen.popped, 0);
      EXPECT_GE(seen.popped, -20'000);
    }
  });
  reading.wait();
  for (uint64_t pfn = 0; pfn < 20'000; ++pfn) {
    window_.PushSlow(Pfn(pfn));
    if (window_.size() == 4) window_.TakeOldest(3);
  }
  done = true;
  reader.join();
  EXPECT_EQ(window_.Read().popped, -20'000);
}

TEST(BlockWindowDeathTest, BlocksAreNotForgotten) {
  BlockWindow window;
  window.Reserve(4);
  window.PushSlow(Pfn(1));
  EXPECT_DEATH(window.Reserve(8), "a window of 1 blocks is replaced");
}

}  // namespace
}  // namespace guestmm
