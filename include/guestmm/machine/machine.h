#ifndef GUESTMM_MACHINE_MACHINE_H_
#define GUESTMM_MACHINE_MACHINE_H_

// A guest and the host's account of it, on which any mechanism runs: on threads
// with RAM (Guest, guestmm/machine/real/guest.h), or in virtual time
// (ModelMachine, guestmm/machine/model/model_machine.h).
//
//   VirtualTime time(/*seed=*/1);
//   auto machine = ModelMachine::Create({.memory = MemoryMap::Pc(kGiB)}, time);
//   (*machine)->StartMechanism(std::make_unique<ReportingMechanism>(...));
//   (*machine)->RunUntil(std::chrono::seconds(10));

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "guestmm/base/clock.h"
#include "guestmm/base/export.h"
#include "guestmm/host/accounting/discard_log.h"
#include "guestmm/host/accounting/hold_times.h"
#include "guestmm/machine/mechanism.h"
#include "guestmm/machine/vcpu.h"

namespace GUESTMM_EXPORT guestmm {

class HostLedger;
class Reporter;
class ReportingPolicy;

// The counts of a machine, whatever its mechanism.
struct MachineCounters {
  // Notifications that the guest sent to its host's devices.
  uint64_t kicks = 0;
  // Calls of madvise, or the like, that the host made to discard memory.
  uint64_t discard_calls = 0;
  // The reporter's holds of zone locks.
  HoldTimes holds;
};

class Machine {
 public:
  // REQUIRES: no mechanism runs (CHECKed): each machine stops its own first.
  virtual ~Machine();
  Machine(const Machine&) = delete;
  Machine& operator=(const Machine&) = delete;

  virtual FrameAllocator& allocator() = 0;
  // All vCPUs, by id.
  virtual std::span<const std::unique_ptr<Vcpu>> all_vcpus() const = 0;
  // REQUIRES: 0 <= id < vcpus().
  Vcpu& vcpu(int id) { return *all_vcpus()[static_cast<size_t>(id)]; }
  int vcpus() const { return static_cast<int>(all_vcpus().size()); }

  // The host's account of the guest's memory; null if the machine keeps none.
  virtual const HostLedger* ledger() const = 0;
  // After each discard, the total discarded so far. Empty without a ledger.
  virtual std::vector<DiscardedUntil> discards() const = 0;
  virtual MachineCounters counters() const = 0;
  // DataLoss if a page in use has lost its contents, as far as the machine
  // notices: in virtual time at the discard; on threads when a vCPU reads the
  // page, and only with a ledger.
  virtual absl::Status status() const = 0;

  // The machine's clock.
  virtual Nanoseconds Now() const = 0;
  // Lets the machine run until Now() >= `time`: in virtual time it runs the
  // clock, and with it every machine on that clock; on threads it waits.
  virtual void RunUntil(Nanoseconds time) = 0;
  // Lets the machine run until its mechanism is at rest. False if `timeout`
  // passed first. True at once without a mechanism.
  virtual bool WaitUntilAtRest(Nanoseconds timeout) = 0;

  // Starts `mechanism`; this ends the guest's boot. The machine owns it until
  // StopMechanism. The error of Mechanism::Start. REQUIRES: none runs
  // (CHECKed).
  absl::Status StartMechanism(std::unique_ptr<Mechanism> mechanism);
  // Stops and destroys the mechanism, if there is one. REQUIRES: no vCPU is in
  // use.
  void StopMechanism();
  // Null if none runs.
  Mechanism* mechanism() { return mechanism_.get(); }
  const Mechanism* mechanism() const { return mechanism_.get(); }

  // For mechanisms.
  //
  // Has the guest report its free memory by `policy`, through a balloon.
  // FailedPrecondition if it does already; else the error of the part that
  // could not be set up. OK without reporting (reporter() stays null) if the
  // guest's own settings rule it out, e.g. page poisoning that the balloon does
  // not support. REQUIRES: `policy` is not null.
  virtual absl::Status StartReporting(
      std::unique_ptr<ReportingPolicy> policy) = 0;
  // Ends reporting, after the report in flight. No effect without reporting.
  // REQUIRES: no vCPU is in use.
  virtual void StopReporting() = 0;
  // Null without reporting.
  virtual Reporter* reporter() = 0;
  virtual const Reporter* reporter() const = 0;

  // Checks every invariant of docs/invariants.md that the machine can see.
  // REQUIRES: nothing of the machine runs on another thread.
  virtual absl::Status CheckInvariants() const = 0;

 protected:
  Machine() = default;

  // Checks what CheckInvariants checks of any machine: `allocator`, the
  // mechanism, and that the isolated pages are those `in_flight`, i.e. with the
  // host (S2).
  absl::Status CheckGuest(const FrameAllocator& allocator,
                          PageCount in_flight) const;

 private:
  // The guest has booted: costs charged so far are not the workloads'.
  virtual void EndBoot() {}

  std::unique_ptr<Mechanism> mechanism_;
};

}  // namespace guestmm

#endif  // GUESTMM_MACHINE_MACHINE_H_
