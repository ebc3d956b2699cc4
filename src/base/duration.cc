#include "guestmm/base/duration.h"

#include <array>
#include <charconv>
#include <cmath>
#include <cstdint>

#include "src/base/number_with_unit.h"

namespace guestmm {

std::optional<Nanoseconds> ParseDuration(std::string_view text) {
  static constexpr std::array<NamedUnit, 8> kUnits = {
      {{"", 1'000'000'000},
       {"ns", 1},
       {"us", 1'000},
       {"ms", 1'000'000},
       {"s", 1'000'000'000},
       {"m", 60'000'000'000},
       {"min", 60'000'000'000},
       {"h", 3'600'000'000'000}}};
  constexpr double kMost = 9e18;  // of int64_t
  const char* const end = text.data() + text.size();
  double number = 0;
  const char* rest = text.data();
  if (!Take(rest, std::from_chars(rest, end, number))) return std::nullopt;
  const std::optional<uint64_t> unit = SizeOf(kUnits, {rest, end});
  if (!unit) return std::nullopt;
  const double time = number * static_cast<double>(*unit);
  // False for NaN.
  if (!(time >= 0 && time <= kMost)) return std::nullopt;
  return Nanoseconds(std::llround(time));
}

}  // namespace guestmm
