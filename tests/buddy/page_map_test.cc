#include "guestmm/buddy/page_map.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <barrier>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <memory>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

namespace guestmm::page_map_test {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

std::unique_ptr<PageMap> MakeMap(uint64_t pages, size_t list_heads = 2) {
  return PageMap::Create({.end = Pfn(pages), .list_heads = list_heads}).value();
}

std::vector<uint64_t> Elements(const PageMap& map, PageMap::Index list) {
  std::vector<uint64_t> elements;
  for (auto at = map.lists().First(list); at != list;
       at = map.lists().Next(at)) {
    elements.push_back(at);
  }
  return elements;
}

template <typename T>
std::string Streamed(const T& value) {
  std::ostringstream text;
  text << value;
  return text.str();
}

TEST(PageMapTest, CreateRefusesNoPages) {
  const auto map = PageMap::Create({.end = Pfn(0), .list_heads = 2});
  EXPECT_EQ(map.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(
      map.status().ToString(),
      HasSubstr("the end of memory or hotplug_end, pfn 0x0, must be 0x1 to "
                "0x3ffffc00, for 30-bit page links"));
}

TEST(PageMapTest, CreateRefusesAnEndBeyondTheLinks) {
  const auto map = PageMap::Create({.end = Pfn(1073740801), .list_heads = 2});
  EXPECT_EQ(map.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(map.status().ToString(),
              HasSubstr("the end of memory or hotplug_end, pfn 0x3ffffc01"));
}

TEST(PageMapTest, ATebibyteCostsOnlyWhatIsTouched) {
  const std::unique_ptr<PageMap> map = MakeMap(kTiB / kPageSize, 1);
  const Pfn last = map->end() - PageCount(1);
  const PageMap::Index list = map->MakeLists(1);
  map->lists().Push(list, last, Order(0), ListEnd::kHead);
  EXPECT_THAT(Elements(*map, list), ElementsAre(last.value()));
}

// In a child process, since the limit cannot be raised again. It includes a
// sanitizer's own mappings, which are small compared to the metadata of 2 TiB.
TEST(PageMapDeathTest, CreateSaysWhenThereIsNoAddressSpace) {
  const auto create_in_a_small_space = [] {
    uint64_t pages_now = 0;
    std::ifstream("/proc/self/statm") >> pages_now;
    const uint64_t bytes =
        pages_now * static_cast<uint64_t>(sysconf(_SC_PAGESIZE)) + 2 * kGiB;
    const rlimit limit = {.rlim_cur = bytes, .rlim_max = bytes};
    if (setrlimit(RLIMIT_AS, &limit) != 0) std::exit(1);
    const auto map =
        PageMap::Create({.end = Pfn(500'000'000), .list_heads = 2});
    std::fprintf(stderr, "%s\n", map.status().ToString().c_str());
    std::_Exit(map.ok() ? 1 : 0);
  };
  EXPECT_EXIT(create_in_a_small_space(), ::testing::ExitedWithCode(0),
              "RESOURCE_EXHAUSTED: no address space for the metadata of "
              "500000000 pages: ");
}

TEST(PageMapTest, PagesBeginOffline) {
  const std::unique_ptr<PageMap> map = MakeMap(4);
  for (uint64_t pfn = 0; pfn < 4; ++pfn) {
    EXPECT_EQ(map->Get(Pfn(pfn)), (PageInfo{PageState::kOffline, Order(0)}));
  }
}

TEST(PageMapTest, EveryStateAndOrderComesBackAsSet) {
  const std::unique_ptr<PageMap> map = MakeMap(3);
  map->SetPageblock(Pfn(0), {.zone = 0});
  const PageMap::Index list = map->MakeLists(1);
  const Pfn page(1);
  // Only the predicate for `state` and `order` is true.
  const auto expect_only = [&](PageState state, Order order) {
    EXPECT_EQ(map->Get(page), (PageInfo{state, order}));
    for (int other = 0; other <= kMaxOrder.value(); ++other) {
      const bool same = Order(other) == order;
      EXPECT_EQ(map->IsFree(page, Order(other)),
                same && state == PageState::kFree);
      EXPECT_EQ(map->IsAllocated(page, Order(other)),
                same && state == PageState::kAllocated);
    }
    EXPECT_EQ(map->IsTail(page), state == PageState::kTail);
    EXPECT_EQ(map->IsOffline(page), state == PageState::kOffline);
  };
  expect_only(PageState::kTail, Order(0));
  for (int i = 0; i <= kMaxOrder.value(); ++i) {
    const Order order(i);
    map->lists().Push(list, page, order, ListEnd::kHead);
    expect_only(PageState::kFree, order);
    EXPECT_EQ(map->lists().Remove(page), list);
    for (int type = 0; type < kRequestTypes; ++type) {
      map->SetAllocated(page, order, static_cast<MigrateType>(type));
      expect_only(PageState::kAllocated, order);
      EXPECT_EQ(map->AllocatedAs(page), static_cast<MigrateType>(type));
    }
    map->SetCached(page, order);
    expect_only(PageState::kCached, order);
    map->SetIsolated(page, order);
    expect_only(PageState::kIsolated, order);
  }
  map->SetTail(page);
  expect_only(PageState::kTail, Order(0));
  map->SetOffline(page);
  expect_only(PageState::kOffline, Order(0));
  EXPECT_TRUE(map->IsUntouched(Pfn(0)));
  EXPECT_TRUE(map->IsTail(Pfn(2)));
}

TEST(PageMapTest, StatesNeverWrittenAreThoseOfUntouchedBlocksInAZone) {
  const uint64_t block = kMaxOrder.pages().value();
  const std::unique_ptr<PageMap> map = MakeMap(2 * block);
  map->SetPageblock(Pfn(block), {.zone = 0});
  map->SetPageblock(Pfn(block + block / 2), {.zone = 0});
  for (uint64_t pfn = 0; pfn < 2 * block; ++pfn) {
    const Pfn page(pfn);
    const bool online = pfn >= block;
    ASSERT_EQ(map->IsOffline(page), !online) << pfn;
    ASSERT_EQ(map->IsUntouched(page), pfn == block) << pfn;
    ASSERT_EQ(map->IsTail(page), pfn > block) << pfn;
    ASSERT_EQ(map->HeadOf(page), online ? Pfn(block) : page) << pfn;
    ASSERT_FALSE(map->IsFree(page, kMaxOrder)) << pfn;
  }
  EXPECT_EQ(map->Get(Pfn(block)), (PageInfo{PageState::kFree, kMaxOrder}));
  EXPECT_EQ(map->Get(Pfn(block + 1)), (PageInfo{PageState::kTail, Order(0)}));
}

TEST(PageMapTest, EveryPageOfABlockHasItsHead) {
  const std::unique_ptr<PageMap> map = MakeMap(2 * kMaxOrder.pages().value());
  for (int i = 0; i <= kMaxOrder.value(); ++i) {
    const PfnRange block = PagesOf(Pfn(kMaxOrder.pages().value()), Order(i));
    for (const Pfn half :
         {block.start, block.start + kPageblockOrder.pages()}) {
      map->SetPageblock(half, {.zone = 0});
    }
    map->SetCached(block.start, Order(i));
    for (Pfn page = block.start; page < block.end; page += PageCount(1)) {
      ASSERT_EQ(map->HeadOf(page), block.start) << page;
    }
  }
  // An offline page is its own head.
  EXPECT_EQ(map->HeadOf(Pfn(1)), Pfn(1));
}

TEST(PageMapTest, AListBeginsEmpty) {
  const std::unique_ptr<PageMap> map = MakeMap(4);
  const PageMap::Index list = map->MakeLists(1);
  EXPECT_TRUE(map->lists().Empty(list));
  EXPECT_THAT(Elements(*map, list), IsEmpty());
}

TEST(PageMapTest, PushAtEitherEnd) {
  const std::unique_ptr<PageMap> map = MakeMap(8);
  const PageMap::Index list = map->MakeLists(1);
  map->lists().Push(list, Pfn(0), Order(0), ListEnd::kHead);
  map->lists().Push(list, Pfn(5), Order(0), ListEnd::kHead);
  map->lists().Push(list, Pfn(7), Order(0), ListEnd::kTail);
  map->lists().Push(list, Pfn(2), Order(0), ListEnd::kHead);
  EXPECT_FALSE(map->lists().Empty(list));
  EXPECT_THAT(Elements(*map, list), ElementsAre(2, 5, 0, 7));
}

TEST(PageMapTest, RemoveFromFrontMiddleAndBack) {
  const std::unique_ptr<PageMap> map = MakeMap(8);
  const PageMap::Index list = map->MakeLists(1);
  for (uint64_t pfn = 0; pfn < 5; ++pfn)
    map->lists().Push(list, Pfn(pfn), Order(0), ListEnd::kTail);
  map->lists().Remove(Pfn(2));
  EXPECT_THAT(Elements(*map, list), ElementsAre(0, 1, 3, 4));
  map->lists().Remove(Pfn(0));
  EXPECT_THAT(Elements(*map, list), ElementsAre(1, 3, 4));
  map->lists().Remove(Pfn(4));
  EXPECT_THAT(Elements(*map, list), ElementsAre(1, 3));
  map->lists().Push(list, Pfn(4), Order(0), ListEnd::kTail);
  EXPECT_THAT(Elements(*map, list), ElementsAre(1, 3, 4));
}

TEST(PageMapTest, ListsAreApart) {
  const std::unique_ptr<PageMap> map = MakeMap(8);
  const PageMap::Index a = map->MakeLists(1);
  const PageMap::Index b = map->MakeLists(1);
  map->lists().Push(a, Pfn(1), Order(0), ListEnd::kHead);
  map->lists().Push(b, Pfn(2), Order(0), ListEnd::kHead);
  map->lists().Remove(Pfn(1));
  map->lists().Push(b, Pfn(1), Order(0), ListEnd::kTail);
  EXPECT_TRUE(map->lists().Empty(a));
  EXPECT_THAT(Elements(*map, b), ElementsAre(2, 1));
}

TEST(PageMapTest, RemoveTellsOfAListThatIsNowEmpty) {
  const std::unique_ptr<PageMap> map = MakeMap(8);
  const PageMap::Index list = map->MakeLists(1);
  map->lists().Push(list, Pfn(3), Order(0), ListEnd::kTail);
  map->lists().Push(list, Pfn(5), Order(0), ListEnd::kTail);
  EXPECT_EQ(map->lists().Remove(Pfn(3)), 0);
  EXPECT_EQ(map->lists().Remove(Pfn(5)), list);
  EXPECT_TRUE(map->lists().Empty(list));
}

TEST(PageMapTest, AFreeBlocksOrderAndItsLinksAreApart) {
  const std::unique_ptr<PageMap> map = MakeMap(2048);
  const PageMap::Index list = map->MakeLists(1);
  for (int order = 0; order <= kMaxOrder.value(); ++order) {
    map->lists().Push(list, Pfn(uint64_t{1} << order), Order(order),
                      ListEnd::kTail);
  }
  for (int order = 0; order <= kMaxOrder.value(); ++order) {
    EXPECT_TRUE(map->IsFree(Pfn(uint64_t{1} << order), Order(order)));
  }
  EXPECT_THAT(Elements(*map, list),
              ElementsAre(1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024));
}

// Uses all 30 bits of a link.
TEST(PageMapTest, TheHighestPagesLinkToEachOther) {
  const std::unique_ptr<PageMap> map = MakeMap(1073740800);
  const PageMap::Index list = map->MakeLists(1);
  const Pfn last = map->end() - PageCount(1);
  EXPECT_EQ(last, Pfn(1073740799));
  map->lists().Push(list, last, kMaxOrder, ListEnd::kHead);
  map->lists().Push(list, last - PageCount(1), Order(0), ListEnd::kHead);
  EXPECT_THAT(Elements(*map, list), ElementsAre(1073740798, 1073740799));
  EXPECT_TRUE(map->IsFree(last, kMaxOrder));
}

TEST(PageMapTest, RotateToFrontPutsWhatWasBeforeBehindTheRest) {
  const std::unique_ptr<PageMap> map = MakeMap(8);
  const PageMap::Index list = map->MakeLists(1);
  for (uint64_t pfn = 1; pfn <= 5; ++pfn) {
    map->lists().Push(list, Pfn(pfn), Order(0), ListEnd::kTail);
  }
  map->lists().RotateToFront(list, Pfn(3));
  EXPECT_THAT(Elements(*map, list), ElementsAre(3, 4, 5, 1, 2));
  map->lists().RotateToFront(list, Pfn(2));
  EXPECT_THAT(Elements(*map, list), ElementsAre(2, 3, 4, 5, 1));
  map->lists().RotateToFront(list, Pfn(2));
  EXPECT_THAT(Elements(*map, list), ElementsAre(2, 3, 4, 5, 1));
  // The backward links agree.
  for (const uint64_t pfn : {1, 5, 4, 3, 2}) map->lists().Remove(Pfn(pfn));
  EXPECT_TRUE(map->lists().Empty(list));
}

TEST(PageMapTest, RotateToFrontOfAListOfOneChangesNothing) {
  const std::unique_ptr<PageMap> map = MakeMap(8);
  const PageMap::Index list = map->MakeLists(1);
  map->lists().Push(list, Pfn(3), Order(0), ListEnd::kTail);
  map->lists().RotateToFront(list, Pfn(3));
  EXPECT_THAT(Elements(*map, list), ElementsAre(3));
}

// Pageblocks

TEST(PageMapTest, PageblocksBeginWithoutAZone) {
  const std::unique_ptr<PageMap> map = MakeMap(1024);
  EXPECT_EQ(map->pageblock(Pfn(0)).zone, PageMap::Pageblock::kNoZone);
  EXPECT_EQ(map->pageblock(Pfn(1023)).zone, PageMap::Pageblock::kNoZone);
}

TEST(PageMapTest, EveryZoneAndTypeOfAPageblockComesBackAsSet) {
  const auto map =
      PageMap::Create({.end = Pfn(32), .pageblock_order = Order(3)}).value();
  for (int zone = 0; zone < PageMap::Pageblock::kNoZone; ++zone) {
    for (int type = 0; type < kMigrateTypes; ++type) {
      map->SetPageblock(Pfn(13), {.zone = static_cast<uint8_t>(zone),
                                  .type = static_cast<MigrateType>(type)});
      for (uint64_t pfn = 8; pfn < 16; ++pfn) {
        EXPECT_EQ(map->pageblock(Pfn(pfn)).zone, zone);
        EXPECT_EQ(map->pageblock(Pfn(pfn)).type,
                  static_cast<MigrateType>(type));
      }
    }
  }
  EXPECT_EQ(map->pageblock(Pfn(7)).zone, PageMap::Pageblock::kNoZone);
  EXPECT_EQ(map->pageblock(Pfn(16)).zone, PageMap::Pageblock::kNoZone);
  map->SetPageblock(Pfn(8), {});
  EXPECT_EQ(map->pageblock(Pfn(8)).zone, PageMap::Pageblock::kNoZone);
}

// Pins

using Unpinned = PageMap::Unpinned;
constexpr MigrateType kReclaimable = MigrateType::kReclaimable;

void SetAllocated(PageMap& map, Pfn pfn, Order order) {
  map.SetAllocated(pfn, order, kReclaimable);
}

TEST(PageMapPinTest, APinnedBlockIsAllocatedButNotFreelySo) {
  const std::unique_ptr<PageMap> map = MakeMap(8);
  SetAllocated(*map, Pfn(4), Order(2));
  EXPECT_TRUE(map->Pin(Pfn(4)));
  EXPECT_TRUE(map->Pin(Pfn(4)));
  EXPECT_EQ(map->pins(Pfn(4)), 2);
  EXPECT_EQ(map->Get(Pfn(4)), (PageInfo{PageState::kAllocated, Order(2)}));
  EXPECT_EQ(map->AllocatedAs(Pfn(4)), kReclaimable);
  EXPECT_FALSE(map->IsAllocated(Pfn(4), Order(2)));
  EXPECT_EQ(map->Unpin(Pfn(4)), Unpinned::kStillInUse);
  EXPECT_EQ(map->Unpin(Pfn(4)), Unpinned::kStillInUse);
  EXPECT_TRUE(map->IsAllocated(Pfn(4), Order(2)));
  EXPECT_EQ(map->Unpin(Pfn(4)), Unpinned::kNotPinned);
}

TEST(PageMapPinTest, TheLastPinOfAFreedBlockFreesIt) {
  const std::unique_ptr<PageMap> map = MakeMap(8);
  SetAllocated(*map, Pfn(4), Order(2));
  map->Pin(Pfn(4));
  map->Pin(Pfn(4));
  EXPECT_TRUE(map->FreePinned(Pfn(4), Order(2)));
  EXPECT_FALSE(map->IsAllocated(Pfn(4), Order(2)));
  EXPECT_EQ(map->Unpin(Pfn(4)), Unpinned::kStillInUse);
  EXPECT_FALSE(map->IsAllocated(Pfn(4), Order(2)));
  EXPECT_EQ(map->Unpin(Pfn(4)), Unpinned::kLastPinOfFreedBlock);
  // The caller may now free it like any other block.
  EXPECT_TRUE(map->IsAllocated(Pfn(4), Order(2)));
  EXPECT_EQ(map->pins(Pfn(4)), 0);
}

TEST(PageMapPinTest, OnlyAllocatedBlocksThatAreNotFreedCanBePinned) {
  const std::unique_ptr<PageMap> map = MakeMap(8);
  const PageMap::Index list = map->MakeLists(1);
  EXPECT_FALSE(map->Pin(Pfn(4)));
  map->SetTail(Pfn(4));
  EXPECT_FALSE(map->Pin(Pfn(4)));
  map->SetCached(Pfn(4), Order(0));
  EXPECT_FALSE(map->Pin(Pfn(4)));
  map->SetIsolated(Pfn(4), Order(0));
  EXPECT_FALSE(map->Pin(Pfn(4)));
  map->lists().Push(list, Pfn(4), Order(0), ListEnd::kHead);
  EXPECT_FALSE(map->Pin(Pfn(4)));
  EXPECT_EQ(map->pins(Pfn(4)), 0);
  SetAllocated(*map, Pfn(4), Order(0));
  map->Pin(Pfn(4));
  map->FreePinned(Pfn(4), Order(0));
  EXPECT_FALSE(map->Pin(Pfn(4)));
  EXPECT_EQ(map->pins(Pfn(4)), 1);
}

TEST(PageMapPinTest, APinnedBlockIsFreedOnceAndAtItsOrder) {
  const std::unique_ptr<PageMap> map = MakeMap(8);
  SetAllocated(*map, Pfn(4), Order(1));
  EXPECT_FALSE(map->FreePinned(Pfn(4), Order(1)));  // not pinned
  map->Pin(Pfn(4));
  EXPECT_FALSE(map->FreePinned(Pfn(4), Order(0)));
  EXPECT_TRUE(map->FreePinned(Pfn(4), Order(1)));
  EXPECT_FALSE(map->FreePinned(Pfn(4), Order(1)));
}

// An owner frees a block while a device unpins it: exactly one of the two must
// free the block.
TEST(PageMapPinTest, OwnerAndDeviceAgreeWhoFrees) {
  // Many pages a round: on a busy machine each time that one thread waits for
  // the other may take a time slice.
  constexpr int kRounds = 50;
  constexpr size_t kPages = 512;
  const std::unique_ptr<PageMap> map = MakeMap(kPages);
  std::barrier<> both(2);
  std::vector<char> owner_frees(kPages);
  std::vector<char> device_frees(kPages);
  std::thread device([&] {
    for (int round = 0; round < kRounds; ++round) {
      both.arrive_and_wait();
      for (size_t page = 0; page < kPages; ++page) {
        device_frees[page] =
            map->Unpin(Pfn(page)) == Unpinned::kLastPinOfFreedBlock;
      }
      both.arrive_and_wait();
    }
  });
  for (int round = 0; round < kRounds; ++round) {
    for (size_t page = 0; page < kPages; ++page) {
      SetAllocated(*map, Pfn(page), Order(0));
      map->Pin(Pfn(page));
    }
    both.arrive_and_wait();
    for (size_t page = 0; page < kPages; ++page) {
      owner_frees[page] = !map->FreePinned(Pfn(page), Order(0));
    }
    both.arrive_and_wait();
    for (size_t page = 0; page < kPages; ++page) {
      EXPECT_NE(owner_frees[page], device_frees[page]) << page;
      EXPECT_TRUE(map->IsAllocated(Pfn(page), Order(0))) << page;
    }
  }
  device.join();
}

TEST(PageMapPinTest, PinsOfManyThreadsAreAllCounted) {
  constexpr int kPins = 20'000;
  const std::unique_ptr<PageMap> map = MakeMap(8);
  SetAllocated(*map, Pfn(4), Order(0));
  std::vector<std::thread> threads;
  for (int i = 0; i < 2; ++i) {
    threads.emplace_back([&] {
      for (int pin = 0; pin < kPins; ++pin) {
        map->Pin(Pfn(4));
        map->Pin(Pfn(4));
        map->Unpin(Pfn(4));
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(map->pins(Pfn(4)), 2 * kPins);
}

// Memory

// Releases half of 4 MiB of metadata; the rest stays.
TEST(PageMapTest, ReleasedMetadataGoesBackToTheHost) {
  constexpr uint64_t kPages = 4 * kMiB / PageMap::kBytesPerPage;
  const std::unique_ptr<PageMap> map = MakeMap(kPages);
  const PageMap::Index list = map->MakeLists(1);
  const uint64_t before = map->ResidentBytes().value();
  for (uint64_t pfn = 0; pfn < kPages; ++pfn) {
    map->lists().Push(list, Pfn(pfn), Order(0), ListEnd::kTail);
  }
  const uint64_t full = map->ResidentBytes().value();
  EXPECT_GE(full - before, 4 * kMiB - 64 * kKiB);
  // Starts and ends within a host page.
  const PfnRange range = {Pfn(kPages / 4 + 1), Pfn(kPages / 4 * 3 - 1)};
  for (Pfn pfn = range.start; pfn < range.end; pfn += PageCount(1)) {
    map->SetOffline(pfn);
  }
  map->Release(range);
  const uint64_t released = full - map->ResidentBytes().value();
  EXPECT_LE(released, 2 * kMiB);
  EXPECT_GE(released, 2 * kMiB - 128 * kKiB);
  for (uint64_t pfn = 0; pfn < kPages; ++pfn) {
    ASSERT_EQ(map->IsOffline(Pfn(pfn)), range.Contains(Pfn(pfn))) << pfn;
  }
}

TEST(PageMapPinTest, MorePinsThanCanBeCounted) {
  constexpr uint64_t kMostPins = (1 << 22) - 1;
  const std::unique_ptr<PageMap> map = MakeMap(8);
  SetAllocated(*map, Pfn(4), Order(0));
  for (uint64_t pin = 0; pin < kMostPins; ++pin) map->Pin(Pfn(4));
  EXPECT_EQ(map->pins(Pfn(4)), kMostPins);
  EXPECT_DEATH(map->Pin(Pfn(4)), "has 4194303 pins already");
}

TEST(PageMapTest, LessThanAHostPageIsNotReleased) {
  const std::unique_ptr<PageMap> map = MakeMap(1024);
  for (uint64_t pfn = 0; pfn < 1024; ++pfn)
    SetAllocated(*map, Pfn(pfn), Order(0));
  map->Release({Pfn(1), Pfn(9)});
  for (uint64_t pfn = 0; pfn < 1024; ++pfn) {
    ASSERT_TRUE(map->IsAllocated(Pfn(pfn), Order(0))) << pfn;
  }
}

TEST(PageMapDeathTest, MoreListsThanPlanned) {
  const std::unique_ptr<PageMap> map = MakeMap(4, 1);
  map->MakeLists(1);
  EXPECT_DEATH(map->MakeLists(1), "more lists than planned");
}

TEST(PageMapTest, StatesHaveNames) {
  EXPECT_EQ(Name(PageState::kOffline), "offline");
  EXPECT_EQ(Name(PageState::kTail), "tail");
  EXPECT_EQ(Name(PageState::kFree), "free");
  EXPECT_EQ(Name(PageState::kAllocated), "allocated");
  EXPECT_EQ(Name(PageState::kCached), "cached");
  EXPECT_EQ(Name(PageState::kIsolated), "isolated");
  EXPECT_EQ(Name(static_cast<PageState>(15)), "unknown");
  EXPECT_EQ(Streamed(PageState::kFree), "free");
  EXPECT_EQ(Streamed(PageInfo{PageState::kFree, Order(9)}), "free, order 9");
}

}  // namespace
}  // namespace guestmm::page_map_test
