#include "guestmm/hypervisor/madvise_hypervisor.h"

#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstring>
#include <functional>
#include <optional>
#include <vector>

#include "absl/container/inlined_vector.h"
#include "absl/strings/str_format.h"

namespace guestmm {

absl::Status MadviseHypervisor::Discard(std::span<const GpaRange> ranges) {
  using Bytes = std::span<std::byte>;
  absl::Status first_error;
  absl::InlinedVector<Bytes, 32> pieces;
  for (const GpaRange& range : ranges) {
    if (const std::optional<Bytes> bytes = ram_.Translate(range)) {
      pieces.push_back(*bytes);
    } else {
      first_error.Update(absl::OutOfRangeError(
          absl::StrFormat("discard of 0x%x + %s: not in guest RAM",
                          range.gpa.value(), FormatBytes(range.bytes))));
    }
  }
  std::sort(pieces.begin(), pieces.end(), [](const Bytes& a, const Bytes& b) {
    return std::less<>()(a.data(), b.data());
  });

  for (size_t i = 0; i < pieces.size();) {
    Bytes merged = pieces[i++];
    while (i < pieces.size() &&
           pieces[i].data() == merged.data() + merged.size()) {
      merged = Bytes(merged.data(), merged.size() + pieces[i++].size());
    }
    calls_.fetch_add(1, std::memory_order_relaxed);
    if (madvise(merged.data(), merged.size(), MADV_DONTNEED) == 0) {
      bytes_.fetch_add(merged.size(), std::memory_order_relaxed);
      continue;
    }
    const int error = errno;
    failures_.fetch_add(1, std::memory_order_relaxed);
    first_error.Update(absl::InternalError(
        absl::StrFormat("madvise(MADV_DONTNEED) of %s failed: %s",
                        FormatBytes(merged.size()), std::strerror(error))));
  }
  return first_error;
}

DiscardCounters MadviseHypervisor::counters() const {
  return {.calls = calls_.load(std::memory_order_relaxed),
          .bytes = bytes_.load(std::memory_order_relaxed),
          .failures = failures_.load(std::memory_order_relaxed)};
}

}  // namespace guestmm
