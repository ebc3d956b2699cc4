#ifndef GUESTMM_WORKLOAD_PAGE_FAULT1_WORKLOAD_H_
#define GUESTMM_WORKLOAD_PAGE_FAULT1_WORKLOAD_H_

#include <cstddef>
#include <cstdint>
#include <optional>

#include "guestmm/base/export.h"
#include "guestmm/base/units.h"
#include "guestmm/machine/workload.h"
#include "guestmm/workload/blocks.h"

namespace GUESTMM_EXPORT guestmm {

struct PageFault1Options {
  // The size of a mapping, rounded up to blocks. At least 1.
  uint64_t bytes = 128 * kMiB;
  // The order of its blocks; 9 for huge pages.
  Order order{0};
};

// will-it-scale's page_fault1: maps memory, writes to each of its pages in
// ascending order, and unmaps it, as fast as possible, forever. Its work is
// what that benchmark counts: pages touched, including those of huge pages.
//
// Each step touches or frees 64 pages, or one block if that is larger. Pages
// are freed one by one in ascending order, as Linux unmaps them. If an
// allocation fails, it unmaps what it has and starts over.
class PageFault1Workload final : public Workload {
 public:
  explicit PageFault1Workload(const PageFault1Options& options = {});

  std::optional<Nanoseconds> Step(Vcpu& vcpu) override;
  uint64_t work() const override { return blocks_.touched().value(); }

  // The memory held now.
  uint64_t allocated_bytes() const { return blocks_.bytes(); }

 private:
  const PageFault1Options options_;
  const size_t blocks_per_step_;
  Blocks blocks_;
  bool unmapping_ = false;
};

}  // namespace guestmm

#endif  // GUESTMM_WORKLOAD_PAGE_FAULT1_WORKLOAD_H_
