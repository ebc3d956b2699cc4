#ifndef GUESTMM_SRC_HOST_ACCOUNTING_KHUGEPAGED_H_
#define GUESTMM_SRC_HOST_ACCOUNTING_KHUGEPAGED_H_

#include <chrono>
#include <cstddef>
#include <functional>
#include <utility>
#include <vector>

#include "guestmm/base/clock.h"
#include "guestmm/base/memory_map.h"
#include "guestmm/base/units.h"
#include "guestmm/base/workqueue.h"

namespace guestmm {

// The host's khugepaged, which makes split huge pages whole again. It wakes up
// every kSleep and visits the next kPagesToScan pages of the guest's memory, in
// ascending order and then from the start again (Linux: scan_sleep_millisecs,
// pages_to_scan). One resident page of a huge page is enough (max_ptes_none).
//
// The guest does not know: memory that it reported is resident again.
class Khugepaged {
 public:
  static constexpr Nanoseconds kSleep = std::chrono::seconds(10);
  static constexpr PageCount kPagesToScan{4096};

  // `collapse` is called with the first page of each huge page visited, to
  // enter it in a ledger (HostLedger::OnCollapsed). `workqueue` must outlive
  // this. REQUIRES: `memory` is not empty.
  Khugepaged(Workqueue& workqueue, const MemoryMap& memory,
             std::function<void(Pfn)> collapse)
      : workqueue_(workqueue), collapse_(std::move(collapse)) {
    for (const MemoryRange& range : memory) ranges_.push_back(range.pages());
    next_ = ranges_.front().start.AlignDown(kPageblockOrder);
    workqueue_.Queue(scan_, kSleep);
  }
  ~Khugepaged() { workqueue_.CancelSync(scan_); }

 private:
  void Scan() {
    for (PageCount left = kPagesToScan; left > PageCount(0);
         left -= kPageblockOrder.pages()) {
      collapse_(next_);
      next_ += kPageblockOrder.pages();
      if (next_ < ranges_[at_].end) continue;
      at_ = (at_ + 1) % ranges_.size();
      next_ = ranges_[at_].start.AlignDown(kPageblockOrder);
    }
    workqueue_.Queue(scan_, kSleep);
  }

  Workqueue& workqueue_;
  const std::function<void(Pfn)> collapse_;
  std::vector<PfnRange> ranges_;
  // The range that the scan is at, and the huge page.
  size_t at_ = 0;
  Pfn next_;
  Work scan_{[this] { Scan(); }, Work::Kind::kDeferrable};
};

}  // namespace guestmm

#endif  // GUESTMM_SRC_HOST_ACCOUNTING_KHUGEPAGED_H_
