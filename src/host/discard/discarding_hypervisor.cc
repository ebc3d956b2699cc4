#include "guestmm/host/discard/discarding_hypervisor.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <optional>
#include <utility>

#include "absl/container/inlined_vector.h"
#include "absl/strings/str_format.h"
#include "guestmm/base/check.h"
#include "guestmm/base/join_adjacent.h"
#include "src/base/uninterrupted.h"
#include "src/host/discard/remapped_ranges.h"

// Kernel headers may be older than the kernel. These numbers are the same on
// all architectures except alpha.
#ifndef SYS_pidfd_open
#define SYS_pidfd_open 434
#endif
#ifndef SYS_process_madvise
#define SYS_process_madvise 440
#endif

namespace guestmm {
namespace {

// The maximum number of ranges in one call (UIO_MAXIOV).
constexpr size_t kMaxVector = 1024;

// The methods that support a source.
std::span<const DiscardMethod> MethodsFor(const GuestRam& ram) {
  static constexpr std::array kAnonymous = {DiscardMethod::kDontNeed,
                                            DiscardMethod::kFree};
  static constexpr std::array kMemfd = {DiscardMethod::kPunchHole,
                                        DiscardMethod::kRemove};
  static constexpr std::array kForeign = {DiscardMethod::kRemove};
  static constexpr std::array kFile = {DiscardMethod::kRemap};
  // Each region may be a different file, so only addresses can be used.
  if (ram.foreign()) return kForeign;
  switch (ram.source()) {
    case MemorySource::kAnonymous:
      return kAnonymous;
    case MemorySource::kSharedMemfd:
    case MemorySource::kHugetlb:
      return kMemfd;
    case MemorySource::kPrivateFile:
      return kFile;
  }
  return {};
}

// nullopt for a method that does not use madvise().
std::optional<int> AdviceOf(DiscardMethod method) {
  switch (method) {
    case DiscardMethod::kDontNeed:
      return MADV_DONTNEED;
    case DiscardMethod::kFree:
      return MADV_FREE;
    case DiscardMethod::kRemove:
      return MADV_REMOVE;
    case DiscardMethod::kBySource:
    case DiscardMethod::kPunchHole:
    case DiscardMethod::kRemap:
      return std::nullopt;
  }
  return std::nullopt;
}

int CallMadvise(std::span<std::byte> bytes, int advice) {
  return Uninterrupted(
      [&] { return madvise(bytes.data(), bytes.size(), advice); });
}

ssize_t ProcessMadvise(int pidfd, std::span<const iovec> ranges, int advice) {
  return syscall(SYS_process_madvise, pidfd, ranges.data(), ranges.size(),
                 advice, 0U);
}

// A pidfd of this process if the kernel supports `advice` with it; else -1.
int ProbeProcessMadvise(int advice) {
  const int pidfd = static_cast<int>(syscall(SYS_pidfd_open, getpid(), 0U));
  if (pidfd < 0) return -1;
  // With no range the kernel checks the advice and does nothing.
  const iovec nothing = {};
  if (ProcessMadvise(pidfd, std::span(&nothing, 0), advice) == 0) return pidfd;
  close(pidfd);
  return -1;
}

// What kBySource is for `ram`.
DiscardMethod DefaultFor(const GuestRam& ram, RangesPerCall ranges_per_call) {
  const DiscardMethod first = MethodsFor(ram).front();
  if (first != DiscardMethod::kPunchHole ||
      ranges_per_call == RangesPerCall::kOne) {
    return first;
  }
  const int pidfd = ProbeProcessMadvise(MADV_REMOVE);
  if (pidfd < 0) return first;
  close(pidfd);
  return DiscardMethod::kRemove;
}

// The maximum number of mappings of a process.
uint64_t MaxMapCount() {
  uint64_t count = 65530;  // Linux's default
  std::ifstream("/proc/sys/vm/max_map_count") >> count;
  return count;
}

std::string RangeText(GpaRange range) {
  return absl::StrFormat("discard of 0x%x + %s", range.gpa.value(),
                         FormatBytes(range.bytes));
}

}  // namespace

std::string_view Name(DiscardMethod method) {
  switch (method) {
    case DiscardMethod::kBySource:
      return "by source";
    case DiscardMethod::kDontNeed:
      return "MADV_DONTNEED";
    case DiscardMethod::kFree:
      return "MADV_FREE";
    case DiscardMethod::kPunchHole:
      return "FALLOC_FL_PUNCH_HOLE";
    case DiscardMethod::kRemove:
      return "MADV_REMOVE";
    case DiscardMethod::kRemap:
      return "MAP_FIXED";
  }
  return "unknown";
}

absl::StatusOr<std::unique_ptr<DiscardingHypervisor>>
DiscardingHypervisor::Create(const GuestRam& ram,
                             const DiscardOptions& options) {
  const std::span<const DiscardMethod> methods = MethodsFor(ram);
  DiscardMethod method = options.method;
  if (method == DiscardMethod::kBySource) {
    method = DefaultFor(ram, options.ranges_per_call);
  }
  if (std::find(methods.begin(), methods.end(), method) == methods.end()) {
    std::string fitting;
    for (const DiscardMethod other : methods) {
      absl::StrAppendFormat(&fitting, "%s%s", fitting.empty() ? "" : ", ",
                            Name(other));
    }
    return absl::InvalidArgumentError(
        absl::StrFormat("discard method %s: cannot discard guest RAM of source "
                        "%s%s: must be one of %s",
                        Name(method), ram.foreign() ? "foreign " : "",
                        Name(ram.source()), fitting));
  }
  return std::unique_ptr<DiscardingHypervisor>(
      new DiscardingHypervisor(ram, method, options));
}

DiscardingHypervisor::DiscardingHypervisor(const GuestRam& ram)
    : DiscardingHypervisor(ram, DefaultFor(ram, RangesPerCall::kMany), {}) {}

DiscardingHypervisor::DiscardingHypervisor(const GuestRam& ram,
                                           DiscardMethod method,
                                           const DiscardOptions& options)
    : ram_(ram),
      method_(method),
      remapped_(method == DiscardMethod::kRemap
                    ? std::make_unique<RemappedRanges>(
                          options.max_mappings.value_or(MaxMapCount() / 2))
                    : nullptr) {
  const std::optional<int> advice = AdviceOf(method);
  if (advice && options.ranges_per_call == RangesPerCall::kMany) {
    pidfd_ = ProbeProcessMadvise(*advice);
  }
}

DiscardingHypervisor::~DiscardingHypervisor() {
  if (pidfd_ >= 0) close(pidfd_);
}

absl::Status DiscardingHypervisor::Discard(std::span<const GpaRange> ranges) {
  absl::Status first_error;
  const uint64_t granule = ram_.discard_granule();
  // No range can be removed, and its address reused, before all are discarded.
  absl::InlinedVector<Translation, 32> pins;
  absl::InlinedVector<Piece, 32> pieces;
  for (const GpaRange& range : ranges) {
    std::optional<Translation> memory = ram_.Translate(range);
    if (!memory) {
      first_error.Update(absl::OutOfRangeError(
          absl::StrCat(RangeText(range), ": not in guest RAM")));
    } else if (!range.gpa.IsAligned(granule) || range.bytes % granule != 0) {
      first_error.Update(absl::InvalidArgumentError(
          absl::StrCat(RangeText(range), ": start and size must be multiples ",
                       "of ", FormatBytes(granule))));
    } else {
      pieces.push_back({.gpa = range.gpa, .bytes = memory->bytes()});
      pins.push_back(*std::move(memory));
    }
  }
  JoinAdjacent(
      pieces, [](const Piece& a, const Piece& b) { return a.gpa < b.gpa; },
      [](Piece& last, const Piece& piece) {
        // Adjacent for the guest and for the host: within one region.
        const size_t size = last.bytes.size();
        if (last.gpa + size != piece.gpa ||
            last.bytes.data() + size != piece.bytes.data()) {
          return false;
        }
        last.bytes = {last.bytes.data(), size + piece.bytes.size()};
        return true;
      });
  first_error.Update(DiscardPieces(pieces));
  return first_error;
}

absl::Status DiscardingHypervisor::DiscardPieces(
    std::span<const Piece> pieces) {
  if (pidfd_ >= 0 && pieces.size() > 1) return AdviseMany(pieces);
  absl::Status first_error;
  for (const Piece& piece : pieces) first_error.Update(DiscardOne(piece));
  return first_error;
}

absl::Status DiscardingHypervisor::AdviseMany(std::span<const Piece> pieces) {
  absl::Status first_error;
  absl::InlinedVector<iovec, 32> vector;
  while (!pieces.empty()) {
    const size_t count = std::min(pieces.size(), kMaxVector);
    vector.clear();
    for (const Piece& piece : pieces.first(count)) {
      vector.push_back({piece.bytes.data(), piece.bytes.size()});
    }
    calls_.fetch_add(1, std::memory_order_relaxed);
    const ssize_t result = ProcessMadvise(pidfd_, vector, *AdviceOf(method_));
    // It stops at the first range that fails, and returns the bytes before it.
    uint64_t advised = result > 0 ? static_cast<uint64_t>(result) : 0;
    size_t done = 0;
    while (done < count && pieces[done].bytes.size() <= advised) {
      advised -= pieces[done].bytes.size();
      bytes_.fetch_add(pieces[done].bytes.size(), std::memory_order_relaxed);
      ++done;
    }
    if (done < count) {
      // Retried alone for its error.
      first_error.Update(DiscardOne(pieces[done]));
      ++done;
    }
    pieces = pieces.subspan(done);
  }
  return first_error;
}

absl::Status DiscardingHypervisor::DiscardOne(const Piece& piece) {
  switch (method_) {
    case DiscardMethod::kDontNeed:
      return Advise(piece, MADV_DONTNEED, "madvise(MADV_DONTNEED)");
    case DiscardMethod::kFree:
      return Advise(piece, MADV_FREE, "madvise(MADV_FREE)");
    case DiscardMethod::kRemove:
      return Advise(piece, MADV_REMOVE, "madvise(MADV_REMOVE)");
    case DiscardMethod::kPunchHole: {
      const auto offset = static_cast<off_t>(piece.gpa.value());
      const auto size = static_cast<off_t>(piece.bytes.size());
      const int result = Uninterrupted([&] {
        return fallocate(ram_.memfd(),
                         FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset,
                         size);
      });
      return Account(result, "fallocate(FALLOC_FL_PUNCH_HOLE)", piece);
    }
    case DiscardMethod::kRemap:
      return Remap(piece);
    case DiscardMethod::kBySource:
      break;
  }
  GUESTMM_CHECK(false) << "no discard method";
  return absl::OkStatus();
}

absl::Status DiscardingHypervisor::Remap(const Piece& piece) {
  const GpaRange range = {.gpa = piece.gpa, .bytes = piece.bytes.size()};
  LockHolder hold(remapping_);
  if (remapped_->Contains(range)) {
    return Advise(piece, MADV_DONTNEED, "madvise(MADV_DONTNEED)");
  }
  if (!remapped_->HasRoomFor(range)) {
    return absl::ResourceExhaustedError(absl::StrCat(
        RangeText(range), ": needs more mappings than max_mappings allows"));
  }
  absl::Status status = MapFresh(piece);
  if (status.ok()) remapped_->Add(range);
  return status;
}

absl::Status DiscardingHypervisor::MapFresh(const Piece& piece) {
  // Atomic for concurrent readers. With the same flags and protection as
  // adjacent remapped memory, so that the kernel merges the mappings.
  const void* const mapped =
      mmap(piece.bytes.data(), piece.bytes.size(), PROT_READ | PROT_WRITE,
           MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
  absl::Status status =
      Account(mapped == MAP_FAILED ? -1 : 0, "mmap(MAP_FIXED)", piece);
  const std::optional<int> advice = HugePageAdvice(ram_.huge_pages());
  if (!status.ok() || !advice) return status;
  // Fails only at the limit of mappings. The memory is discarded nevertheless.
  calls_.fetch_add(1, std::memory_order_relaxed);
  if (CallMadvise(piece.bytes, *advice) == 0) {
    return status;
  }
  const int error = errno;
  failures_.fetch_add(1, std::memory_order_relaxed);
  return absl::InternalError(
      absl::StrFormat("madvise for transparent huge pages of %s failed: %s",
                      FormatBytes(piece.bytes.size()), std::strerror(error)));
}

absl::Status DiscardingHypervisor::Advise(const Piece& piece, int advice,
                                          const char* name) {
  return Account(CallMadvise(piece.bytes, advice), name, piece);
}

absl::Status DiscardingHypervisor::Account(int result, const char* call,
                                           const Piece& piece) {
  const int error = errno;
  calls_.fetch_add(1, std::memory_order_relaxed);
  if (result == 0) {
    bytes_.fetch_add(piece.bytes.size(), std::memory_order_relaxed);
    return absl::OkStatus();
  }
  failures_.fetch_add(1, std::memory_order_relaxed);
  return absl::InternalError(absl::StrFormat("%s of %s failed: %s", call,
                                             FormatBytes(piece.bytes.size()),
                                             std::strerror(error)));
}

DiscardCounters DiscardingHypervisor::counters() const {
  return {.calls = calls_.load(std::memory_order_relaxed),
          .bytes = bytes_.load(std::memory_order_relaxed),
          .failures = failures_.load(std::memory_order_relaxed)};
}

}  // namespace guestmm
