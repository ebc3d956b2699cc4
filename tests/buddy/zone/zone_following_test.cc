// A zone that allocates given blocks.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <span>
#include <vector>

#include "guestmm/base/random.h"
#include "guestmm/buddy/zone.h"
#include "tests/testing/tiny_zone.h"

namespace guestmm::zone_following_test {
namespace {

using ::testing::ElementsAre;

// 64 pages in one block of order 6.
class ZoneFollowingTest : public ::testing::Test {
 protected:
  static constexpr uint64_t kPages = 64;

  // Every pageblock is movable.
  bool TakeAt(uint64_t pfn, int order,
              MigrateType type = MigrateType::kMovable) {
    LockHolder hold(zone().lock());
    return zone().TakeAt(Pfn(pfn), Order(order), type) > 0;
  }
  bool Reshape(uint64_t pfn, int order) {
    LockHolder hold(zone().lock());
    return zone().Reshape(Pfn(pfn), Order(order));
  }
  void Free(uint64_t pfn, int order) {
    LockHolder hold(zone().lock());
    static_cast<void>(zone().Free(Pfn(pfn), Order(order)));
  }
  absl::Status CheckInvariants() {
    LockHolder hold(zone().lock());
    return zone().CheckInvariants();
  }
  Zone& zone() { return *tiny_; }

  TinyZone tiny_{TinyZone::Options{.span = {Pfn(0), Pfn(kPages)},
                                   .memory = {{Pfn(0), Pfn(kPages)}},
                                   .max_order = Order(6),
                                   .pageblock_order = Order(4)}};
};

TEST_F(ZoneFollowingTest, TakesTheBlockAndLeavesHalves) {
  ASSERT_TRUE(TakeAt(21, 0));
  // [16, 20) [20] | 21 | [22, 24) [24, 32) [0, 16) [32, 64)
  EXPECT_EQ(zone().free_blocks(Order(0)), 1u);
  EXPECT_EQ(zone().free_blocks(Order(1)), 1u);
  EXPECT_EQ(zone().free_blocks(Order(2)), 1u);
  EXPECT_EQ(zone().free_blocks(Order(3)), 1u);
  EXPECT_EQ(zone().free_blocks(Order(4)), 1u);
  EXPECT_EQ(zone().free_blocks(Order(5)), 1u);
  EXPECT_EQ(zone().free_pages(), PageCount(kPages - 1));
  EXPECT_EQ(CheckInvariants(), absl::OkStatus());
  EXPECT_FALSE(TakeAt(21, 0)) << "taken already";
  EXPECT_FALSE(TakeAt(20, 1)) << "a half of it is";
  EXPECT_FALSE(TakeAt(0, 6));
  Free(21, 0);
  EXPECT_EQ(zone().free_blocks(Order(6)), 1u);
  EXPECT_EQ(CheckInvariants(), absl::OkStatus());
}

// The type of the request is only that of the block: what is left stays on its
// pageblock's lists (Z9).
TEST_F(ZoneFollowingTest, HalvesKeepTheirPageblocksType) {
  ASSERT_TRUE(TakeAt(21, 0, MigrateType::kUnmovable));
  EXPECT_THAT(tiny_.List(0), ElementsAre(20));
  EXPECT_THAT(tiny_.List(5), ElementsAre(32));
  EXPECT_EQ(CheckInvariants(), absl::OkStatus());
  Free(21, 0);
  EXPECT_THAT(tiny_.List(6), ElementsAre(0));
  EXPECT_EQ(CheckInvariants(), absl::OkStatus());
}

TEST_F(ZoneFollowingTest, SplitsWhatWasAllocatedAsOne) {
  ASSERT_TRUE(TakeAt(32, 4));
  ASSERT_TRUE(Reshape(37, 0));
  Free(37, 0);
  EXPECT_EQ(zone().free_pages(), PageCount(kPages - 15));
  EXPECT_EQ(CheckInvariants(), absl::OkStatus());
  EXPECT_FALSE(Reshape(36, 1)) << "a half of it is free";
  // The remainders of the splits.
  Free(36, 0);
  Free(38, 1);
  Free(32, 2);
  Free(40, 3);
  EXPECT_EQ(zone().free_blocks(Order(6)), 1u);
  EXPECT_EQ(CheckInvariants(), absl::OkStatus());
}

TEST_F(ZoneFollowingTest, JoinsWhatWasAllocatedInParts) {
  ASSERT_TRUE(TakeAt(8, 0));
  ASSERT_TRUE(TakeAt(9, 0));
  ASSERT_TRUE(TakeAt(10, 1));
  EXPECT_FALSE(Reshape(8, 3)) << "the other half is free";
  ASSERT_TRUE(Reshape(8, 2));
  ASSERT_TRUE(Reshape(8, 2)) << "as it is";
  Free(8, 2);
  EXPECT_EQ(zone().free_blocks(Order(6)), 1u);
  EXPECT_EQ(CheckInvariants(), absl::OkStatus());
}

// Counts the blocks freed and, with kTell, taken.
class Listener final : public FreeBlockObserver {
 public:
  bool OnBlockFreed(Zone&, Pfn, Order) override {
    ++freed;
    return true;
  }
  void OnBlocksTaken(Zone&, std::span<const PfnRange> runs, Order) override {
    taken += runs.size();
  }
  void Wake() override {}

  size_t freed = 0;
  size_t taken = 0;
};

TEST_F(ZoneFollowingTest, PutsBackAsIfNothingHadBeen) {
  for (const TakenBlocks taken : {TakenBlocks::kIgnore, TakenBlocks::kTell}) {
    Listener listener;
    zone().SetObserver(&listener, Order(0), taken);
    ASSERT_TRUE(TakeAt(16, 4));
    {
      LockHolder hold(zone().lock());
      const bool tells = taken == TakenBlocks::kTell;
      EXPECT_EQ(zone().PutBackAt(Pfn(16), Order(4)),
                tells ? &listener : nullptr);
      EXPECT_EQ(listener.taken, tells ? 1u : 0u);
      EXPECT_EQ(listener.freed, tells ? 1u : 0u);
    }
    EXPECT_EQ(zone().free_blocks(Order(6)), 1u);
    EXPECT_EQ(CheckInvariants(), absl::OkStatus());
    // The next free is notified as before.
    ASSERT_TRUE(TakeAt(16, 4));
    listener.freed = 0;
    Free(16, 4);
    EXPECT_EQ(listener.freed, 1u);
    zone().SetObserver(nullptr, Order(0));
  }
}

// A run leaves the lists as its blocks one by one do, and in the same order.
TEST_F(ZoneFollowingTest, RunsAreTakenAsBlockByBlock) {
  constexpr uint64_t kSeed = 8;
  SCOPED_TRACE(kSeed);
  Random random(kSeed);
  TinyZone other(TinyZone::Options{.span = {Pfn(0), Pfn(kPages)},
                                   .memory = {{Pfn(0), Pfn(kPages)}},
                                   .max_order = Order(6),
                                   .pageblock_order = Order(4)});
  const auto lists = [](TinyZone& tiny) {
    std::vector<std::vector<uint64_t>> all;
    for (int order = 0; order <= 6; ++order) all.push_back(tiny.List(order));
    return all;
  };
  for (int step = 0; step < 2000; ++step) {
    const int order = static_cast<int>(random.Below(3));
    const uint64_t pages = uint64_t{1} << order;
    const uint64_t pfn = random.Below(kPages / pages) * pages;
    const uint64_t most = 1 + random.Below(20);
    uint64_t taken;
    {
      LockHolder hold(zone().lock());
      taken =
          zone().TakeAt(Pfn(pfn), Order(order), MigrateType::kMovable, most);
    }
    ASSERT_LE(taken, most);
    for (uint64_t i = 0; i < taken; ++i) {
      LockHolder hold(other->lock());
      ASSERT_EQ(other->TakeAt(Pfn(pfn + i * pages), Order(order),
                              MigrateType::kMovable),
                1u);
    }
    ASSERT_EQ(lists(tiny_), lists(other)) << step;
    ASSERT_EQ(zone().free_pages(), other->free_pages());
    ASSERT_EQ(CheckInvariants(), absl::OkStatus()) << step;
    // Frees a page or a few, in both.
    for (Zone* const its : {&zone(), &*other}) {
      LockHolder hold(its->lock());
      for (uint64_t page = pfn / 8 * 8; page < pfn / 8 * 8 + 8; ++page) {
        if (!its->Reshape(Pfn(page), Order(0))) continue;
        static_cast<void>(its->Free(Pfn(page), Order(0)));
      }
    }
  }
}

// Up to the largest block that begins with it, within its pageblock.
TEST_F(ZoneFollowingTest, ARunEndsWhereItsBlocksCannotBeTakenTogether) {
  const auto take = [&](uint64_t pfn, int order) {
    LockHolder hold(zone().lock());
    return zone().TakeAt(Pfn(pfn), Order(order), MigrateType::kMovable, 100);
  };
  EXPECT_EQ(take(20, 0), 4u);
  EXPECT_EQ(take(32, 1), 8u) << "a pageblock";
  EXPECT_EQ(take(0, 5), 0u) << "16 to 19 are free, 20 is not";
}

// Takes, reshapes and frees random blocks; compares with a naive list of pages.
TEST_F(ZoneFollowingTest, AgreesWithAListOfPages) {
  constexpr uint64_t kSeed = 7;
  SCOPED_TRACE(kSeed);
  Random random(kSeed);
  std::vector<bool> taken(kPages);
  for (int step = 0; step < 5000; ++step) {
    const int order = static_cast<int>(random.Below(5));
    const uint64_t pages = uint64_t{1} << order;
    const uint64_t pfn = random.Below(kPages / pages) * pages;
    bool all = true;
    bool none = true;
    for (uint64_t i = pfn; i < pfn + pages; ++i) {
      all = all && taken[i];
      none = none && !taken[i];
    }
    if (random.Below(2) == 0) {
      ASSERT_EQ(TakeAt(pfn, order), none) << step;
      if (none)
        std::fill_n(taken.begin() + static_cast<long>(pfn), pages, true);
    } else {
      ASSERT_EQ(Reshape(pfn, order), all) << step;
      if (!all) continue;
      Free(pfn, order);
      std::fill_n(taken.begin() + static_cast<long>(pfn), pages, false);
    }
    ASSERT_EQ(CheckInvariants(), absl::OkStatus()) << step;
  }
}

}  // namespace
}  // namespace guestmm::zone_following_test
