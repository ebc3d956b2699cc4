#ifndef GUESTMM_WORKLOAD_CHURN_WORKLOAD_H_
#define GUESTMM_WORKLOAD_CHURN_WORKLOAD_H_

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>

#include "guestmm/base/random.h"
#include "guestmm/base/units.h"
#include "guestmm/machine/workload.h"
#include "guestmm/workload/blocks.h"

namespace guestmm {

struct ChurnOptions {
  // The memory it is given, of which it keeps about the share `fill`, 0 to 1.
  uint64_t bytes = kGiB;
  double fill = 0.8;
  // The largest block. At most kMaxOrder.
  Order max_order = kPageblockOrder;
  // How often each order is asked for, up to max_order; 32 bits suffice for
  // their sum. All zero: each half as often as the one below it, so that all
  // but the largest add up to the same memory.
  std::array<uint32_t, kMaxOrder.value() + 1> weights = {};
  // Between two steps: about half a GiB is allocated in a second, and as much
  // freed.
  Nanoseconds pause = std::chrono::microseconds(20);
};

// Allocates and frees at random, for ever, at a constant fill: memory in use
// and free memory lie side by side in all sizes.
//
// Each step allocates a block and touches it while there is less than the fill,
// else frees one that it picks among all. Where memory is out it frees one.
class ChurnWorkload final : public Workload {
 public:
  ChurnWorkload(const ChurnOptions& options, uint64_t seed);

  std::optional<Nanoseconds> Step(Vcpu& vcpu) override;
  uint64_t work() const override { return blocks_.touched().value(); }

  // What it holds now; less than one block above its fill.
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
