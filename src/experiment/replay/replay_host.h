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
#include "guestmm/host/accounting/footprint.h"
#include "guestmm/host/accounting/host_ledger.h"
#include "guestmm/host/discard/discarding_hypervisor.h"
#include "guestmm/ram/guest_ram.h"
#include "src/machine/ledger_backing.h"

namespace guestmm {

// The host of a replay, which accounts resident memory in a ledger. In
// ReplayMode::kReal it also has guest RAM: each page that the guest touches is
// stamped, reports are discarded, and pages in use are checked for their stamp.
class ReplayHost {
 public:
  // A host for a guest with this memory. `clock`, in virtual time, must outlive
  // it. In kReal, the error of GuestRam::Create. REQUIRES: `memory` is not
  // empty.
  static absl::StatusOr<std::unique_ptr<ReplayHost>> Create(
      const MemoryMap& memory, const ReplayOptions& options,
      const Clock& clock);

  // REQUIRES for all below: the pages are the guest's.

  // The block was in use and touched when the replay began.
  void OnInUseAtFirst(Pfn pfn, Order order);
  // True if the guest touches allocations with these gfp flags
  // (ReplayOptions::touch).
  bool Touches(uint32_t gfp) const {
    return touch_.empty() || HasAllOfASet(gfp);
  }
  // The guest allocates a block with these gfp flags, and touches it if
  // it Touches these.
  void OnAllocated(Pfn pfn, Order order, uint32_t gfp);
  // The guest frees a block, whose stamps are checked.
  void OnFreed(Pfn pfn, Order order);
  // The guest moves the contents of a page in use to one that it has allocated.
  void OnMoved(Pfn from, Pfn to);
  // The VMM unplugged the pages, of which none is in use.
  void OnUnplugged(PfnRange pages);
  // Discards a report.
  void OnReported(std::span<const GpaRange> ranges);
  // Discards what the VMM of a real guest, whose memory ends at `end`, did. Its
  // clock and the guest's differ by some milliseconds, so a granule may still
  // be in use here, or in use again. Such a granule stays resident, and does
  // not count as the real kernel's error.
  void OnReportedThere(const GpaRange& range, Pfn end);
  // khugepaged visits a huge page.
  void OnCollapsed(Pfn pfn);

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
  // The footprint from the start until now, by the ledger.
  ReplayResult::Footprint FootprintUntilNow();

  // The first error: DataLoss names a page in use that lost its contents;
  // others are of a discard, or of asking the kernel for resident memory.
  const absl::Status& status() const { return status_; }

 private:
  ReplayHost(std::unique_ptr<GuestRam> ram, const MemoryMap& memory,
             const ReplayOptions& options, const Clock& clock);

  // Pages, integrated over time.
  class Level {
   public:
    explicit Level(Nanoseconds start) : before_(start) {}

    // There are `pages` from now on.
    void Change(PageCount pages, const Clock& clock) {
      if (pages == pages_) return;
      before_.Add(pages_, clock.Now());
      pages_ = pages;
    }
    // In pages times microseconds.
    double UntilNow(Nanoseconds now) {
      before_.Add(pages_, now);
      return before_.page_microseconds();
    }

   private:
    FootprintIntegral before_;  // the last change
    PageCount pages_;
  };

  // True if `gfp` has all flags of one of touch_.
  bool HasAllOfASet(uint32_t gfp) const;
  void Allocate(Pfn pfn, Order order);
  void Touch(Pfn pfn, Order order);
  // Notes the levels of the ledger. Called after each change.
  void Integrate();

  const Clock& clock_;
  // Each a set of gfp flags.
  const std::vector<uint32_t> touch_;
  // Ascending, adjoining ranges joined.
  const std::vector<GpaRange> regions_;
  const std::unique_ptr<GuestRam> ram_;  // null in kVirtual
  HostLedger ledger_;
  std::optional<LedgerBacking> backing_;              // absent in kVirtual
  std::unique_ptr<DiscardingHypervisor> hypervisor_;  // null in kVirtual
  Level resident_;
  Level in_use_;
  absl::Status status_;
};

}  // namespace guestmm

#endif  // GUESTMM_SRC_EXPERIMENT_REPLAY_REPLAY_HOST_H_
