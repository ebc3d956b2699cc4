#ifndef GUESTMM_BASE_DURATION_H_
#define GUESTMM_BASE_DURATION_H_

#include <optional>
#include <string_view>

#include "guestmm/base/clock.h"
#include "guestmm/base/export.h"

namespace GUESTMM_EXPORT guestmm {

// Parses a duration as people write it: "0.5" and "0.5s" are half a second;
// "100ms", "500 us", "7ns", "2min", "2m", "1.5h". Rounded to nanoseconds. None
// for any other text, and for what is negative or does not fit in Nanoseconds.
std::optional<Nanoseconds> ParseDuration(std::string_view text);

}  // namespace guestmm

#endif  // GUESTMM_BASE_DURATION_H_
