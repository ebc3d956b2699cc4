#ifndef GUESTMM_TESTS_TESTING_TINY_ALLOCATOR_H_
#define GUESTMM_TESTS_TESTING_TINY_ALLOCATOR_H_

// Helpers for tests of PageAllocator.

#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "guestmm/base/lock.h"
#include "guestmm/base/units.h"
#include "guestmm/buddy/isolated_block.h"
#include "guestmm/buddy/page_allocator.h"
#include "guestmm/buddy/per_cpu_pages.h"
#include "guestmm/frame/gfp.h"

namespace guestmm {

// The starts of ZONE_DMA32 and ZONE_NORMAL: 16 MiB and 4 GiB.
inline constexpr Pfn kDma32Start{4096};
inline constexpr Pfn kNormalStart{1048576};

// Per-CPU lists that cache nothing, so that counts are exact.
inline constexpr PerCpuLimits kNoCache = {.batch = 1, .high = 0};

inline std::unique_ptr<PageAllocator> MakeAllocator(
    const PageAllocatorOptions& options) {
  auto allocator = PageAllocator::Create(options);
  GUESTMM_CHECK(allocator.ok()) << allocator.status();
  return *std::move(allocator);
}

inline MemoryRange PagesFrom(Pfn start, uint64_t pages, int node = 0) {
  return {.start = start, .end = start + PageCount(pages), .node = node};
}

inline void ExpectInvariants(const PageAllocator& allocator) {
  EXPECT_EQ(allocator.CheckInvariants(), absl::OkStatus());
}

// Allocates blocks of `order` until there is none.
inline std::vector<Pfn> TakeAll(PageAllocator& allocator, int cpu, Order order,
                                Gfp gfp = kGfpUser) {
  std::vector<Pfn> blocks;
  while (const std::optional<Pfn> pfn = allocator.Allocate(cpu, order, gfp)) {
    blocks.push_back(*pfn);
  }
  return blocks;
}

inline void FreeAll(PageAllocator& allocator, int cpu,
                    const std::vector<Pfn>& blocks, Order order) {
  for (const Pfn pfn : blocks) allocator.Free(cpu, pfn, order);
}

// Isolates the free block at `pfn`. REQUIRES: Zone::Isolate succeeds (CHECKed).
inline IsolatedBlock Isolate(PageAllocator& allocator, Pfn pfn) {
  Zone& zone = allocator.ZoneOf(pfn);
  LockHolder hold(zone.lock());
  std::optional<IsolatedBlock> block = zone.Isolate(pfn);
  GUESTMM_CHECK(block.has_value()) << pfn;
  return *std::move(block);
}

inline void Return(IsolatedBlock block) {
  Zone& zone = block.zone();
  LockHolder hold(zone.lock());
  zone.Return(std::move(block));
}

}  // namespace guestmm

#endif  // GUESTMM_TESTS_TESTING_TINY_ALLOCATOR_H_
