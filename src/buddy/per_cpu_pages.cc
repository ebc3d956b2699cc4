#include "guestmm/buddy/per_cpu_pages.h"

#include <algorithm>
#include <bit>
#include <sstream>

#include "absl/strings/str_cat.h"
#include "guestmm/base/check.h"

namespace guestmm {

PerCpuLimits DefaultPerCpuLimits(PageCount managed) {
  constexpr uint64_t kMaxBatch = kMiB / kPageSize;
  const uint64_t quarter =
      std::max<uint64_t>(std::min(managed.value() / 1024, kMaxBatch) / 4, 1);
  const uint64_t batch = std::bit_floor(quarter + quarter / 2) - 1;
  return {.batch = static_cast<uint32_t>(std::max<uint64_t>(batch, 1)),
          .high = static_cast<uint32_t>(6 * batch)};
}

PerCpuPages::PerCpuPages(Zone& zone, PageMap& pages, PerCpuLimits limits)
    : zone_(zone),
      pages_(pages),
      limits_(limits),
      ring_(std::bit_ceil(std::max(limits.high, limits.batch) + 1)),
      batch_(limits.batch) {
  GUESTMM_CHECK(limits.batch > 0);
}

Pfn PerCpuPages::Take() {
  LockHolder hold(lock_);
  if (count_ == 0 && !Refill()) return kNoPfn;
  const Pfn pfn(At(0));
  ++first_;
  --count_;
  pages_.Set(pfn, PageState::kAllocated, Order(0));
  return pfn;
}

bool PerCpuPages::Refill() {
  size_t taken = 0;
  {
    LockHolder hold_zone(zone_.lock());
    taken = zone_.AllocateBulk(batch_);
  }
  for (; count_ < taken; ++count_) {
    At(count_) = static_cast<uint32_t>(batch_[count_].value());
  }
  return taken > 0;
}

FreeBlockObserver* PerCpuPages::Free(Pfn pfn) {
  LockHolder hold(lock_);
  GUESTMM_CHECK(zone_.span().Contains(pfn))
      << "free of " << pfn << ", which is not in zone " << Name(zone_.type());
  GUESTMM_CHECK(pages_.Is(pfn, PageState::kAllocated, Order(0)))
      << "free of " << pfn << ", order 0, which is " << pages_.Get(pfn);
  pages_.Set(pfn, PageState::kCached, Order(0));
  --first_;
  At(0) = static_cast<uint32_t>(pfn.value());
  ++count_;
  if (count_ < limits_.high) return nullptr;
  return GiveOldest(std::min(limits_.batch, count_));
}

FreeBlockObserver* PerCpuPages::Drain() {
  LockHolder hold(lock_);
  FreeBlockObserver* to_wake = nullptr;
  while (count_ > 0) {
    if (FreeBlockObserver* observer =
            GiveOldest(std::min(limits_.batch, count_))) {
      to_wake = observer;
    }
  }
  return to_wake;
}

FreeBlockObserver* PerCpuPages::GiveOldest(uint32_t count) {
  for (uint32_t i = 0; i < count; ++i) {
    batch_[i] = Pfn(At(--count_));
    // A page's links share a cache line with those of its first three buddies.
    pages_.Prefetch(batch_[i]);
  }
  LockHolder hold_zone(zone_.lock());
  return zone_.FreeBulk(std::span(batch_).first(count));
}

PageCount PerCpuPages::cached_pages() const {
  LockHolder hold(lock_);
  return PageCount(count_);
}

PageCount PerCpuPages::CheckedCount(absl::Status& status) const {
  for (uint32_t i = 0; i < count_; ++i) {
    const Pfn pfn(ring_[(first_ + i) & (ring_.size() - 1)]);
    if (!zone_.span().Contains(pfn) ||
        !pages_.Is(pfn, PageState::kCached, Order(0))) {
      std::ostringstream text;
      text << "P3: " << pfn << " is on a per-CPU list but is "
           << pages_.Get(pfn);
      status.Update(absl::InternalError(text.str()));
    }
  }
  return PageCount(count_);
}

}  // namespace guestmm
