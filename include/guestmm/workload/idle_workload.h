#ifndef GUESTMM_WORKLOAD_IDLE_WORKLOAD_H_
#define GUESTMM_WORKLOAD_IDLE_WORKLOAD_H_

#include <cstdint>
#include <optional>

#include "guestmm/base/random.h"
#include "guestmm/machine/workload.h"
#include "guestmm/workload/blocks.h"

namespace guestmm {

// What a guest does while it does nothing: its daemons take a little memory now
// and then and give it back. Never ends.
//
// It matters to a policy whose runs are started by frees alone: v12 leaves what
// was freed behind its scan until the next free (docs/policies.md, loss i), and
// in a guest where nothing is ever freed again that is for ever.
//
// Each step allocates, touches and frees some small blocks, one of 2 MiB, and
// one of 2 MiB from below 4 GiB, as a driver does for a device that reaches no
// further; then it is quiet for a while.
class IdleWorkload final : public Workload {
 public:
  explicit IdleWorkload(uint64_t seed) : random_(seed) {}

  std::optional<Nanoseconds> Step(Vcpu& vcpu) override;
  uint64_t work() const override { return blocks_.touched().value(); }

 private:
  Random random_;
  Blocks blocks_;
};

}  // namespace guestmm

#endif  // GUESTMM_WORKLOAD_IDLE_WORKLOAD_H_
