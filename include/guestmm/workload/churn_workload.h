#ifndef GUESTMM_WORKLOAD_CHURN_WORKLOAD_H_
#define GUESTMM_WORKLOAD_CHURN_WORKLOAD_H_

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>

#include "guestmm/base/export.h"
#include "guestmm/base/random.h"
#include "guestmm/base/units.h"
#include "guestmm/machine/workload.h"
#include "guestmm/workload/blocks.h"

namespace GUESTMM_EXPORT guestmm {

struct ChurnOptions {
  // The size of memory, and the share of it, 0 to 1, that stays allocated.
  uint64_t bytes = kGiB;
  double fill = 0.8;
  // The largest order allocated. At most kMaxOrder.
  Order max_order = kPageblockOrder;
  // The relative frequency of each order up to max_order; their sum must fit in
  // 32 bits. All zero: each order is half as frequent as the one below it, so
  // that all orders except the largest use equal amounts of memory.
  std::array<uint32_t, kMaxOrder.value() + 1> weights = {};
  // The time between two steps. By default about half a GiB per second is
  // allocated, and the same amount freed.
  Nanoseconds pause = std::chrono::microseconds(20);
};

// Allocates and frees at random, forever, at a constant fill, so that used and
// free memory of all sizes are interleaved.
//
// Each step allocates and touches a block while less than the fill is
// allocated; otherwise, or if the allocation fails, it frees a random block.
class ChurnWorkload final : public Workload {
 public:
  ChurnWorkload(const ChurnOptions& options, uint64_t seed);

  std::optional<Nanoseconds> Step(Vcpu& vcpu) override;
  uint64_t work() const override { return blocks_.touched().value(); }

  // The memory held now; exceeds the fill by less than one block.
  uint64_t allocated_bytes() const { return blocks_.bytes(); }

 private:
  Order DrawOrder();

  const ChurnOptions options_;
  const uint64_t target_bytes_;
  uint64_t weight_sum_ = 0;
  Random random_;
  Blocks blocks_;
};

}  // namespace guestmm

#endif  // GUESTMM_WORKLOAD_CHURN_WORKLOAD_H_
