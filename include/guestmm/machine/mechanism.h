#ifndef GUESTMM_MACHINE_MECHANISM_H_
#define GUESTMM_MACHINE_MECHANISM_H_

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "guestmm/base/export.h"

namespace GUESTMM_EXPORT guestmm {

class Machine;

// Counts of what a mechanism has done since it started.
struct MechanismCounters {
  // Requests to the host that succeeded (reports, inflations), and that failed.
  uint64_t requests = 0;
  uint64_t failed_requests = 0;
  // Memory named in the former, in bytes. Memory that is handed back twice
  // counts twice.
  uint64_t bytes = 0;
};

// A way of handing a guest's memory back to its host: free page reporting, a
// balloon, hot-unplug. A machine runs one at a time (Machine::StartMechanism).
//
// Safety holds under any mechanism: a page in use never loses its contents.
class Mechanism {
 public:
  virtual ~Mechanism() = default;

  // "reporting"; as MechanismSpec::name.
  virtual std::string_view name() const = 0;
  // The mechanism as it is written, choice and parameters included
  // (MechanismSpec): "reporting:linux:order=5".
  virtual std::string text() const = 0;

  // Begins to work on `machine`, which must outlive this or Stop. The error of
  // a part that could not be set up; the mechanism is not started then.
  // REQUIRES: not started.
  virtual absl::Status Start(Machine& machine) = 0;
  // Ends all work; what is with the host at this moment comes back first. No
  // effect unless started. REQUIRES: no vCPU is in use.
  virtual void Stop() = 0;

  // True while nothing is under way or due. Always true unless started.
  virtual bool AtRest() const = 0;

  // Asks that the guest use at most `bytes` of memory from now on. A mechanism
  // that the guest drives by itself, such as reporting, ignores targets.
  virtual void SetTarget(uint64_t bytes) = 0;

  virtual MechanismCounters counters() const = 0;

  // Checks the invariants of its own state (docs/invariants.md).
  // REQUIRES: nothing runs on another thread.
  virtual absl::Status CheckInvariants() const = 0;
};

}  // namespace guestmm

#endif  // GUESTMM_MACHINE_MECHANISM_H_
