#include "guestmm/hypervisor/madvise_hypervisor.h"

#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstring>
#include <functional>
#include <optional>
#include <span>
#include <utility>

#include "absl/container/inlined_vector.h"
#include "absl/strings/str_format.h"

namespace guestmm {

absl::Status MadviseHypervisor::Discard(std::span<const GpaRange> ranges) {
  absl::Status first_error;
  // None of them can be removed, and its place be another's, until all is done.
  absl::InlinedVector<Translation, 32> pieces;
  for (const GpaRange& range : ranges) {
    if (std::optional<Translation> piece = ram_.Translate(range)) {
      pieces.push_back(*std::move(piece));
    } else {
      first_error.Update(absl::OutOfRangeError(
          absl::StrFormat("discard of 0x%x + %s: not in guest RAM",
                          range.gpa.value(), FormatBytes(range.bytes))));
    }
  }
  std::sort(pieces.begin(), pieces.end(),
            [](const Translation& a, const Translation& b) {
              return std::less<>()(a.bytes().data(), b.bytes().data());
            });

  for (size_t i = 0; i < pieces.size();) {
    std::span<std::byte> merged = pieces[i++].bytes();
    while (i < pieces.size() &&
           pieces[i].bytes().data() == merged.data() + merged.size()) {
      merged = {merged.data(), merged.size() + pieces[i++].bytes().size()};
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
