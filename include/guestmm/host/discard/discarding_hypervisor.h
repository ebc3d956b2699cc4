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
#include "guestmm/base/lock.h"
#include "guestmm/base/units.h"
#include "guestmm/host/discard/hypervisor.h"
#include "guestmm/ram/guest_ram.h"

namespace guestmm {

// How memory is given back.
enum class DiscardMethod {
  // The first below that fits the source.
  kBySource,
  // madvise(MADV_DONTNEED). Anonymous memory. Of a memfd it would only empty
  // the page tables; of a file it would bring the file's bytes back.
  kDontNeed,
  // madvise(MADV_FREE). Anonymous memory: the host takes it when it runs short,
  // unless it was written to first. Until then it counts as resident, and reads
  // as what was there.
  kFree,
  // fallocate(FALLOC_FL_PUNCH_HOLE). Memfds.
  kPunchHole,
  // madvise(MADV_REMOVE), which does the same by address. Memfds; of foreign
  // guest RAM the only way.
  kRemove,
  // mmap(MAP_FIXED) of fresh anonymous memory in its place, with the same
  // advice on huge pages; madvise(MADV_DONTNEED) if it is there already.
  // Private files. See DiscardOptions::max_mappings.
  kRemap,
};

// "MADV_DONTNEED", "MADV_FREE", "FALLOC_FL_PUNCH_HOLE", "MADV_REMOVE",
// "MAP_FIXED"; "by source".
std::string_view Name(DiscardMethod method);

// How many ranges go in one system call.
enum class RangesPerCall {
  // With madvise as many as there are, by process_madvise(), where the kernel
  // lets a process advise itself (Linux 6.13); with the rest one.
  kMany,
  // Always one.
  kOne,
};

struct DiscardOptions {
  DiscardMethod method = DiscardMethod::kBySource;
  RangesPerCall ranges_per_call = RangesPerCall::kMany;
  // With kRemap: how many mappings more than it began with guest RAM may have.
  // A process cannot do without new ones, and a guest that reports every other
  // page would use them all up. Absent: half of those that a process may have
  // (vm.max_map_count).
  std::optional<uint64_t> max_mappings = {};
};

class RemappedRanges;

// Discards as VMMs do, with the system call that fits the source of guest RAM.
// Ranges that lie side by side go as one: the cost is by the range.
class DiscardingHypervisor final : public Hypervisor {
 public:
  // InvalidArgument names the method and the source that do not go together.
  // `ram` must outlive it.
  static absl::StatusOr<std::unique_ptr<DiscardingHypervisor>> Create(
      const GuestRam& ram, const DiscardOptions& options);

  // With the options' defaults, which fit every source.
  explicit DiscardingHypervisor(const GuestRam& ram);
  ~DiscardingHypervisor() override;

  // Besides: OutOfRange for what is not in one region, InvalidArgument for what
  // is not in whole granules of guest RAM, ResourceExhausted for what would
  // take more than max_mappings, all with no effect; Internal names the call
  // that the host refused.
  absl::Status Discard(std::span<const GpaRange> ranges) override;
  DiscardCounters counters() const override;

  // Never kBySource.
  DiscardMethod method() const { return method_; }
  // kMany if it is so.
  RangesPerCall ranges_per_call() const {
    return pidfd_ >= 0 ? RangesPerCall::kMany : RangesPerCall::kOne;
  }

 private:
  // What is discarded as one, pinned by someone.
  struct Piece {
    Gpa gpa;
    std::span<std::byte> bytes;
  };

  // REQUIRES: a method that fits.
  DiscardingHypervisor(const GuestRam& ram, DiscardMethod method,
                       const DiscardOptions& options);

  // Each returns the first error.
  absl::Status DiscardPieces(std::span<const Piece> pieces);
  absl::Status AdviseMany(std::span<const Piece> pieces);
  absl::Status DiscardOne(const Piece& piece);
  absl::Status Remap(const Piece& piece);
  absl::Status MapFresh(const Piece& piece);
  absl::Status Advise(const Piece& piece, int advice, const char* name);
  // Counts a call, and what came of it.
  absl::Status Account(int result, const char* call, const Piece& piece);

  const GuestRam& ram_;
  const DiscardMethod method_;
  // This process, as process_madvise() wants it; -1 without.
  int pidfd_ = -1;
  // A leaf. Held across the mapping, so that it tells what is. Null but with
  // kRemap.
  Mutex remapping_;
  const std::unique_ptr<RemappedRanges> remapped_
      ABSL_PT_GUARDED_BY(remapping_);
  std::atomic<uint64_t> calls_{0};
  std::atomic<uint64_t> bytes_{0};
  std::atomic<uint64_t> failures_{0};
};

}  // namespace guestmm

#endif  // GUESTMM_HOST_DISCARD_DISCARDING_HYPERVISOR_H_
