#ifndef GUESTMM_SRC_EXPERIMENT_REPLAY_REPLAY_HOST_H_
#define GUESTMM_SRC_EXPERIMENT_REPLAY_REPLAY_HOST_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "guestmm/base/clock.h"
#include "guestmm/base/units.h"
#include "guestmm/buddy/memory_layout.h"
#include "guestmm/experiment/replay/replay.h"
#include "guestmm/host/accounting/host_ledger.h"
#include "guestmm/host/discard/discarding_hypervisor.h"
#include "guestmm/machine/backing.h"
#include "guestmm/ram/guest_ram.h"

namespace guestmm {

// The host in a replay, and what it holds of the guest's memory: by a ledger,
// and for real in guest RAM. There each page that the guest touches gets a
// stamp, reports are discarded, and what is in use must have its stamp still.
class ReplayHost {
 public:
  // Of a guest with this memory. For real the error of GuestRam::Create.
  // REQUIRES: `memory` is not empty.
  static absl::StatusOr<std::unique_ptr<ReplayHost>> Create(
      const MemoryMap& memory, const ReplayOptions& options);

  // REQUIRES for all below: the pages are the guest's. `now` is virtual time.

  // The guest had the block, touched, when the replay began.
  void OnInUseAtFirst(Pfn pfn, Order order);
  // It has it now, of an allocation with these gfp flags, and touches it if
  // ReplayOptions::touch has it so.
  void OnAllocated(Pfn pfn, Order order, uint32_t gfp, Nanoseconds now);
  // It gave it back.
  void OnFreed(Pfn pfn, Order order, Nanoseconds now);
  // A report is discarded.
  void OnReported(std::span<const GpaRange> ranges, Nanoseconds now);

  // Looks at all that is in use, as OnFreed does at what is freed.
  void CheckContents();

  // Of all memory: by the ledger, or for real by the kernel. 0 if it does not
  // say, which is an error.
  uint64_t ResidentBytes();
  // Whether anything of a block of order kPageblockOrder is resident.
  bool AnyResident(Pfn pfn);
  const HostLedger& ledger() const { return ledger_; }
  // From the start until `now`, by the ledger. REQUIRES: nothing happened
  // later.
  ReplayResult::Footprint FootprintUntil(Nanoseconds now);

  // What went wrong first: DataLoss names a page in use that lost its contents;
  // else the error of a discard, or of looking at what is resident.
  const absl::Status& status() const { return status_; }

 private:
  ReplayHost(Pfn end, const ReplayOptions& options);

  // Brings footprint_ up to `now`, before something changes.
  void Integrate(Nanoseconds now);
  void Touch(Pfn pfn, Order order, Nanoseconds now);
  void CheckContents(PfnRange pages);

  // Each a set of gfp flags.
  const std::vector<uint32_t> touch_;
  HostLedger ledger_;
  // Pages touched and not freed since.
  PageCount in_use_;
  ReplayResult::Footprint footprint_;
  uint64_t integrated_us_ = 0;
  absl::Status status_;
  // For real; ascending, neighbours joined.
  std::vector<GpaRange> regions_;
  std::unique_ptr<GuestRam> ram_;
  std::optional<RamBacking> pages_;
  std::unique_ptr<DiscardingHypervisor> hypervisor_;
};

}  // namespace guestmm

#endif  // GUESTMM_SRC_EXPERIMENT_REPLAY_REPLAY_HOST_H_
