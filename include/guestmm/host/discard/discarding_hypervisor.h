#ifndef GUESTMM_HOST_DISCARD_DISCARDING_HYPERVISOR_H_
#define GUESTMM_HOST_DISCARD_DISCARDING_HYPERVISOR_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string_view>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "guestmm/base/export.h"
#include "guestmm/base/lock.h"
#include "guestmm/base/units.h"
#include "guestmm/host/discard/hypervisor.h"
#include "guestmm/ram/guest_ram.h"

namespace GUESTMM_EXPORT guestmm {

// The way to return memory to the host.
enum class DiscardMethod {
  // The first method below that supports the source. But for a memfd kRemove
  // where the kernel takes several ranges in one call.
  kBySource,
  // madvise(MADV_DONTNEED). Anonymous memory. On a memfd it would only clear
  // page tables; on a private file, reads would return the file's bytes again.
  kDontNeed,
  // madvise(MADV_FREE). Anonymous memory. The host reclaims it under memory
  // pressure, unless it is written to first. Until then it counts as resident
  // and keeps its contents.
  kFree,
  // fallocate(FALLOC_FL_PUNCH_HOLE). Memfds.
  kPunchHole,
  // madvise(MADV_REMOVE), the same by address. Memfds; the only method for
  // foreign guest RAM.
  kRemove,
  // mmap(MAP_FIXED) of new anonymous memory in its place, with the same huge
  // page advice; madvise(MADV_DONTNEED) if that was done before. Private files.
  // See DiscardOptions::max_mappings.
  kRemap,
};

// "MADV_DONTNEED", "MADV_FREE", "FALLOC_FL_PUNCH_HOLE", "MADV_REMOVE",
// "MAP_FIXED"; "by source".
std::string_view Name(DiscardMethod method);

// The number of ranges to discard with one system call.
enum class RangesPerCall {
  // For methods by madvise(): many, with process_madvise(), if the kernel
  // allows a process to advise itself (Linux 6.13). Else one.
  kMany,
  // Always one.
  kOne,
};

struct DiscardOptions {
  DiscardMethod method = DiscardMethod::kBySource;
  RangesPerCall ranges_per_call = RangesPerCall::kMany;
  // With kRemap: the maximum number of mappings that discards may add to guest
  // RAM. Without a limit, a guest that reports every other page could use up
  // all mappings of the process. Unset: half of vm.max_map_count.
  std::optional<uint64_t> max_mappings = {};
};

class RemappedRanges;

// Discards as VMMs do, with the system call that suits the source of guest RAM.
// Adjacent ranges are joined, since the cost is per range.
class DiscardingHypervisor final : public Hypervisor {
 public:
  // InvalidArgument, naming method and source, if the method does not support
  // the source. `ram` must outlive the result.
  static absl::StatusOr<std::unique_ptr<DiscardingHypervisor>> Create(
      const GuestRam& ram, const DiscardOptions& options);

  // Uses the default options, which support every source.
  explicit DiscardingHypervisor(const GuestRam& ram);
  ~DiscardingHypervisor() override;

  // OutOfRange for a range that is not within one region, InvalidArgument for
  // one that is not whole granules of guest RAM, ResourceExhausted for one that
  // would exceed max_mappings; these are not discarded. Internal, naming the
  // system call, for one that the host refuses to discard.
  absl::Status Discard(std::span<const GpaRange> ranges) override;
  DiscardCounters counters() const override;

  // Never kBySource.
  DiscardMethod method() const { return method_; }
  // kMany only if the kernel supports it for this method.
  RangesPerCall ranges_per_call() const {
    return pidfd_ >= 0 ? RangesPerCall::kMany : RangesPerCall::kOne;
  }

 private:
  // Adjacent ranges, discarded as one. Pinned by the caller.
  struct Piece {
    Gpa gpa;
    std::span<std::byte> bytes;
  };

  // REQUIRES: `method` supports the source of `ram`.
  DiscardingHypervisor(const GuestRam& ram, DiscardMethod method,
                       const DiscardOptions& options);

  // Each returns the first error.
  absl::Status DiscardPieces(std::span<const Piece> pieces);
  absl::Status AdviseMany(std::span<const Piece> pieces);
  absl::Status DiscardOne(const Piece& piece);
  absl::Status Remap(const Piece& piece);
  absl::Status MapFresh(const Piece& piece);
  absl::Status Advise(const Piece& piece, int advice, const char* name);
  // Counts a system call and its result.
  absl::Status Account(int result, const char* call, const Piece& piece);

  const GuestRam& ram_;
  const DiscardMethod method_;
  // This process, for process_madvise(); -1 if it is not used.
  int pidfd_ = -1;
  // A leaf lock. Held during the mapping, so that remapped_ is accurate.
  // remapped_ is null except with kRemap.
  Mutex remapping_;
  const std::unique_ptr<RemappedRanges> remapped_
      ABSL_PT_GUARDED_BY(remapping_);
  std::atomic<uint64_t> calls_{0};
  std::atomic<uint64_t> bytes_{0};
  std::atomic<uint64_t> failures_{0};
};

}  // namespace guestmm

#endif  // GUESTMM_HOST_DISCARD_DISCARDING_HYPERVISOR_H_
