// Blocks that were never used since their memory came have no links and no
// state of their own. A zone with such blocks must do what a zone without them
// does.

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include "guestmm/base/random.h"
#include "tests/testing/tiny_zone.h"

namespace guestmm::zone_untouched_test {
namespace {

constexpr uint64_t kBlock = kMaxOrder.pages().value();
constexpr uint64_t kBlocks = 16;
constexpr int kLargest = kMaxOrder.value();

// Pages that begin and end inside of a block, with a hole of two blocks.
std::vector<PfnRange> Memory() {
  return {{Pfn(kBlock / 2 + 3), Pfn(6 * kBlock)},
          {Pfn(8 * kBlock), Pfn(kBlocks * kBlock - 5)}};
}

TinyZone::Options World(KernelVersion rules) {
  return {.span = {Pfn(0), Pfn(kBlocks * kBlock)},
          .memory = Memory(),
          .placement = {.rules = rules}};
}

// Walks the whole list, which then has all blocks' links.
void TouchAll(TinyZone& zone) {
  LockHolder hold(zone->lock());
  for (auto at = zone->FirstFreeBlock(kMaxOrder, MigrateType::kMovable); at;
       at = zone->NextFreeBlock(*at, kMaxOrder, MigrateType::kMovable)) {
  }
}

int CountUntouched(TinyZone& zone) {
  int count = 0;
  for (uint64_t block = 0; block < kBlocks; ++block) {
    count += static_cast<int>(zone.pages().IsUntouched(Pfn(block * kBlock)));
  }
  return count;
}

class ZoneUntouchedTest : public ::testing::TestWithParam<KernelVersion> {
 protected:
  bool ascends() const { return GetParam() != KernelVersion::kV5_3; }

  TinyZone zone_{World(GetParam())};
};

INSTANTIATE_TEST_SUITE_P(Rules, ZoneUntouchedTest,
                         ::testing::Values(KernelVersion::kV5_3,
                                           KernelVersion::kV6_1));

TEST_P(ZoneUntouchedTest, OneBlockOfEachRangeIsListed) {
  // 5 and 7 whole blocks.
  EXPECT_EQ(CountUntouched(zone_), 12 - 2);
  EXPECT_EQ(zone_->free_blocks(kMaxOrder), 12);
  EXPECT_EQ(zone_.List(kLargest).size(), 12);
  for (const uint64_t block : {1, 5, 8, 14}) {
    EXPECT_EQ(zone_.FreeBlockAt(block * kBlock), kMaxOrder) << block;
    EXPECT_EQ(zone_.FreeBlockAt(block * kBlock + 1), std::nullopt) << block;
  }
  EXPECT_EQ(zone_.CheckInvariants(), absl::OkStatus());
}

TEST_P(ZoneUntouchedTest, AnAllocationListsTheNextBlockOnly) {
  const std::vector<uint64_t> list = zone_.List(kLargest);
  EXPECT_EQ(zone_.Allocate(kLargest), Pfn(list[0]));
  EXPECT_EQ(CountUntouched(zone_), 12 - 3);
  EXPECT_EQ(zone_.Allocate(kLargest), Pfn(list[1]));
  EXPECT_EQ(CountUntouched(zone_), 12 - 4);
  EXPECT_EQ(zone_.List(kLargest),
            std::vector<uint64_t>(list.begin() + 2, list.end()));
}

TEST_P(ZoneUntouchedTest, ABlockThatACallerNamesIsListedWithItsRun) {
  const std::vector<uint64_t> list = zone_.List(kLargest);
  std::optional<IsolatedBlock> block = zone_.Isolate(list[3]);
  ASSERT_TRUE(block.has_value());
  // 1, 2, and the one that follows; of either range the first is listed.
  EXPECT_EQ(CountUntouched(zone_), 12 - 2 - 4);
  EXPECT_EQ(zone_.CheckInvariants(), absl::OkStatus());
  EXPECT_EQ(zone_.Return(*std::move(block)), kMaxOrder);
}

TEST_P(ZoneUntouchedTest, AMarkIsOfAListedBlock) {
  const std::vector<uint64_t> list = zone_.List(kLargest);
  LockHolder hold(zone_->lock());
  zone_->MarkReported(Pfn(list[2]));
  EXPECT_TRUE(zone_->IsReported(Pfn(list[2])));
  EXPECT_FALSE(zone_->IsReported(Pfn(list[3])));
  EXPECT_EQ(zone_->CheckInvariants(), absl::OkStatus());
}

TEST_P(ZoneUntouchedTest, AListIsRotatedToABlockInARun) {
  std::vector<uint64_t> list = zone_.List(kLargest);
  {
    LockHolder hold(zone_->lock());
    zone_->RotateFreeList(kMaxOrder, MigrateType::kMovable, Pfn(list[4]));
  }
  std::rotate(list.begin(), list.begin() + 4, list.end());
  EXPECT_EQ(zone_.List(kLargest), list);
}

TEST_P(ZoneUntouchedTest, TheHoleIsOffline) {
  for (const uint64_t pfn : {0UL, kBlock / 2, kBlock / 2 + 2, 6 * kBlock,
                             8 * kBlock - 1, kBlocks * kBlock - 5}) {
    EXPECT_TRUE(zone_.pages().IsOffline(Pfn(pfn))) << pfn;
    EXPECT_EQ(zone_.pages().HeadOf(Pfn(pfn)), Pfn(pfn));
  }
  EXPECT_EQ(zone_.pages().HeadOf(Pfn(2 * kBlock - 1)), Pfn(kBlock));
}

// Both rest untouched, and one is taken out of their middle and put back.
TEST_P(ZoneUntouchedTest, MemoryThatComesBackIsUntouchedAgain) {
  const PfnRange range = {Pfn(3 * kBlock), Pfn(5 * kBlock)};
  {
    LockHolder hold(zone_->lock());
    zone_->IsolatePageblocks(range);
    zone_->RemoveMemory(range);
    EXPECT_EQ(zone_->CheckInvariants(), absl::OkStatus());
  }
  EXPECT_TRUE(zone_.pages().IsOffline(range.start));
  EXPECT_EQ(zone_->free_blocks(kMaxOrder), 10);
  const int before = CountUntouched(zone_);
  zone_->AddMemory(range);
  EXPECT_EQ(CountUntouched(zone_), before + 1);
  EXPECT_EQ(zone_->free_blocks(kMaxOrder), 12);
  EXPECT_EQ(zone_.CheckInvariants(), absl::OkStatus());
  const uint64_t first = zone_.List(kLargest)[ascends() ? 10 : 0];
  EXPECT_EQ(first, (ascends() ? 3 : 4) * kBlock);
}

struct Live {
  Pfn pfn;
  Order order;
};

// A step of a random program, the same for the same draws in an equal zone.
// Returns what it was given.
class Program {
 public:
  Program(TinyZone& zone, uint64_t seed) : zone_(zone), random_(seed) {}

  uint64_t Step() {
    const uint64_t block = random_.Below(kBlocks) * kBlock;
    const int order = kLargest - static_cast<int>(random_.Below(4));
    const auto type = static_cast<MigrateType>(random_.Below(kRequestTypes));
    LockHolder hold(zone_->lock());
    switch (random_.Below(9)) {
      case 0:
      case 1:
        if (const auto pfn = zone_->Allocate(Order(order), type)) {
          live_.push_back({*pfn, Order(order)});
          return pfn->value();
        }
        return 0;
      case 2:
      case 3:
        if (live_.empty()) return 0;
        std::swap(live_[random_.Below(live_.size())], live_.back());
        EXPECT_EQ(zone_->Free(live_.back().pfn, live_.back().order), nullptr);
        live_.pop_back();
        return 0;
      case 4:
        if (zone_->FreeBlockAt(Pfn(block)) == kMaxOrder) {
          zone_->MarkReported(Pfn(block));
        }
        return 0;
      case 5: {
        if (zone_->FreeBlockAt(Pfn(block)) != kMaxOrder) return 0;
        if (auto isolated = zone_->Isolate(Pfn(block))) {
          zone_->Return(*std::move(isolated), static_cast<ReturnTo>(order % 2));
        }
        return block;
      }
      case 6: {
        if (!zone_->TakeAt(Pfn(block), Order(order), type)) return 0;
        live_.push_back({Pfn(block), Order(order)});
        return block;
      }
      case 7: {
        const auto first = zone_->FirstFreeBlock(kMaxOrder, type);
        if (!first) return 0;
        const auto next = zone_->NextFreeBlock(*first, kMaxOrder, type);
        if (next) zone_->RotateFreeList(kMaxOrder, type, *next);
        return next.value_or(kNoPfn).value();
      }
      default:
        return MoveBlock(Pfn(block)) ? block : 0;
    }
  }

 private:
  // Takes a block out of the zone, or only tries to, or puts it back.
  bool MoveBlock(Pfn pfn) ABSL_EXCLUSIVE_LOCKS_REQUIRED(zone_->lock()) {
    const PfnRange range = PagesOf(pfn, kMaxOrder);
    if (std::erase(away_, pfn) > 0) {
      zone_->lock().Unlock();
      zone_->AddMemory(range);
      zone_->lock().Lock();
      return true;
    }
    for (const PfnRange& memory : Memory()) {
      if (range.start < memory.start || range.end > memory.end) continue;
      if (std::ranges::find(away_, pfn) != away_.end()) return false;
      const auto types = zone_->IsolatePageblocks(range);
      const Zone::Busy busy = zone_->FindBusy(range);
      if (busy.in_use) {
        zone_->RestorePageblocks(range, types);
        return false;
      }
      zone_->RemoveMemory(range);
      away_.push_back(pfn);
      return true;
    }
    return false;
  }

  TinyZone& zone_;
  Random random_;
  std::vector<Live> live_;
  std::vector<Pfn> away_;
};

TEST_P(ZoneUntouchedTest, AZoneWithoutLinksDoesWhatOneWithLinksDoes) {
  for (uint64_t seed = 1; seed <= 40; ++seed) {
    SCOPED_TRACE(seed);
    TinyZone touched(World(GetParam()));
    TouchAll(touched);
    ASSERT_EQ(CountUntouched(touched), 0);
    TinyZone untouched(World(GetParam()));
    Program one(touched, seed);
    Program other(untouched, seed);
    for (int step = 0; step < 200; ++step) {
      ASSERT_EQ(one.Step(), other.Step()) << step;
      for (int order = kLargest - 3; order <= kLargest; ++order) {
        for (int type = 0; type < kMigrateTypes; ++type) {
          ASSERT_EQ(touched.List(order, static_cast<MigrateType>(type)),
                    untouched.List(order, static_cast<MigrateType>(type)))
              << step << ": " << order << ", " << type;
        }
      }
      if (step % 20 == 0) {
        ASSERT_EQ(untouched.CheckInvariants(), absl::OkStatus()) << step;
      }
    }
  }
}

}  // namespace
}  // namespace guestmm::zone_untouched_test
