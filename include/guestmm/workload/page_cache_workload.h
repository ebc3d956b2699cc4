#ifndef GUESTMM_WORKLOAD_PAGE_CACHE_WORKLOAD_H_
#define GUESTMM_WORKLOAD_PAGE_CACHE_WORKLOAD_H_

#include <atomic>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "guestmm/base/export.h"
#include "guestmm/base/lock.h"
#include "guestmm/base/units.h"
#include "guestmm/frame/frame_allocator.h"
#include "guestmm/frame/reclaimer.h"
#include "guestmm/machine/vcpu.h"
#include "guestmm/machine/workload.h"

namespace GUESTMM_EXPORT guestmm {

struct PageCacheOptions {
  // The size of the files, and so the maximum held: the smaller of `max_bytes`
  // and the share `max_share`, 0 to 1, of the guest's memory at construction.
  uint64_t max_bytes = ~uint64_t{0};
  double max_share = 1;
  // The rate at which files are read. At least 1.
  uint64_t read_bytes_per_second = 200 * kMiB;
  // After this time everything is dropped (drop_caches) and the workload ends.
  // Unset: it never ends.
  std::optional<Nanoseconds> drop_after = {};
};

// A page cache: fills spare memory with file pages, and frees the oldest when
// an allocation needs memory.
//
// Each step reads ahead 32 pages, unless all files are cached or memory is down
// to the low watermarks: then it checks again later. A reclaimed page is read
// again.
class PageCacheWorkload final : public Workload, private Reclaimer {
 public:
  // Registers itself as a reclaimer of the allocator until it is destroyed;
  // pages that are cached then stay allocated. `allocator` and its `vcpus`,
  // indexed by id, must outlive it.
  PageCacheWorkload(const PageCacheOptions& options, FrameAllocator& allocator,
                    std::span<const std::unique_ptr<Vcpu>> vcpus);
  ~PageCacheWorkload() override;

  std::optional<Nanoseconds> Step(Vcpu& vcpu) override;
  // The pages read so far. Thread-safe.
  uint64_t work() const override {
    return read_.load(std::memory_order_relaxed);
  }

  // The memory held now. Thread-safe.
  uint64_t cached_bytes() const;
  // The pages reclaimed so far. Thread-safe.
  PageCount reclaimed() const {
    return PageCount(reclaimed_.load(std::memory_order_relaxed));
  }

 private:
  PageCount Reclaim(int cpu, PageCount wanted) override;
  // False if no page could be allocated.
  bool ReadAhead(Vcpu& vcpu);
  std::vector<Pfn> RemoveOldest(PageCount most) ABSL_LOCKS_EXCLUDED(lock_);

  const PageCacheOptions options_;
  FrameAllocator& allocator_;
  const std::span<const std::unique_ptr<Vcpu>> vcpus_;
  const uint64_t max_bytes_;
  // The sum of its pauses: time without the duration of the steps.
  Nanoseconds now_{0};
  // Pages.
  std::atomic<uint64_t> read_{0};
  std::atomic<uint64_t> reclaimed_{0};

  // Other threads reclaim while this reads. Never held across an allocation or
  // a free.
  mutable SpinLock lock_;
  // Oldest first.
  std::deque<Pfn> cached_ ABSL_GUARDED_BY(lock_);
};

}  // namespace guestmm

#endif  // GUESTMM_WORKLOAD_PAGE_CACHE_WORKLOAD_H_
