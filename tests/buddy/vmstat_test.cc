#include "guestmm/frame/vmstat.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "guestmm/base/random.h"
#include "tests/testing/tiny_allocator.h"

namespace guestmm::vmstat_test {
namespace {

// Numbers every counter, from `first` on.
VmStat Numbered(uint64_t first) {
  VmStat stat;
  for (uint64_t& count : stat.pgalloc) count = first++;
  for (uint64_t& count : stat.allocstall) count = first++;
  for (uint64_t* count :
       {&stat.pgfree, &stat.pgsteal_direct, &stat.numa_hit, &stat.numa_miss,
        &stat.numa_foreign, &stat.numa_local, &stat.numa_other,
        &stat.alloc_failed, &stat.alloc_failed_isolated,
        &stat.alloc_failed_isolated_pages, &stat.alloc_waited_isolated}) {
    *count = first++;
  }
  // Checks that no counter is missing above.
  static_assert(sizeof(VmStat) == (2 * kZoneTypes + 11) * sizeof(uint64_t));
  return stat;
}

TEST(VmStatTest, SumsAddEveryCounter) {
  VmStat sum = Numbered(1);
  sum += Numbered(1001);
  // (i + 1) + (i + 1001) for each counter.
  VmStat expected = Numbered(0);
  for (uint64_t& count : expected.pgalloc) count = 2 * count + 1002;
  for (uint64_t& count : expected.allocstall) count = 2 * count + 1002;
  for (uint64_t* count :
       {&expected.pgfree, &expected.pgsteal_direct, &expected.numa_hit,
        &expected.numa_miss, &expected.numa_foreign, &expected.numa_local,
        &expected.numa_other, &expected.alloc_failed,
        &expected.alloc_failed_isolated, &expected.alloc_failed_isolated_pages,
        &expected.alloc_waited_isolated}) {
    *count = 2 * *count + 1002;
  }
  EXPECT_EQ(sum, expected);
}

TEST(VmStatTest, PagesAreCountedNotBlocksAndByTheZoneTheyCameFrom) {
  const auto allocator = MakeAllocator(
      {.memory = {PagesFrom(Pfn(4096 - 64), 128), PagesFrom(kNormalStart, 64)},
       .movable = PageCount(16),
       .max_order = Order(4),
       .section_order = Order(4),
       .min_free_kbytes = 0,
       .per_cpu_limits = kNoCache});
  const auto user = allocator->Allocate(0, Order(2), kGfpUser);
  const auto kernel = allocator->Allocate(0, Order(3), kGfpKernel);
  const auto dma32 = allocator->Allocate(0, Order(0), kGfpDma32);
  const auto dma = allocator->Allocate(0, Order(1), kGfpDma);
  ASSERT_TRUE(user && kernel && dma32 && dma);
  VmStat stat = allocator->vmstat();
  EXPECT_EQ(stat.pgalloc, (std::array<uint64_t, kZoneTypes>{2, 1, 8, 4}));
  EXPECT_EQ(stat.pgfree, 0);
  allocator->Free(0, *kernel, Order(3));
  allocator->Free(0, *dma32, Order(0));
  stat = allocator->vmstat();
  EXPECT_EQ(stat.pgfree, 9);
  EXPECT_EQ(allocator->vmstat(allocator->zone(0, ZoneType::kNormal)).pgfree, 8);
  EXPECT_EQ(allocator->vmstat(allocator->zone(0, ZoneType::kDma32)).pgfree, 1);
}

// Pages moved between zones and per-CPU lists, or isolated and returned, are
// neither allocated nor freed.
TEST(VmStatTest, RefillsDrainsAndIsolationDoNotCount) {
  const auto allocator =
      MakeAllocator({.memory = {PagesFrom(Pfn(0), 64)},
                     .max_order = Order(4),
                     .section_order = Order(4),
                     .min_free_kbytes = 0,
                     .per_cpu_limits = PerCpuLimits{.batch = 8, .high = 16}});
  const auto page = allocator->Allocate(0, Order(0));
  ASSERT_TRUE(page.has_value());
  allocator->DrainPerCpuPages();
  Return(Isolate(*allocator, Pfn(16)));
  EXPECT_EQ(allocator->vmstat().pgalloc[0], 1);
  EXPECT_EQ(allocator->vmstat().pgfree, 0);
}

// Against a naive count

// Two nodes, all zones on the first, and 3 vCPUs.
PageAllocatorOptions TwoNodes(KernelVersion lists) {
  return {.memory = {PagesFrom(Pfn(4096 - 32), 64, 0),
                     PagesFrom(kNormalStart, 64, 0),
                     PagesFrom(kNormalStart + PageCount(64), 64, 1)},
          .movable = PageCount(32),
          .cpus = 3,
          .cpu_nodes = {0, 1, 1},
          .max_order = Order(4),
          .pageblock_order = Order(4),
          .section_order = Order(4),
          .min_free_kbytes = 0,
          .per_cpu_lists = lists,
          .per_cpu_limits = PerCpuLimits{.batch = 3, .high = 6}};
}

class NaiveCount {
 public:
  explicit NaiveCount(const PageAllocator& allocator)
      : allocator_(allocator), zones_(allocator.zones().size()) {}

  void Allocated(int cpu, Order order, const Gfp& gfp, Pfn pfn) {
    const Zone& zone = allocator_.ZoneOf(pfn);
    VmStat& stat = of(zone);
    stat.pgalloc[static_cast<size_t>(zone.type())] += order.pages().value();
    const Zone& preferred = First(cpu, gfp);
    if (zone.node() == preferred.node()) {
      ++stat.numa_hit;
    } else {
      ++stat.numa_miss;
      ++of(preferred).numa_foreign;
    }
    ++(zone.node() == allocator_.NodeOf(cpu) ? stat.numa_local
                                             : stat.numa_other);
  }
  void Failed(int cpu, const Gfp& gfp) { ++of(First(cpu, gfp)).alloc_failed; }
  void Freed(Pfn pfn, Order order) {
    of(allocator_.ZoneOf(pfn)).pgfree += order.pages().value();
  }

  const VmStat& of(const Zone& zone) const {
    return zones_[static_cast<size_t>(zone.index())];
  }

 private:
  VmStat& of(const Zone& zone) {
    return zones_[static_cast<size_t>(zone.index())];
  }
  // The first zone of a request's zonelist that has memory.
  const Zone& First(int cpu, const Gfp& gfp) const {
    const int node = gfp.node < 0 ? allocator_.NodeOf(cpu) : gfp.node;
    for (const int at : {node, 1 - node}) {
      for (int type = static_cast<int>(gfp.highest); type >= 0; --type) {
        const Zone& zone = allocator_.zone(at, static_cast<ZoneType>(type));
        if (zone.managed_pages() > PageCount(0)) return zone;
      }
      if (gfp.this_node_only) break;
    }
    return allocator_.zone(node, gfp.highest);
  }

  const PageAllocator& allocator_;
  std::vector<VmStat> zones_;
};

Gfp RandomGfp(Random& random) {
  constexpr Gfp kKinds[] = {kGfpKernel, kGfpUser,  kGfpReclaimable,
                            kGfpAtomic, kGfpDma32, kGfpDma};
  Gfp gfp = kKinds[random.Below(std::size(kKinds))];
  if (random.OneIn(4))
    gfp = gfp.PreferablyFrom(static_cast<int>(random.Below(2)));
  if (random.OneIn(8)) gfp = gfp.OnlyFrom(static_cast<int>(random.Below(2)));
  return gfp;
}

void RunRandomProgram(KernelVersion lists, uint64_t seed) {
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  Random random(seed);
  const auto allocator = MakeAllocator(TwoNodes(lists));
  NaiveCount naive(*allocator);
  struct Block {
    Pfn pfn;
    Order order;
  };
  std::vector<Block> live;
  for (int step = 0; step < 600; ++step) {
    const int cpu = static_cast<int>(random.Below(3));
    const VmStat before = allocator->vmstat();
    if (random.Below(10) < 6) {
      const Order order(random.OneIn(2) ? 0
                                        : static_cast<int>(random.Below(5)));
      const Gfp gfp = RandomGfp(random);
      const std::optional<Pfn> pfn = allocator->Allocate(cpu, order, gfp);
      if (pfn) {
        naive.Allocated(cpu, order, gfp, *pfn);
        live.push_back({*pfn, order});
      } else {
        naive.Failed(cpu, gfp);
      }
      // At most once per request, and before every failure that may reclaim.
      uint64_t stalls = 0;
      for (size_t type = 0; type < kZoneTypes; ++type) {
        stalls +=
            allocator->vmstat().allocstall[type] - before.allocstall[type];
      }
      EXPECT_LE(stalls, gfp.may_reclaim ? 1 : 0);
    } else if (!live.empty()) {
      std::swap(live[random.Below(live.size())], live.back());
      allocator->Free(cpu, live.back().pfn, live.back().order);
      naive.Freed(live.back().pfn, live.back().order);
      live.pop_back();
    }
    if (random.OneIn(50)) allocator->DrainPerCpuPages();

    VmStat sum;
    for (const std::unique_ptr<Zone>& zone : allocator->zones()) {
      VmStat stat = allocator->vmstat(*zone);
      sum += stat;
      // The naive count leaves these out.
      stat.allocstall = {};
      ASSERT_EQ(stat, std::as_const(naive).of(*zone))
          << "step " << step << ", zone " << Name(zone->type()) << " of node "
          << zone->node();
    }
    ASSERT_EQ(allocator->vmstat(), sum);
  }
  ExpectInvariants(*allocator);
}

TEST(VmStatTest, IsANaiveCountOfAnyProgram) {
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    RunRandomProgram(KernelVersion::kV5_3, seed);
  }
}

TEST(VmStatTest, IsANaiveCountWithTheListsOf6_1) {
  for (uint64_t seed = 101; seed <= 120; ++seed) {
    RunRandomProgram(KernelVersion::kV6_1, seed);
  }
}

TEST(VmStatTest, IsANaiveCountWithTheListsOf6_12) {
  for (uint64_t seed = 201; seed <= 220; ++seed) {
    RunRandomProgram(KernelVersion::kV6_12, seed);
  }
}

}  // namespace
}  // namespace guestmm::vmstat_test
