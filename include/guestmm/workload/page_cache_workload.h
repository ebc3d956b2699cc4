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
#include "guestmm/base/lock.h"
#include "guestmm/base/units.h"
#include "guestmm/frame/frame_allocator.h"
#include "guestmm/frame/reclaimer.h"
#include "guestmm/machine/vcpu.h"
#include "guestmm/machine/workload.h"

namespace guestmm {

struct PageCacheOptions {
  // The most that it holds: the size of the files. Whichever is less, bytes or
  // the share, 0 to 1, of the memory that the guest has at the beginning.
  uint64_t max_bytes = ~uint64_t{0};
  double max_share = 1;
  // How fast files are read. At least 1.
  uint64_t read_bytes_per_second = 200 * kMiB;
  // Given: after as long all of it is dropped (drop_caches) and no more is
  // read: the workload ends.
  std::optional<Nanoseconds> drop_after = {};
};

// A page cache: fills with the pages of files what memory is left over, and
// gives back the oldest when an allocation finds none.
//
// Each step reads ahead 32 pages, unless it holds all its files, or memory is
// down to the low watermarks: then there is nothing to do, and the next look is
// later. A page that was given back is read again.
class PageCacheWorkload final : public Workload, private Reclaimer {
 public:
  // Adds itself to the allocator's reclaimers, until it is destroyed; pages
  // that it holds then stay allocated. `allocator` and its `vcpus`, by id, must
  // outlive it.
  PageCacheWorkload(const PageCacheOptions& options, FrameAllocator& allocator,
                    std::span<const std::unique_ptr<Vcpu>> vcpus);
  ~PageCacheWorkload() override;

  std::optional<Nanoseconds> Step(Vcpu& vcpu) override;
  // Pages read so far. Safe from any thread.
  uint64_t work() const override {
    return read_.load(std::memory_order_relaxed);
  }

  // What it holds now. Safe from any thread.
  uint64_t cached_bytes() const;
  // What it gave back to allocations so far. Safe from any thread.
  PageCount reclaimed() const {
    return PageCount(reclaimed_.load(std::memory_order_relaxed));
  }

 private:
  PageCount Reclaim(int cpu, PageCount wanted) override;
  // False if memory was out.
  bool ReadAhead(Vcpu& vcpu);
  std::vector<Pfn> RemoveOldest(PageCount most) ABSL_LOCKS_EXCLUDED(lock_);

  const PageCacheOptions options_;
  FrameAllocator& allocator_;
  const std::span<const std::unique_ptr<Vcpu>> vcpus_;
  const uint64_t max_bytes_;
  // Of its own steps, without what they themselves took.
  Nanoseconds now_{0};
  // Pages.
  std::atomic<uint64_t> read_{0};
  std::atomic<uint64_t> reclaimed_{0};

  // Others reclaim while this reads. Held across no allocation and no free.
  mutable SpinLock lock_;
  // Oldest first.
  std::deque<Pfn> cached_ ABSL_GUARDED_BY(lock_);
};

}  // namespace guestmm

#endif  // GUESTMM_WORKLOAD_PAGE_CACHE_WORKLOAD_H_
