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
#include "guestmm/base/memory_map.h"
#include "guestmm/base/units.h"
#include "guestmm/experiment/replay/replay.h"
#include "guestmm/host/accounting/host_ledger.h"
#include "guestmm/host/discard/discarding_hypervisor.h"
#include "guestmm/machine/backing.h"
#include "guestmm/ram/guest_ram.h"

namespace guestmm {

// The host of a replay, which accounts resident memory in a ledger. In
// ReplayMode::kReal it also has guest RAM: each page that the guest touches is
// stamped, reports are discarded, and pages in use are checked for their stamp.
class ReplayHost {
 public:
  // A host for a guest with this memory. In kReal, the error of
  // GuestRam::Create. REQUIRES: `memory` is not empty.
  static absl::StatusOr<std::unique_ptr<ReplayHost>> Create(
      const MemoryMap& memory, const ReplayOptions& options);

  // REQUIRES for all below: the pages are the guest's. `now` is virtual time.

  // The block was in use and touched when the replay began.
  void OnInUseAtFirst(Pfn pfn, Order order);
  // The guest allocates a block with these gfp flags, and touches it if
  // ReplayOptions::touch says so.
  void OnAllocated(Pfn pfn, Order order, uint32_t gfp, Nanoseconds now);
  // The guest frees a block, whose stamps are checked.
  void OnFreed(Pfn pfn, Order order, Nanoseconds now);
  // Discards a report.
  void OnReported(std::span<const GpaRange> ranges, Nanoseconds now);

  // Checks the stamps of all pages in use. No effect in kVirtual.
  void CheckContents();

  // The resident bytes: by the ledger, or in kReal by the kernel. 0 after an
  // error (see status()).
  uint64_t ResidentBytes();
  // True if a page of the pageblock at `pfn` is resident.
  bool AnyResident(Pfn pfn);
  const HostLedger& ledger() const { return ledger_; }
  // For a device to look up resident memory in; changes go through this host.
  HostLedger& ledger() { return ledger_; }
  // The footprint from the start until `now`, by the ledger. REQUIRES: no call
  // had a later `now`.
  ReplayResult::Footprint FootprintUntil(Nanoseconds now);

  // The first error: DataLoss names a page in use that lost its contents;
  // others are of a discard, or of asking the kernel for resident memory.
  const absl::Status& status() const { return status_; }

 private:
  ReplayHost(Pfn end, const ReplayOptions& options);

  // Integrates the footprint up to `now`. Called before each change.
  void Integrate(Nanoseconds now);
  void Touch(Pfn pfn, Order order, Nanoseconds now);
  void CheckContents(PfnRange pages);

  // Each a set of gfp flags.
  const std::vector<uint32_t> touch_;
  HostLedger ledger_;
  // Pages touched and not yet freed.
  PageCount in_use_;
  ReplayResult::Footprint footprint_;
  uint64_t integrated_us_ = 0;
  absl::Status status_;
  // In kReal: ascending, adjoining ranges joined.
  std::vector<GpaRange> regions_;
  std::unique_ptr<GuestRam> ram_;
  std::optional<RamBacking> pages_;
  std::unique_ptr<DiscardingHypervisor> hypervisor_;
};

}  // namespace guestmm

#endif  // GUESTMM_SRC_EXPERIMENT_REPLAY_REPLAY_HOST_H_
