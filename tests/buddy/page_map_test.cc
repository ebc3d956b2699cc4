#include "guestmm/buddy/page_map.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

namespace guestmm {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

std::unique_ptr<PageMap> MakeMap(uint64_t pages, size_t list_heads = 2) {
  return PageMap::Create({.end = Pfn(pages), .list_heads = list_heads}).value();
}

std::vector<uint64_t> Elements(const PageMap& map, PageMap::Index list) {
  std::vector<uint64_t> elements;
  for (auto at = map.lists().First(list); at != list; at = map.lists().Next(at)) {
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
  EXPECT_THAT(map.status().ToString(),
              HasSubstr("memory ends at pfn 0; 29-bit page links allow 1 to "
                        "536869888"));
}

TEST(PageMapTest, CreateRefusesWhatLinksCannotHold) {
  const auto map = PageMap::Create({.end = Pfn(536869889), .list_heads = 2});
  EXPECT_EQ(map.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(map.status().ToString(),
              HasSubstr("memory ends at pfn 536869889"));
}

TEST(PageMapTest, ATebibyteCostsOnlyWhatIsTouched) {
  const std::unique_ptr<PageMap> map = MakeMap(kTiB / kPageSize, 1);
  const Pfn last = map->end() - PageCount(1);
  const PageMap::Index list = map->MakeLists(1);
  map->lists().PushFront(list, last, Order(0));
  EXPECT_THAT(Elements(*map, list), ElementsAre(last.value()));
}

// In a child process, since the limit is for good. A sanitizer's own mappings
// are under the limit too, but small beside the metadata of 2 TiB.
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
  const PageMap::Index list = map->MakeLists(1);
  const Pfn page(1);
  // Of all that IsFree, IsCached, ... ask, `state` and `order` alone are so.
  const auto expect_only = [&](PageState state, Order order) {
    EXPECT_EQ(map->Get(page), (PageInfo{state, order}));
    for (int other = 0; other <= kMaxOrder.value(); ++other) {
      const bool same = Order(other) == order;
      EXPECT_EQ(map->IsFree(page, Order(other)),
                same && state == PageState::kFree);
      EXPECT_EQ(map->IsAllocated(page, Order(other)),
                same && state == PageState::kAllocated);
      EXPECT_EQ(map->IsCached(page, Order(other)),
                same && state == PageState::kCached);
      EXPECT_EQ(map->IsIsolated(page, Order(other)),
                same && state == PageState::kIsolated);
    }
    EXPECT_EQ(map->IsTail(page), state == PageState::kTail);
    EXPECT_EQ(map->IsOffline(page), state == PageState::kOffline);
  };
  expect_only(PageState::kOffline, Order(0));
  map->SetTail(page);
  expect_only(PageState::kTail, Order(0));
  for (int i = 0; i <= kMaxOrder.value(); ++i) {
    const Order order(i);
    map->lists().PushFront(list, page, order);
    expect_only(PageState::kFree, order);
    EXPECT_EQ(map->lists().Remove(page), list);
    for (int type = 0; type < kMigrateTypes; ++type) {
      map->SetAllocated(page, order, static_cast<MigrateType>(type));
      expect_only(PageState::kAllocated, order);
      EXPECT_EQ(map->AllocatedAs(page), static_cast<MigrateType>(type));
    }
    map->SetCached(page, order);
    expect_only(PageState::kCached, order);
    map->SetIsolated(page, order);
    expect_only(PageState::kIsolated, order);
  }
  map->SetOffline(page);
  expect_only(PageState::kOffline, Order(0));
  EXPECT_EQ(map->Get(Pfn(0)), PageInfo());
  EXPECT_EQ(map->Get(Pfn(2)), PageInfo());
}

TEST(PageMapTest, AListBeginsEmpty) {
  const std::unique_ptr<PageMap> map = MakeMap(4);
  const PageMap::Index list = map->MakeLists(1);
  EXPECT_TRUE(map->lists().Empty(list));
  EXPECT_THAT(Elements(*map, list), IsEmpty());
}

TEST(PageMapTest, PushFrontAndPushBack) {
  const std::unique_ptr<PageMap> map = MakeMap(8);
  const PageMap::Index list = map->MakeLists(1);
  map->lists().PushFront(list, Pfn(0), Order(0));
  map->lists().PushFront(list, Pfn(5), Order(0));
  map->lists().PushBack(list, Pfn(7), Order(0));
  map->lists().PushFront(list, Pfn(2), Order(0));
  EXPECT_FALSE(map->lists().Empty(list));
  EXPECT_THAT(Elements(*map, list), ElementsAre(2, 5, 0, 7));
}

TEST(PageMapTest, RemoveFromFrontMiddleAndBack) {
  const std::unique_ptr<PageMap> map = MakeMap(8);
  const PageMap::Index list = map->MakeLists(1);
  for (uint64_t pfn = 0; pfn < 5; ++pfn)
    map->lists().PushBack(list, Pfn(pfn), Order(0));
  map->lists().Remove(Pfn(2));
  EXPECT_THAT(Elements(*map, list), ElementsAre(0, 1, 3, 4));
  map->lists().Remove(Pfn(0));
  EXPECT_THAT(Elements(*map, list), ElementsAre(1, 3, 4));
  map->lists().Remove(Pfn(4));
  EXPECT_THAT(Elements(*map, list), ElementsAre(1, 3));
  map->lists().PushBack(list, Pfn(4), Order(0));
  EXPECT_THAT(Elements(*map, list), ElementsAre(1, 3, 4));
}

TEST(PageMapTest, ListsAreApart) {
  const std::unique_ptr<PageMap> map = MakeMap(8);
  const PageMap::Index a = map->MakeLists(1);
  const PageMap::Index b = map->MakeLists(1);
  map->lists().PushFront(a, Pfn(1), Order(0));
  map->lists().PushFront(b, Pfn(2), Order(0));
  map->lists().Remove(Pfn(1));
  map->lists().PushBack(b, Pfn(1), Order(0));
  EXPECT_TRUE(map->lists().Empty(a));
  EXPECT_THAT(Elements(*map, b), ElementsAre(2, 1));
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
}  // namespace guestmm
