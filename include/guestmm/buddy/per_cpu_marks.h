#ifndef GUESTMM_BUDDY_PER_CPU_MARKS_H_
#define GUESTMM_BUDDY_PER_CPU_MARKS_H_

#include <cstdint>

#include "guestmm/base/export.h"
#include "guestmm/base/units.h"
#include "guestmm/buddy/placement.h"
#include "guestmm/buddy/watermarks.h"

namespace GUESTMM_EXPORT guestmm {

// Limits of a vCPU's lists of a zone, in pages.
struct PerCpuLimits {
  uint32_t batch = 0;  // moved from or to the zone at a time
  // Held at most; in 6.12 the least that the tuned high mark can be (high_min).
  uint32_t high = 0;
  // In 6.12 the most that the tuned high mark can be. At most `high`: it is not
  // tuned. Older kernels ignore it.
  uint32_t high_max = 0;

  bool operator==(const PerCpuLimits&) const = default;
};

// The kernel's default for each of the `node_cpus` vCPUs of a node, for a zone
// of `managed` pages with the low watermark `low`. The batch is 63 pages for
// zones of 1 GiB and above; `high` is six batches in 5.3 (zone_batchsize,
// pageset_set_batch), and low / node_cpus, at least four batches, since 5.14
// (zone_highsize); `high_max` is a node_cpus-th of an eighth of the zone, since
// 6.7. REQUIRES: node_cpus > 0.
PerCpuLimits DefaultPerCpuLimits(KernelVersion version, PageCount managed,
                                 PageCount low, int node_cpus);

// Decides how many pages move between a vCPU's lists of a zone and the zone. It
// does not know the lists: `count` is the number of pages that they hold.
//
// 5.3:  a batch at a time, in both directions.
// 6.1:  returns double while nothing is allocated (free_factor).
// 6.12: refills double while nothing is freed (alloc_factor); returns are as
//       large as what was freed lately (free_count); and the high mark is
//       tuned: it rises with refills and frees, and falls with time (Decay) and
//       while the zone is short of memory.
//
// Source: rmqueue_pcplist, free_unref_page_commit, nr_pcp_alloc, nr_pcp_free,
// nr_pcp_high, decay_pcp_high of mm/page_alloc.c.
class PerCpuMarks {
 public:
  // REQUIRES: limits.batch > 0.
  PerCpuMarks(KernelVersion version, PerCpuLimits limits);

  const PerCpuLimits& limits() const { return limits_; }
  // Keeps what the lists have learnt. REQUIRES: limits.batch > 0.
  void SetLimits(PerCpuLimits limits);

  // 6.12: true if the vCPU's share of the last-level cache holds more than
  // three batches; then frees of orders 1 to 3 leave a batch on the lists
  // (PCPF_FREE_HIGH_BATCH). True by default: so it is with a batch of 63 pages
  // and 756 KiB of cache a vCPU.
  void set_keeps_batch(bool keeps) { keeps_batch_ = keeps; }

  // The pages to hold at most before a free returns some. In 6.12 the tuned
  // mark, as it is now; set_high() starts from a recorded one.
  uint32_t high() const { return high_; }
  void set_high(uint32_t high);

  // The vCPU allocates a block from the lists, whether or not they have one.
  void OnAllocate() {
    if (frees_ != 0) frees_ >>= 1;
  }

  // The list of `order`'s blocks is empty: returns the number of blocks to take
  // from the zone.
  uint64_t BlocksToRefill(Order order, uint64_t count, ZonePressure pressure);

  // The vCPU freed a block of `order` to the lists, which `count` includes:
  // returns the number of pages to return to the zone, at most `count`.
  uint64_t PagesToReturn(Order order, uint64_t count, ZonePressure pressure);

  // The vCPU's counters are refreshed, as once a second (vmstat_interval):
  // returns the number of pages to return to the zone, 0 in 5.3 and 6.1. The
  // kernel returns a batch at a time, each from the first list on.
  uint64_t Decay(uint64_t count);

  // The fast paths of PagesToReturn, inlined, for a count below high(): as it
  // if that returns 0; else, and where it takes a closer look, false with no
  // effect. One for 5.3 and 6.1, one for 6.12.
  bool Keeps(Order order) const { return !IsHighOrder(order) || frees_ == 0; }
  bool Keeps612(Order order, ZonePressure pressure);

 private:
  // CONFIG_PCP_BATCH_SCALE_MAX.
  static constexpr uint32_t kMostDoublings = 5;

  // Blocks of orders 1 to 3 (PAGE_ALLOC_COSTLY_ORDER) make larger ones scarce
  // while they are on the lists.
  static bool IsHighOrder(Order order) {
    return order > Order(0) && order.value() <= 3;
  }
  // 6.12: records a free.
  void OnFree612(Order order) {
    refills_ >>= 1;
    last_free_was_high_ = IsHighOrder(order);
    if (frees_ < limits_.batch << kMostDoublings) {
      frees_ += static_cast<uint32_t>(order.pages().value());
    }
  }
  uint64_t PagesToReturn61(Order order, uint64_t count);
  uint64_t PagesToReturn612(Order order, uint64_t count, ZonePressure pressure);
  // Brings the tuned mark into its bounds.
  void Clamp();
  // Lowers the tuned mark by `pages`, not below its least value.
  void Lower(uint64_t pages);
  bool is_tuned() const { return limits_.high_max > limits_.high; }

  KernelVersion version_;
  PerCpuLimits limits_;
  uint32_t high_ = 0;
  // What was freed lately, halved by each allocation. 6.1: consecutive returns
  // (free_factor); 6.12: pages (free_count).
  uint32_t frees_ = 0;
  uint8_t refills_ = 0;              // 6.12: alloc_factor
  bool last_free_was_high_ = false;  // of order 1 to 3
  bool keeps_batch_ = true;
};

[[gnu::always_inline]] inline bool PerCpuMarks::Keeps612(
    Order order, ZonePressure pressure) {
  const bool keeps = pressure == ZonePressure::kNone &&
                     !(last_free_was_high_ && IsHighOrder(order));
  if (keeps) [[likely]]
    OnFree612(order);
  return keeps;
}

}  // namespace guestmm

#endif  // GUESTMM_BUDDY_PER_CPU_MARKS_H_
