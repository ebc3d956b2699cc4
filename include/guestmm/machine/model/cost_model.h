#ifndef GUESTMM_MACHINE_MODEL_COST_MODEL_H_
#define GUESTMM_MACHINE_MODEL_COST_MODEL_H_

// What everything costs that `guestmm compare` charges in virtual time. All of
// its costs are here.

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace guestmm {

// In nanoseconds. The values below are defaults, rounded from a machine of 2026
// (docs/performance.md) and, for what no process can measure of its own
// machine, from what is published; `guestmm calibrate` measures the others.
struct CostModel {
  // The guest, whatever the policy.
  //
  // A block from and to a vCPU's own list.
  uint64_t allocate = 5;
  uint64_t free = 5;
  // One taking of a zone's lock by a vCPU, and each block that it then moves
  // from or to a free list.
  uint64_t zone_visit = 20;
  uint64_t zone_block = 9;
  // A page fault of the guest: exception, mapping. Once for each block that is
  // touched, of whatever order.
  uint64_t guest_fault = 500;
  // The guest's kernel clears a page before it maps it.
  uint64_t guest_zero_page = 150;
  // Reading from a page.
  uint64_t read_page = 10;

  // The host, where a vCPU touches what is not resident.
  //
  // The vCPU leaves the guest and comes back. Not measured.
  uint64_t exit = 1000;
  // The host maps a page of 4 KiB, or a huge page of 2 MiB; and clears it.
  uint64_t host_fault_4k = 1700;
  uint64_t host_zero_4k = 250;
  uint64_t host_fault_2m = 20'000;
  uint64_t host_zero_2m = 250'000;

  // The host, where it takes memory back: on a thread of its own.
  //
  // One call of madvise(MADV_DONTNEED), and each resident page of 4 KiB or huge
  // page of 2 MiB that it frees.
  uint64_t discard_call = 600;
  uint64_t discard_4k = 300;
  uint64_t discard_2m = 8000;
  // Each vCPU that runs meanwhile is interrupted, once a call, to forget its
  // translations (TLB). Not measured.
  uint64_t discard_interruption = 2000;

  // Reporting, in the guest.
  //
  // The hook: a call of BlockFreed; one of BlocksTaken for one block, and for a
  // batch of a per-CPU list.
  uint64_t hook_freed = 6;
  uint64_t hook_taken = 22;
  uint64_t hook_taken_batch = 40;
  // The reporter takes and releases a zone's lock, which most likely was
  // another processor's last. Not measured.
  uint64_t reporter_hold = 100;
  // What it does under the lock: looks at a free block, isolates one, returns
  // one.
  uint64_t reporter_look = 10;
  uint64_t reporter_isolate = 40;
  uint64_t reporter_return = 50;
  // A report's way into the ring and out of it. Not measured.
  uint64_t report = 300;
  // The kick: the vCPU leaves the guest. The interrupt that ends the report.
  // Neither is measured.
  uint64_t kick = 2000;
  uint64_t interrupt = 2000;

  bool operator==(const CostModel&) const = default;
};

// A field of CostModel, by the name that it has in files.
struct CostField {
  std::string_view name;
  uint64_t CostModel::*value;
  std::string_view what;
};

// All of them.
std::span<const CostField> CostFields();

// The largest cost that a file may have: ten seconds.
inline constexpr uint64_t kMaxCost = 10'000'000'000;

// costs.json: {"costs_ns": {"allocate": 5, ...}}, every field in it.
std::string CostsJson(const CostModel& costs);

// The costs of such a file's text. Fields that it leaves out keep their
// defaults. InvalidArgument begins with `file` and says which field is wrong,
// and what is allowed.
absl::StatusOr<CostModel> ParseCosts(std::string_view file,
                                     std::string_view text);

// The same of a file. NotFound if it cannot be read.
absl::StatusOr<CostModel> ReadCosts(const std::string& file);

}  // namespace guestmm

#endif  // GUESTMM_MACHINE_MODEL_COST_MODEL_H_
