#include "guestmm/buddy/page_allocator.h"

#include <algorithm>
#include <array>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "guestmm/base/check.h"

namespace guestmm {
namespace {

// Where ZONE_DMA32 ends on x86-64.
constexpr Pfn kDma32End = ToPfn(Gpa(4 * kGiB));

// 4 GiB in single pages: beyond any use, and what rings are made for.
constexpr uint32_t kMaxPerCpuPages = 1 << 20;

// 1 TiB: what is above would not fit the watermarks' arithmetic.
constexpr uint64_t kMaxMinFreeKbytes = uint64_t{1} << 30;

struct ZoneLayout {
  ZoneType type;
  PfnRange bounds;
};

constexpr std::array<ZoneLayout, 2> kZoneLayout = {
    {{ZoneType::kDma32, {Pfn(0), kDma32End}},
     {ZoneType::kNormal, {kDma32End, Pfn(~uint64_t{0})}}}};

PfnRange Intersect(PfnRange a, PfnRange b) {
  const Pfn start = std::max(a.start, b.start);
  return {.start = start, .end = std::max(start, std::min(a.end, b.end))};
}

absl::Status CheckOptions(const PageAllocatorOptions& options) {
  if (options.memory.empty()) {
    return absl::InvalidArgumentError("the allocator was given no memory");
  }
  Pfn free_from(0);
  for (const PfnRange& range : options.memory) {
    if (range.start < free_from || range.end <= range.start) {
      return absl::InvalidArgumentError(absl::StrFormat(
          "memory range of pages [0x%x, 0x%x): ranges must be non-empty, "
          "ascending and disjoint",
          range.start.value(), range.end.value()));
    }
    free_from = range.end;
  }
  if (options.cpus < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("cpus is ", options.cpus, "; at least 1 is needed"));
  }
  if (options.max_order > kMaxOrder) {
    return absl::InvalidArgumentError(
        absl::StrCat("max_order is ", options.max_order.value(), "; at most ",
                     kMaxOrder.value(), " is allowed"));
  }
  if (options.min_free_kbytes && *options.min_free_kbytes > kMaxMinFreeKbytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("min_free_kbytes is ", *options.min_free_kbytes,
                     "; at most ", kMaxMinFreeKbytes, " is allowed"));
  }
  if (options.per_cpu_limits && options.per_cpu_limits->batch == 0) {
    return absl::InvalidArgumentError(
        "per_cpu_limits.batch is 0; at least 1 is needed");
  }
  if (options.per_cpu_limits) {
    const uint32_t largest =
        std::max(options.per_cpu_limits->batch, options.per_cpu_limits->high);
    if (largest > kMaxPerCpuPages) {
      return absl::InvalidArgumentError(
          absl::StrCat("per_cpu_limits has a limit of ", largest,
                       " pages; at most ", kMaxPerCpuPages, " is allowed"));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<PageAllocator>> PageAllocator::Create(
    const PageAllocatorOptions& options) {
  if (absl::Status status = CheckOptions(options); !status.ok()) return status;
  absl::StatusOr<std::unique_ptr<PageMap>> pages = PageMap::Create(
      options.memory.back().end, kZoneLayout.size() * Zone::kListHeads);
  if (!pages.ok()) return pages.status();
  return std::unique_ptr<PageAllocator>(
      new PageAllocator(options, *std::move(pages)));
}

PageAllocator::PageAllocator(const PageAllocatorOptions& options,
                             std::unique_ptr<PageMap> pages)
    : cpus_(options.cpus),
      max_order_(options.max_order),
      pages_(std::move(pages)) {
  PageCount managed;
  for (const ZoneLayout& layout : kZoneLayout) {
    std::vector<PfnRange> present;
    for (const PfnRange& range : options.memory) {
      const PfnRange part = Intersect(range, layout.bounds);
      if (part.pages() > PageCount(0)) present.push_back(part);
    }
    if (present.empty()) continue;
    zones_.push_back(std::make_unique<Zone>(
        Zone::Options{.type = layout.type,
                      .index = static_cast<int>(zones_.size()),
                      .span = {present.front().start, present.back().end},
                      .max_order = max_order_},
        *pages_));
    for (const PfnRange& range : present) zones_.back()->AddMemory(range);
    managed += zones_.back()->managed_pages();
  }
  const uint64_t min_free_kbytes =
      options.min_free_kbytes.value_or(DefaultMinFreeKbytes(managed));
  for (const std::unique_ptr<Zone>& zone : zones_) {
    zone->SetWatermarks(
        ComputeWatermarks(min_free_kbytes, zone->managed_pages(), managed));
  }
  for (int cpu = 0; cpu < cpus_; ++cpu) {
    for (const std::unique_ptr<Zone>& zone : zones_) {
      per_cpu_.push_back(std::make_unique<PerCpuPages>(
          *zone, *pages_,
          options.per_cpu_limits.value_or(
              DefaultPerCpuLimits(zone->managed_pages()))));
    }
  }
}

Pfn PageAllocator::Take(int cpu, Order order, ZoneType highest) {
  GUESTMM_CHECK(0 <= cpu && cpu < cpus_) << "there is no cpu " << cpu;
  GUESTMM_CHECK(order <= max_order_) << order << " is above the largest";
  Pfn pfn = Try(Attempt::kLow, cpu, order, highest);
  if (pfn == kNoPfn) pfn = Try(Attempt::kMin, cpu, order, highest);
  if (pfn == kNoPfn) {
    // What the kernel's direct reclaim does when it found nothing else.
    DrainPerCpuPages();
    pfn = Try(Attempt::kLast, cpu, order, highest);
  }
  return pfn;
}

bool PageAllocator::MayTake(Attempt attempt, const Zone& zone, Order order) {
  const Watermarks watermarks = zone.watermarks();
  if (attempt == Attempt::kLow) return zone.WatermarkOk(order, watermarks.low);
  if (zone.WatermarkOk(order, watermarks.min)) return true;
  if (attempt == Attempt::kMin) return false;
  // A look without the lock misses blocks that are being split or merged.
  LockHolder hold(zone.lock());
  return zone.WatermarkOk(order, watermarks.min);
}

Pfn PageAllocator::Try(Attempt attempt, int cpu, Order order,
                       ZoneType highest) {
  // Highest zone first: low memory is kept for those who need it.
  for (auto it = zones_.rbegin(); it != zones_.rend(); ++it) {
    Zone& zone = **it;
    if (zone.type() > highest || !MayTake(attempt, zone, order)) continue;
    if (order == Order(0)) {
      if (const auto pfn = per_cpu(cpu, zone).Allocate()) return *pfn;
    } else {
      LockHolder hold(zone.lock());
      if (const auto pfn = zone.Allocate(order)) return *pfn;
    }
  }
  return kNoPfn;
}

void PageAllocator::Free(int cpu, Pfn pfn, Order order) {
  GUESTMM_CHECK(0 <= cpu && cpu < cpus_) << "there is no cpu " << cpu;
  Zone& zone = ZoneOf(pfn);
  FreeBlockObserver* to_wake = nullptr;
  if (order == Order(0)) {
    to_wake = per_cpu(cpu, zone).Free(pfn);
  } else {
    LockHolder hold(zone.lock());
    to_wake = zone.Free(pfn, order);
  }
  if (to_wake != nullptr) to_wake->Wake();
}

void PageAllocator::DrainPerCpuPages() {
  for (const std::unique_ptr<PerCpuPages>& per_cpu : per_cpu_) {
    if (FreeBlockObserver* observer = per_cpu->Drain()) observer->Wake();
  }
}

void PageAllocator::SetObserver(FreeBlockObserver* observer, Order min_order) {
  for (const std::unique_ptr<Zone>& zone : zones_) {
    zone->SetObserver(observer, min_order);
  }
}

Zone& PageAllocator::ZoneOf(Pfn pfn) const {
  for (const std::unique_ptr<Zone>& zone : zones_) {
    if (zone->span().Contains(pfn)) return *zone;
  }
  GUESTMM_CHECK(false) << pfn << " is in no zone";
  __builtin_unreachable();
}

PageCounts PageAllocator::Counts() const {
  PageCounts counts;
  for (const std::unique_ptr<Zone>& zone : zones_) {
    counts.managed += zone->managed_pages();
    counts.free += zone->free_pages();
    counts.isolated += zone->isolated_pages();
  }
  for (const std::unique_ptr<PerCpuPages>& per_cpu : per_cpu_) {
    counts.cached += per_cpu->cached_pages();
  }
  return counts;
}

PageCount PageAllocator::FreePagesAboveLow() const {
  PageCount pages;
  for (const std::unique_ptr<Zone>& zone : zones_) {
    const PageCount low = zone->watermarks().low;
    if (zone->free_pages() > low) pages += zone->free_pages() - low;
  }
  return pages;
}

// The analysis cannot follow locks taken in a loop; they are taken in the order
// of docs/concurrency.md and released below.
absl::Status PageAllocator::CheckInvariants() const
    ABSL_NO_THREAD_SAFETY_ANALYSIS {
  for (const auto& per_cpu : per_cpu_) per_cpu->lock().Lock();
  for (const auto& zone : zones_) zone->lock().Lock();

  absl::Status status;
  PageCount listed;
  for (const auto& zone : zones_) status.Update(zone->CheckInvariants());
  for (const auto& per_cpu : per_cpu_) listed += per_cpu->CheckedCount(status);
  PageCount cached;
  for (const auto& zone : zones_) {
    for (Pfn pfn = zone->span().start; pfn < zone->span().end;
         pfn += PageCount(1)) {
      if (pages_->Is(pfn, PageState::kCached, Order(0))) cached += PageCount(1);
    }
  }
  if (cached != listed) {
    status.Update(absl::InternalError(
        absl::StrFormat("P3: %d pages cached by their states, %d on per-CPU "
                        "lists",
                        cached.value(), listed.value())));
  }

  for (const auto& zone : zones_) zone->lock().Unlock();
  for (const auto& per_cpu : per_cpu_) per_cpu->lock().Unlock();
  return status;
}

}  // namespace guestmm
