#include "guestmm/workload/churn_workload.h"

#include <algorithm>
#include <bit>
#include <numeric>

#include "src/workload/draws.h"

namespace guestmm {

ChurnWorkload::ChurnWorkload(const ChurnOptions& options, uint64_t seed)
    : options_(options),
      target_bytes_(ShareOf(options.bytes, options.fill)),
      random_(seed),
      blocks_(seed) {
  const auto end = options_.weights.begin() + options_.max_order.value() + 1;
  weight_sum_ = std::accumulate(options_.weights.begin(), end, uint64_t{0});
}

std::optional<Nanoseconds> ChurnWorkload::Step(Vcpu& vcpu) {
  const bool taken =
      blocks_.bytes() < target_bytes_ && blocks_.Take(vcpu, DrawOrder());
  if (!taken && !blocks_.empty() && !vcpu.blocked()) {
    blocks_.FreeAt(vcpu, random_.Below(blocks_.size()));
  }
  return options_.pause;
}

Order ChurnWorkload::DrawOrder() {
  if (weight_sum_ == 0) {
    return std::min(Order(std::countr_zero(random_.Next())),
                    options_.max_order);
  }
  uint64_t draw = random_.Below(weight_sum_);
  size_t order = 0;
  while (draw >= options_.weights[order]) draw -= options_.weights[order++];
  return Order(static_cast<int>(order));
}

}  // namespace guestmm
