#ifndef GUESTMM_MACHINE_WORKLOAD_H_
#define GUESTMM_MACHINE_WORKLOAD_H_

#include <cstdint>
#include <optional>

#include "guestmm/base/clock.h"
#include "guestmm/machine/vcpu.h"

namespace guestmm {

// What a guest does with its memory, as a sequence of steps, so that it runs
// the same on real threads and in virtual time.
class Workload {
 public:
  virtual ~Workload() = default;

  // Does one thing on `vcpu`. How long until the next step, without what this
  // one took; none if that was the last.
  virtual std::optional<Nanoseconds> Step(Vcpu& vcpu) = 0;

  // What was done so far, in the workload's own unit: pages touched (once
  // each), where nothing else is said.
  virtual uint64_t work() const = 0;
};

}  // namespace guestmm

#endif  // GUESTMM_MACHINE_WORKLOAD_H_
