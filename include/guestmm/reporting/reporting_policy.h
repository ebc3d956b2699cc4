#ifndef GUESTMM_REPORTING_REPORTING_POLICY_H_
#define GUESTMM_REPORTING_REPORTING_POLICY_H_

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "guestmm/base/clock.h"
#include "guestmm/base/export.h"
#include "guestmm/base/units.h"
#include "guestmm/buddy/free_block_observer.h"
#include "guestmm/buddy/zone.h"
#include "guestmm/reporting/scatterlist.h"
#include "guestmm/reporting/zone_lock_guard.h"

namespace GUESTMM_EXPORT guestmm {

// The most ranges in one report: of 4 MiB each they fill a virtqueue chain's
// 2^32 bytes (virtio 1.3 §2.7.5.2).
inline constexpr size_t kMaxReportCapacity = 1024;

// The most reports in flight at a time.
inline constexpr size_t kMaxReports = 16;

// The longest wait from a request to its pass.
inline constexpr Nanoseconds kMaxReportDelay = std::chrono::hours(1);

// The state of a policy that was at work before Enable, e.g. in the guest of a
// recording.
struct ResumedReporting {
  // From Enable until the pass that was due already; unset: none was, and
  // reporting is at rest.
  std::optional<Nanoseconds> next_pass = {};
};

// Everything that a policy works with, from Enable until Disable.
struct ReportingEnvironment {
  // By Zone::index(). Always the same zones; their memory may change.
  std::span<ReportableZone> zones;
  // The reporter's.
  const Clock& clock;
};

// Decides which free blocks are reported to the host, and when. The Reporter
// executes its decisions.
//
// A pass is a scan of memory: NextBatch is called until it returns false.
// NextPass, NextBatch and ReturnBatch are called one at a time, on the
// reporter's queue. BlockFreed, BlocksTaken and delay are called from any
// thread, at any time. So are MemoryOnline and MemoryOffline, but only one of
// them at a time.
//
// docs/write-a-policy.md explains an example. A policy accesses memory only
// through ReportableZone, under a ZoneLockGuard, and time only through the
// clock that Enable passes. It never sleeps: to wait, it ends its pass.
class ReportingPolicy {
 public:
  virtual ~ReportingPolicy() = default;

  virtual std::string_view name() const = 0;
  // The parameters that it was made with, for the records of a run.
  virtual std::vector<std::pair<std::string_view, uint64_t>> parameters()
      const {
    return {};
  }
  // The smallest block that BlockFreed is called for.
  virtual Order min_order() const = 0;
  // The maximum number of ranges in one report.
  virtual size_t capacity() const = 0;
  // The most reports in flight at a time, 1 to kMaxReports. With several,
  // NextBatch is called while reports are in flight, and ReturnBatch for each
  // as it ends.
  virtual size_t reports() const { return 1; }
  // kTell if BlocksTaken is to be called.
  virtual TakenBlocks taken_blocks() const { return TakenBlocks::kIgnore; }

  // Starts the policy. The first call.
  virtual absl::Status Enable(const ReportingEnvironment& environment) = 0;
  // Disable follows: nothing is in flight and no pass follows, but events are
  // still delivered. The policy can leave its knowledge of free memory to a
  // later one in marks (ReportableZone::MarkReported).
  virtual void Disabling() {}
  // Stops the policy. No other call is running, or follows before Enable. Until
  // then it is not notified of anything.
  virtual void Disable() = 0;

  // A block was put on the free lists. Only records it; returns true to request
  // a pass.
  virtual bool BlockFreed(ReportableZone& zone, Pfn pfn, Order order)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(zone.lock()) = 0;
  // Blocks of `order` were taken off the free lists, except by NextBatch, in
  // runs of adjacent ones. Only records them.
  virtual void BlocksTaken([[maybe_unused]] ReportableZone& zone,
                           std::span<const PfnRange> /*runs*/, Order /*order*/)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(zone.lock()) {}

  // Memory is about to be onlined, or is offline (FreeBlockObserver): before
  // the first, and after the last BlockFreed of it. When reporting is enabled,
  // MemoryOnline is called for all memory that is online. The only lock that is
  // held serializes memory hotplug, so the zone's lock may be taken.
  virtual void MemoryOnline(ReportableZone& /*zone*/, PfnRange /*range*/) {}
  virtual void MemoryOffline(ReportableZone& /*zone*/, PfnRange /*range*/) {}

  // The time from BlockFreed's request to its pass. Requests in between are for
  // the same pass.
  virtual Nanoseconds delay() const { return Nanoseconds(0); }
  // The time until the next pass without a request; none: there is no such
  // pass. Called when reporting is enabled, and after each pass.
  virtual std::optional<Nanoseconds> NextPass() { return std::nullopt; }

  // Isolates the next blocks of the pass into `list`, and returns true. Returns
  // false if the pass has no more; the list is then empty. The pass is over
  // once all its reports are returned, too.
  // REQUIRES: list.empty(); list.capacity() == capacity().
  virtual bool NextBatch(Scatterlist& list) = 0;

  // Returns the blocks of a report. `acknowledged` is false if the report
  // failed.
  virtual void ReturnBatch(Scatterlist& list, bool acknowledged) = 0;

  // Checks its own state (docs/invariants.md, R). REQUIRES: no vCPU runs.
  virtual absl::Status CheckInvariants() const { return absl::OkStatus(); }
};

}  // namespace guestmm

#endif  // GUESTMM_REPORTING_REPORTING_POLICY_H_
