#ifndef GUESTMM_MACHINE_WORKLOAD_H_
#define GUESTMM_MACHINE_WORKLOAD_H_

#include <cstdint>
#include <optional>

#include "guestmm/base/clock.h"
#include "guestmm/base/export.h"
#include "guestmm/machine/vcpu.h"

namespace GUESTMM_EXPORT guestmm {

// A guest's use of its memory, as a sequence of steps, so that it runs the same
// on threads and in virtual time.
class Workload {
 public:
  virtual ~Workload() = default;

  // Does one step on `vcpu`. Returns the pause before the next one, counted
  // from the end of this one; none if this was the last.
  //
  // A step during which the vCPU becomes blocked (Vcpu::blocked) returns as
  // soon as it can, its memory kept and its phase unchanged. What it returns is
  // ignored: the next step follows when the vCPU's request is worth another
  // try, and goes on from there.
  virtual std::optional<Nanoseconds> Step(Vcpu& vcpu) = 0;

  // Work done so far, in the workload's own unit: pages touched, each counted
  // once per allocation, unless the workload says otherwise.
  virtual uint64_t work() const = 0;
};

}  // namespace guestmm

#endif  // GUESTMM_MACHINE_WORKLOAD_H_
