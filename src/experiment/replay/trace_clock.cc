#include "src/experiment/replay/trace_clock.h"

#include <cstdint>

#include "absl/strings/str_format.h"

namespace guestmm {

absl::Status TraceClock::Check(Nanoseconds time, std::string_view trace,
                               std::string_view what) const {
  // Unsigned, so that the difference cannot overflow.
  const auto since = static_cast<uint64_t>(time.count()) -
                     static_cast<uint64_t>(start_->count());
  if (time <= *start_ ||
      since <= static_cast<uint64_t>(kLongestReplay.count())) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrFormat(
      "%s: %s is %.1f s by the trace's clock, which began at %.1f s: must be "
      "at most %.0f s later",
      trace, what, ToSeconds(time), ToSeconds(*start_),
      ToSeconds(kLongestReplay)));
}

}  // namespace guestmm
