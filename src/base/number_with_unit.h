#ifndef GUESTMM_SRC_BASE_NUMBER_WITH_UNIT_H_
#define GUESTMM_SRC_BASE_NUMBER_WITH_UNIT_H_

// The parts of a text such as "1.5 GiB" or "100ms".

#include <algorithm>
#include <charconv>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <system_error>

namespace guestmm {

// `name` is in small letters.
struct NamedUnit {
  std::string_view name;
  uint64_t size;
};

// `small`: in small letters.
inline bool EqualsInAnyCase(std::string_view word, std::string_view small) {
  return std::equal(word.begin(), word.end(), small.begin(), small.end(),
                    [](char a, char b) {
                      return (a >= 'A' && a <= 'Z' ? a - 'A' + 'a' : a) == b;
                    });
}

// The size of the unit that is named behind a number, with or without a blank.
inline std::optional<uint64_t> SizeOf(std::span<const NamedUnit> units,
                                      std::string_view name) {
  if (name.size() > 1 && name.front() == ' ') name.remove_prefix(1);
  for (const NamedUnit& unit : units) {
    if (EqualsInAnyCase(name, unit.name)) return unit.size;
  }
  return std::nullopt;
}

// Goes on behind a number that was read. False if there was none.
inline bool Take(const char*& at, const std::from_chars_result& result) {
  at = result.ptr;
  return result.ec == std::errc();
}

}  // namespace guestmm

#endif  // GUESTMM_SRC_BASE_NUMBER_WITH_UNIT_H_
