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
#include "guestmm/base/units.h"
#include "guestmm/buddy/free_block_observer.h"
#include "guestmm/buddy/zone.h"
#include "guestmm/reporting/scatterlist.h"
#include "guestmm/reporting/zone_lock_guard.h"

namespace guestmm {

// The most ranges in one report: of 4 MiB each they fill a virtqueue chain's
// 2^32 bytes (virtio 1.3 §2.7.5.2).
inline constexpr size_t kMaxReportCapacity = 1024;

// The longest wait from a request to its pass.
inline constexpr Nanoseconds kMaxReportDelay = std::chrono::hours(1);

// The state of a policy that was at work before Enable, e.g. in the guest of a
// recording.
struct ResumedReporting {
  // From Enable until the pass that was due already; unset: none was, and
  // reporting is at rest.
  std::optional<Nanoseconds> next_pass = {};
};

// What a policy works with, from Enable until Disable.
struct ReportingEnvironment {
  // The same throughout; their memory may change.
  std::span<const std::unique_ptr<Zone>> zones;
  // The reporter's.
  const Clock& clock;
  // For the policy's every ZoneLockGuard; may be null.
  LockHoldObserver* holds = nullptr;
};

// Decides which free blocks the host is told of, and when. The Reporter carries
// out what it decides.
//
// A pass is a run over memory: NextBatch until it says that the pass is over.
// NextPass, NextBatch and ReturnBatch are called one at a time, on the
// reporter's queue. BlockFreed and BlocksTaken come from any thread, between
// and during them; delay does, too. So do MemoryOnline and MemoryOffline, but
// of those one at a time.
//
// docs/write-a-policy.md goes through one. A policy sees and changes memory
// through Zone alone, under a ZoneLockGuard, and time through the clock that
// Enable gives it. It never sleeps: to wait, it ends its pass.
class ReportingPolicy {
 public:
  virtual ~ReportingPolicy() = default;

  virtual std::string_view name() const = 0;
  // What it was made with, by the names that users give it under.
  virtual std::vector<std::pair<std::string_view, uint64_t>> parameters()
      const {
    return {};
  }
  // The smallest block that BlockFreed is told of.
  virtual Order min_order() const = 0;
  // The most ranges in one report.
  virtual size_t capacity() const = 0;
  // Whether BlocksTaken is called at all.
  virtual TakenBlocks taken_blocks() const { return TakenBlocks::kIgnore; }

  // Starts to work. Comes before any other call.
  virtual absl::Status Enable(const ReportingEnvironment& environment) = 0;
  // It is about to end: nothing is in flight, and no pass follows, but events
  // still come. What a policy knows of free memory it can leave in marks, for
  // whoever comes next (Zone::MarkReported).
  virtual void Disabling() {}
  // Ends it. No other call is under way or follows before Enable. Whatever
  // happens until then no one tells.
  virtual void Disable() = 0;

  // A block came onto the free lists. Only records; true asks for a pass.
  virtual bool BlockFreed(Zone& zone, Pfn pfn, Order order)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(zone.lock()) = 0;
  // Blocks were taken off the free lists, by anyone but NextBatch. Only
  // records.
  virtual void BlocksTaken([[maybe_unused]] Zone& zone,
                           std::span<const Pfn> /*blocks*/, Order /*order*/)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(zone.lock()) {}

  // Memory is about to be online, or is no longer (FreeBlockObserver): before
  // the first, and after the last BlockFreed of it. What is online when
  // reporting is enabled is told first. No lock is held but one that keeps
  // memory from coming and going, so the zone's may be taken.
  virtual void MemoryOnline(Zone& /*zone*/, PfnRange /*range*/) {}
  virtual void MemoryOffline(Zone& /*zone*/, PfnRange /*range*/) {}

  // How long after BlockFreed asked for it a pass begins. What asks meanwhile
  // asks for the same pass.
  virtual Nanoseconds delay() const { return Nanoseconds(0); }
  // How long until the next pass if no one asks for one; none: there is none
  // then. Looked at once reporting is enabled and after each pass.
  virtual std::optional<Nanoseconds> NextPass() { return std::nullopt; }

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
