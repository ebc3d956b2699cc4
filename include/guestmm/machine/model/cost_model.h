#ifndef GUESTMM_MACHINE_MODEL_COST_MODEL_H_
#define GUESTMM_MACHINE_MODEL_COST_MODEL_H_

// All costs that `guestmm compare` charges in virtual time.

#include <cstdint>

#include "guestmm/base/export.h"
#include "guestmm/base/fields.h"

namespace GUESTMM_EXPORT guestmm {

// Costs in nanoseconds. The defaults are rounded from measurements on a machine
// of 2026 (docs/performance.md). Costs that a process cannot measure on its own
// machine are from publications, and marked so; `guestmm calibrate` measures
// the others.
struct CostModel {
  // The guest, independent of the policy.
  //
  // Allocating a block from a per-CPU list, and freeing one to it.
  uint64_t allocate = 5;
  uint64_t free = 5;
  // Taking a zone's lock by a vCPU, and each block that it then moves from or
  // to a free list.
  uint64_t zone_visit = 20;
  uint64_t zone_block = 9;
  // A page fault of the guest: exception and mapping. Charged once for each
  // block that is touched, of any order.
  uint64_t guest_fault = 500;
  // Clearing a page in the guest's kernel, before it is mapped.
  uint64_t guest_zero_page = 150;
  // Reading a page.
  uint64_t read_page = 10;

  // The host, when a vCPU touches memory that is not resident.
  //
  // An exit from the guest, and the entry after it. Not measured.
  uint64_t exit = 1000;
  // Mapping, and clearing, a page of 4 KiB or a huge page of 2 MiB. Larger
  // pages below 2 MiB take one mapping, and clearing each 4 KiB.
  uint64_t host_fault_4k = 1700;
  uint64_t host_zero_4k = 250;
  uint64_t host_fault_2m = 20'000;
  uint64_t host_zero_2m = 250'000;

  // The host, when it discards memory, on a thread of its own.
  //
  // A call of madvise(MADV_DONTNEED), and each resident page of 4 KiB or huge
  // page of 2 MiB that it frees.
  uint64_t discard_call = 600;
  uint64_t discard_4k = 300;
  uint64_t discard_2m = 8000;
  // Splitting a huge page of which it frees a part.
  uint64_t split_2m = 20'000;
  // The TLB shootdown: each vCPU that runs is interrupted once for each call.
  // Not measured.
  uint64_t discard_interruption = 2000;

  // Reporting, in the guest.
  //
  // The hooks: a call of BlockFreed; a call of BlocksTaken for one block, and
  // for a batch of a per-CPU list.
  uint64_t hook_freed = 6;
  uint64_t hook_taken = 22;
  uint64_t hook_taken_batch = 40;
  // Taking and releasing a zone's lock by the reporter. The lock's cache line
  // is most likely another processor's. Not measured.
  uint64_t reporter_hold = 100;
  // Under the lock: a step of a search for free blocks (ZoneWork), isolating a
  // block, returning a block.
  uint64_t reporter_look = 10;
  uint64_t reporter_isolate = 40;
  uint64_t reporter_return = 50;
  // A report's way through the ring. Not measured.
  uint64_t report = 300;
  // The kick, which is an exit; and the interrupt at the end of the report. Not
  // measured.
  uint64_t kick = 2000;
  uint64_t interrupt = 2000;

  bool operator==(const CostModel&) const = default;
};

// The largest valid cost: ten seconds.
inline constexpr uint64_t kMaxCost = 10'000'000'000;

// All costs. Their names are those of a costs file
// (guestmm/experiment/report/costs_file.h).
const Fields<CostModel>& CostFields();

}  // namespace guestmm

#endif  // GUESTMM_MACHINE_MODEL_COST_MODEL_H_
