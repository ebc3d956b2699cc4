#include "guestmm/workload/page_cache_workload.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <optional>
#include <vector>

#include "tests/testing/counting_backing.h"

namespace guestmm::page_cache_workload_test {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

// Steps it until `duration` has passed. Returns the time that passed.
Nanoseconds RunFor(PageCacheWorkload& cache, Vcpu& vcpu, Nanoseconds duration) {
  Nanoseconds passed{0};
  while (passed < duration) {
    const std::optional<Nanoseconds> quiet = cache.Step(vcpu);
    if (!quiet) break;
    passed += *quiet;
  }
  return passed;
}

TEST(PageCacheWorkloadTest, ReadsAtItsRateUpToTheSizeOfItsFiles) {
  CountingGuest guest(64 * kMiB);
  PageCacheWorkload cache(
      {.max_bytes = 16 * kMiB, .read_bytes_per_second = 8 * kMiB},
      guest.guest->allocator(), guest.guest->all_vcpus());
  RunFor(cache, guest.vcpu(), seconds(1));
  EXPECT_EQ(cache.cached_bytes(), 8 * kMiB);
  RunFor(cache, guest.vcpu(), seconds(9));
  EXPECT_EQ(cache.cached_bytes(), 16 * kMiB);
  EXPECT_EQ(guest.backing->held().bytes(), 16 * kMiB);
  EXPECT_EQ(cache.work(), PageCount(4096).value());
  EXPECT_TRUE(guest.backing->freed().empty());
}

TEST(PageCacheWorkloadTest, TakesItsShareOfMemoryAtMost) {
  CountingGuest guest(64 * kMiB);
  PageCacheWorkload cache({.max_share = 0.25}, guest.guest->allocator(),
                          guest.guest->all_vcpus());
  RunFor(cache, guest.vcpu(), seconds(10));
  EXPECT_EQ(cache.cached_bytes(), 16 * kMiB);
}

TEST(PageCacheWorkloadTest, ItsShareIsOfAllMemoryAndNotOfFreeMemory) {
  CountingGuest guest(64 * kMiB);
  for (int block = 0; block < 16; ++block) {
    ASSERT_TRUE(guest.vcpu().Allocate(kPageblockOrder).has_value());
  }
  PageCacheWorkload cache({.max_share = 0.25}, guest.guest->allocator(),
                          guest.guest->all_vcpus());
  RunFor(cache, guest.vcpu(), seconds(10));
  EXPECT_EQ(cache.cached_bytes(), 16 * kMiB);
}

TEST(PageCacheWorkloadTest, FillsMemoryDownToTheLowWatermarks) {
  CountingGuest guest(64 * kMiB);
  PageCacheWorkload cache({}, guest.guest->allocator(),
                          guest.guest->all_vcpus());
  RunFor(cache, guest.vcpu(), seconds(10));
  EXPECT_GT(cache.cached_bytes(), 60 * kMiB);
  EXPECT_EQ(guest.backing->failed(), 0u);
  // Memory between low and min is for the requests of others.
  EXPECT_TRUE(guest.vcpu().Allocate(Order(5)).has_value());
  EXPECT_EQ(cache.reclaimed(), PageCount(0));
}

TEST(PageCacheWorkloadTest, GivesBackTheOldestUnderPressureAndReadsAgain) {
  CountingGuest guest(64 * kMiB);
  PageCacheWorkload cache({}, guest.guest->allocator(),
                          guest.guest->all_vcpus());
  RunFor(cache, guest.vcpu(), seconds(10));
  const uint64_t cached = cache.cached_bytes();
  const CountingBacking::Sequence read = guest.backing->allocated();

  std::vector<Pfn> taken;
  for (int i = 0; i < 8192; ++i) {
    const std::optional<Pfn> pfn = guest.vcpu().Allocate(Order(0));
    ASSERT_TRUE(pfn.has_value()) << i;
    taken.push_back(*pfn);
  }
  EXPECT_GT(cache.reclaimed(), PageCount(8192 - 1024));
  EXPECT_EQ(cache.reclaimed().bytes(), cached - cache.cached_bytes());
  // The vCPU frees each page, oldest first.
  const CountingBacking::Sequence& freed = guest.backing->freed();
  ASSERT_EQ(freed.size(), cache.reclaimed().value());
  EXPECT_TRUE(std::equal(freed.begin(), freed.end(), read.begin()));

  for (const Pfn pfn : taken) guest.vcpu().Free(pfn, Order(0));
  RunFor(cache, guest.vcpu(), seconds(10));
  EXPECT_GT(cache.cached_bytes(), 60 * kMiB);
}

TEST(PageCacheWorkloadTest, GivesBackNoMoreThanItHas) {
  CountingGuest guest(64 * kMiB);
  PageCacheWorkload cache({.max_bytes = 32 * kPageSize},
                          guest.guest->allocator(), guest.guest->all_vcpus());
  cache.Step(guest.vcpu());
  while (guest.vcpu().Allocate(Order(0))) {
  }
  EXPECT_EQ(cache.reclaimed(), PageCount(32));
  EXPECT_EQ(cache.cached_bytes(), 0u);
}

TEST(PageCacheWorkloadTest, IsDroppedAsAWholeAtItsTime) {
  CountingGuest guest(64 * kMiB);
  PageCacheWorkload cache(
      {.max_bytes = 16 * kMiB, .drop_after = milliseconds(2503)},
      guest.guest->allocator(), guest.guest->all_vcpus());
  RunFor(cache, guest.vcpu(), seconds(2));
  EXPECT_EQ(cache.cached_bytes(), 16 * kMiB);
  EXPECT_EQ(RunFor(cache, guest.vcpu(), seconds(2)) + seconds(2),
            milliseconds(2503));
  EXPECT_EQ(cache.cached_bytes(), 0u);
  EXPECT_EQ(guest.backing->held(), PageCount(0));
  EXPECT_EQ(cache.reclaimed(), PageCount(0));
  EXPECT_EQ(cache.Step(guest.vcpu()), std::nullopt);
}

TEST(PageCacheWorkloadTest, IsNoReclaimerOnceItIsDestroyed) {
  CountingGuest guest(64 * kMiB);
  {
    PageCacheWorkload cache({}, guest.guest->allocator(),
                            guest.guest->all_vcpus());
    RunFor(cache, guest.vcpu(), seconds(10));
  }
  while (guest.vcpu().Allocate(Order(0))) {
  }
  EXPECT_TRUE(guest.backing->freed().empty());
}

}  // namespace
}  // namespace guestmm::page_cache_workload_test
