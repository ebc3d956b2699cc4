#include "src/experiment/replay/trace_clock.h"

#include "absl/strings/str_format.h"

namespace guestmm {

absl::Status TraceClock::TooLate(Nanoseconds time, std::string_view trace,
                                 std::string_view what) const {
  return absl::InvalidArgumentError(absl::StrFormat(
      "%s: %s is %.1f s by the trace's clock, which began at %.1f s: must be "
      "at most %.0f s later",
      trace, what, ToSeconds(time), ToSeconds(*start_),
      ToSeconds(kLongestReplay)));
}

}  // namespace guestmm
