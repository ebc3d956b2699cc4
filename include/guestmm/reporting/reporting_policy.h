#ifndef GUESTMM_REPORTING_REPORTING_POLICY_H_
#define GUESTMM_REPORTING_REPORTING_POLICY_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "guestmm/base/units.h"
#include "guestmm/buddy/zone.h"
#include "guestmm/reporting/scatterlist.h"

namespace guestmm {

// Decides which free blocks the host is told of, and when. The Reporter carries
// out what it decides.
//
// A pass is a run over memory: NextBatch until it says that the pass is over.
// NextBatch and ReturnBatch are called one at a time; BlockFreed comes from any
// thread, between and during them. So do MemoryOnline and MemoryOffline, but of
// those one at a time.
class ReportingPolicy {
 public:
  virtual ~ReportingPolicy() = default;

  virtual std::string_view name() const = 0;
  // What it was made with, by the names that users give it under.
  virtual std::vector<std::pair<std::string_view, uint64_t>> parameters()
      const = 0;
  // The smallest block that BlockFreed is told of.
  virtual Order min_order() const = 0;
  // The most blocks in one report.
  virtual size_t capacity() const = 0;

  // Starts with fresh state for `zones`, which are the same until Disable;
  // their memory may change. Comes before any other call.
  virtual absl::Status Enable(std::span<const std::unique_ptr<Zone>> zones) = 0;
  // Drops the state. No other call is under way or follows before Enable.
  virtual void Disable() = 0;

  // A block came onto the free lists. Only records; true asks for a pass.
  virtual bool BlockFreed(Zone& zone, Pfn pfn, Order order)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(zone.lock()) = 0;

  // Memory is about to be online, or is no longer (FreeBlockObserver): before
  // the first, and after the last BlockFreed of it. What is online when
  // reporting is enabled is told first. No lock is held but one that keeps
  // memory from coming and going, so the zone's may be taken.
  virtual void MemoryOnline(Zone& /*zone*/, PfnRange /*range*/) {}
  virtual void MemoryOffline(Zone& /*zone*/, PfnRange /*range*/) {}

  // Isolates the next blocks of the pass into `list`. True: report them. False:
  // the pass is over, and the list empty.
  // REQUIRES: list.empty(); list.capacity() == capacity().
  virtual bool NextBatch(Scatterlist& list) = 0;

  // Puts the blocks of a report back. `acknowledged`: the host saw it.
  virtual void ReturnBatch(Scatterlist& list, bool acknowledged) = 0;

  // Checks its own state (docs/invariants.md, R). Only while no vCPU runs.
  virtual absl::Status CheckInvariants() const { return absl::OkStatus(); }
};

}  // namespace guestmm

#endif  // GUESTMM_REPORTING_REPORTING_POLICY_H_
