#include "guestmm/workload/page_cache_workload.h"

#include <algorithm>
#include <chrono>
#include <memory>
#include <ratio>
#include <utility>

#include "src/workload/draws.h"

namespace guestmm {
namespace {

// VM_READAHEAD_PAGES.
constexpr PageCount kReadAhead(32);
constexpr PageCount kDropAtATime(512);
constexpr std::chrono::milliseconds kNothingToDo(10);

// Readahead fails immediately (readahead_gfp_mask: __GFP_NORETRY).
constexpr Gfp kGfpReadAhead = [] {
  Gfp gfp = kGfpUser;
  gfp.may_reclaim = false;
  return gfp;
}();

}  // namespace

PageCacheWorkload::PageCacheWorkload(
    const PageCacheOptions& options, FrameAllocator& allocator,
    std::span<const std::unique_ptr<Vcpu>> vcpus)
    : options_(options),
      allocator_(allocator),
      vcpus_(vcpus),
      max_bytes_(std::min(
          options.max_bytes,
          ShareOf(allocator.Counts().managed.bytes(), options.max_share))) {
  allocator_.AddReclaimer(*this);
}

PageCacheWorkload::~PageCacheWorkload() { allocator_.RemoveReclaimer(*this); }

std::optional<Nanoseconds> PageCacheWorkload::Step(Vcpu& vcpu) {
  if (options_.drop_after && now_ >= *options_.drop_after) {
    for (const Pfn pfn : RemoveOldest(kDropAtATime)) vcpu.Free(pfn, Order(0));
    if (cached_bytes() == 0) return std::nullopt;
    return Nanoseconds(0);
  }
  Nanoseconds pause = kNothingToDo;
  if (cached_bytes() + kReadAhead.bytes() <= max_bytes_ &&
      allocator_.HasFreeAboveLow(kReadAhead, kGfpReadAhead.highest) &&
      ReadAhead(vcpu)) {
    pause = Nanoseconds(kReadAhead.bytes() * std::nano::den /
                        options_.read_bytes_per_second);
  }
  if (options_.drop_after) {
    pause = std::min(pause, *options_.drop_after - now_);
  }
  now_ += pause;
  return pause;
}

bool PageCacheWorkload::ReadAhead(Vcpu& vcpu) {
  std::vector<Pfn> pages;
  pages.reserve(kReadAhead.value());
  while (pages.size() < kReadAhead.value()) {
    const std::optional<Pfn> pfn = vcpu.Allocate(Order(0), kGfpReadAhead);
    if (!pfn) break;
    vcpu.Touch(*pfn, Order(0), /*stamp=*/0);
    pages.push_back(*pfn);
  }
  read_.fetch_add(pages.size(), std::memory_order_relaxed);
  // Reclaimable from now on: the pages are written.
  LockHolder hold(lock_);
  cached_.insert(cached_.end(), pages.begin(), pages.end());
  return !pages.empty();
}

PageCount PageCacheWorkload::Reclaim(int cpu, PageCount wanted) {
  const std::vector<Pfn> pages = RemoveOldest(wanted);
  for (const Pfn pfn : pages)
    vcpus_[static_cast<size_t>(cpu)]->Free(pfn, Order(0));
  reclaimed_.fetch_add(pages.size(), std::memory_order_relaxed);
  return PageCount(pages.size());
}

std::vector<Pfn> PageCacheWorkload::RemoveOldest(PageCount most) {
  LockHolder hold(lock_);
  const auto end =
      cached_.begin() + static_cast<std::ptrdiff_t>(
                            std::min<uint64_t>(most.value(), cached_.size()));
  std::vector<Pfn> pages(cached_.begin(), end);
  cached_.erase(cached_.begin(), end);
  return pages;
}

uint64_t PageCacheWorkload::cached_bytes() const {
  LockHolder hold(lock_);
  return PageCount(cached_.size()).bytes();
}

}  // namespace guestmm
