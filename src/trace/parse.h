#ifndef GUESTMM_SRC_TRACE_PARSE_H_
#define GUESTMM_SRC_TRACE_PARSE_H_

// Take numbers and words from the start of a text, which is shortened by what
// was taken. They return false, leaving the text unchanged, if the text does
// not begin like that or a number overflows.

#include <cstdint>
#include <limits>
#include <string_view>

#include "guestmm/base/clock.h"

namespace guestmm::trace {

inline bool IsDigit(char c) { return c >= '0' && c <= '9'; }

inline void SkipSpaces(std::string_view& text) {
  size_t n = 0;
  while (n < text.size() && (text[n] == ' ' || text[n] == '\t')) ++n;
  text.remove_prefix(n);
}

inline bool TakeDecimal(std::string_view& text, uint64_t& value) {
  constexpr uint64_t kMax = std::numeric_limits<uint64_t>::max();
  uint64_t number = 0;
  size_t n = 0;
  for (; n < text.size() && IsDigit(text[n]); ++n) {
    const auto digit = static_cast<uint64_t>(text[n] - '0');
    if (number > kMax / 10 || number * 10 > kMax - digit) return false;
    number = number * 10 + digit;
  }
  if (n == 0) return false;
  value = number;
  text.remove_prefix(n);
  return true;
}

// Without "0x".
inline bool TakeHex(std::string_view& text, uint64_t& value) {
  uint64_t number = 0;
  size_t n = 0;
  for (; n < text.size(); ++n) {
    const char c = text[n];
    uint64_t digit = 0;
    if (IsDigit(c)) {
      digit = static_cast<uint64_t>(c - '0');
    } else if (c >= 'a' && c <= 'f') {
      digit = static_cast<uint64_t>(c - 'a') + 10;
    } else if (c >= 'A' && c <= 'F') {
      digit = static_cast<uint64_t>(c - 'A') + 10;
    } else {
      break;
    }
    if (number >> 60 != 0) return false;
    number = number << 4 | digit;
  }
  if (n == 0) return false;
  value = number;
  text.remove_prefix(n);
  return true;
}

// "0x1f" or "31".
inline bool TakeNumber(std::string_view& text, uint64_t& value) {
  if (!text.starts_with("0x")) return TakeDecimal(text, value);
  std::string_view digits = text.substr(2);
  if (!TakeHex(digits, value)) return false;
  text = digits;
  return true;
}

// Seconds such as "21.63554": no sign, a point, and 1 to 9 digits behind it,
// whose number is `digits`.
inline bool TakeSeconds(std::string_view& text, Nanoseconds& time,
                        int& digits) {
  constexpr uint64_t kMaxSeconds = 9'000'000'000;
  std::string_view rest = text;
  uint64_t seconds = 0;
  if (!TakeDecimal(rest, seconds) || seconds > kMaxSeconds || rest.empty() ||
      rest[0] != '.') {
    return false;
  }
  rest.remove_prefix(1);
  uint64_t fraction = 0;
  int n = 0;
  for (; static_cast<size_t>(n) < rest.size() && IsDigit(rest[n]); ++n) {
    if (n == 9) return false;
    fraction = fraction * 10 + static_cast<uint64_t>(rest[n] - '0');
  }
  if (n == 0) return false;
  for (int i = n; i < 9; ++i) fraction *= 10;
  rest.remove_prefix(static_cast<size_t>(n));
  time = Nanoseconds(static_cast<int64_t>(seconds * 1'000'000'000 + fraction));
  digits = n;
  text = rest;
  return true;
}

inline bool TakeWord(std::string_view& text, std::string_view word) {
  if (!text.starts_with(word)) return false;
  text.remove_prefix(word.size());
  return true;
}

// "-4.287", "12.5" or "12".
inline bool TakeTime(std::string_view& text, Nanoseconds& time) {
  std::string_view rest = text;
  const bool negative = TakeWord(rest, "-");
  int digits = 0;
  uint64_t seconds = 0;
  if (!TakeSeconds(rest, time, digits)) {
    if (!TakeDecimal(rest, seconds) || seconds > 9'000'000'000) {
      return false;
    }
    time = std::chrono::seconds(static_cast<int64_t>(seconds));
  }
  if (negative) time = -time;
  text = rest;
  return true;
}

}  // namespace guestmm::trace

#endif  // GUESTMM_SRC_TRACE_PARSE_H_
