#include "src/experiment/replay/native_placement.h"

#include <algorithm>
#include <cstddef>
#include <numeric>
#include <optional>

#include "guestmm/base/check.h"

namespace guestmm {

NativePlacement::NativePlacement(const Recording& recording,
                                 PageAllocator& allocator, ReplayHost& host,
                                 ReplayCounters& counters)
    : TracePlacement(recording, allocator, host, counters),
      ours_(allocator.pages().end().value()) {
  std::iota(ours_.begin(), ours_.end(), 0);
  for (const auto& zone : allocator.zones()) {
    LockHolder hold(zone->lock());
    for (int order = 0; order <= allocator.max_order().value(); ++order) {
      for (int type = 0; type < kMigrateTypes; ++type) {
        zone->ForEachFreeBlock(
            Order(order), static_cast<MigrateType>(type), [&](Pfn pfn) {
              std::fill_n(ours_.begin() + static_cast<ptrdiff_t>(pfn.value()),
                          Order(order).pages().value(), kNone);
            });
      }
    }
  }
}

void NativePlacement::RefreshPerCpuLists() {
  for (int cpu = 0; cpu < allocator_.cpus(); ++cpu) {
    allocator_.RefreshPerCpuPages(cpu);
  }
}

void NativePlacement::Allocate(const TraceEvent& event) {
  const PfnRange theirs = PagesOf(event.pfn, event.order);
  const int cpu = CpuOf(event);
  bool is_forced = false;
  for (Pfn page = theirs.start; page < theirs.end; page += PageCount(1)) {
    if (ours_[page.value()] == kNone) continue;
    is_forced = true;
    FreePages(cpu, page, Order(0));
  }
  if (is_forced) ++counters_.forced_placements;
  const MigrateType type = TypeOf(event);
  Gfp gfp = type == MigrateType::kMovable ? kGfpUser : kGfpKernel;
  gfp.type = type;
  gfp.may_reclaim = false;
  const std::optional<Pfn> pfn = allocator_.Allocate(cpu, event.order, gfp);
  if (!pfn) {
    ++counters_.failed_allocations;
    return;
  }
  host_.OnAllocated(*pfn, event.order, event.gfp);
  for (uint64_t i = 0; i < event.order.pages().value(); ++i) {
    ours_[event.pfn.value() + i] = static_cast<uint32_t>(pfn->value() + i);
  }
}

void NativePlacement::Free(const TraceEvent& event) {
  const PfnRange theirs = PagesOf(event.pfn, event.order);
  for (Pfn page = theirs.start; page < theirs.end; page += PageCount(1)) {
    if (ours_[page.value()] == kNone) {
      ++counters_.unmatched_frees;
      return;
    }
  }
  if (!FreePages(CpuOf(event), event.pfn, event.order)) {
    ++counters_.split_frees;
  }
}

void NativePlacement::OnAdded(PfnRange range) {
  std::fill_n(ours_.begin() + static_cast<ptrdiff_t>(range.start.value()),
              range.pages().value(), kNone);
}

void NativePlacement::Evict(PfnRange pages) {
  // No event frees these any more: the guest has moved what was there.
  for (Pfn theirs = pages.start; theirs < pages.end; theirs += PageCount(1)) {
    if (ours_[theirs.value()] != kNone) FreePages(/*cpu=*/0, theirs, Order(0));
  }
  // Others' pages are here only because the model chose them.
  Zone& zone = allocator_.ZoneOf(pages.start);
  std::vector<MigrateType> types;
  {
    LockHolder hold(zone.lock());
    types = zone.IsolatePageblocks(pages);
  }
  // So that no request gets a page of these from a list.
  allocator_.DrainPerCpuPages();
  for (uint64_t theirs = 0; theirs < ours_.size(); ++theirs) {
    const Pfn ours(ours_[theirs]);
    if (!pages.Contains(ours)) continue;
    Gfp gfp = kGfpUser;
    gfp.may_reclaim = false;
    const std::optional<Pfn> moved =
        allocator_.Allocate(/*cpu=*/0, Order(0), gfp);
    if (moved) host_.OnMoved(ours, *moved);
    if (!moved) ++counters_.failed_allocations;
    FreePages(/*cpu=*/0, Pfn(theirs), Order(0));
    if (moved) ours_[theirs] = static_cast<uint32_t>(moved->value());
  }
  LockHolder hold(zone.lock());
  zone.RestorePageblocks(pages, types);
}

bool NativePlacement::FreePages(int cpu, Pfn theirs, Order order) {
  const Pfn ours(ours_[theirs.value()]);
  bool is_one = ours.IsAligned(order);
  for (uint64_t i = 0; i < order.pages().value(); ++i) {
    is_one = is_one && ours_[theirs.value() + i] == ours.value() + i;
  }
  if (!is_one) {
    const PfnRange block = PagesOf(theirs, order);
    for (Pfn page = block.start; page < block.end; page += PageCount(1)) {
      FreePages(cpu, page, Order(0));
    }
    return false;
  }
  Zone& zone = allocator_.ZoneOf(ours);
  bool is_whole;
  {
    LockHolder hold(zone.lock());
    is_whole = allocator_.pages().IsAllocated(ours, order);
    if (!is_whole) {
      const bool reshaped = zone.Reshape(ours, order);
      GUESTMM_CHECK(reshaped) << ours << " is in use";
    }
  }
  host_.OnFreed(ours, order);
  allocator_.Free(cpu, ours, order);
  std::fill_n(ours_.begin() + static_cast<ptrdiff_t>(theirs.value()),
              order.pages().value(), kNone);
  return is_whole;
}

}  // namespace guestmm
