#ifndef GUESTMM_SRC_TRACE_PARSE_H_
#define GUESTMM_SRC_TRACE_PARSE_H_

// Take numbers and words from the start of a text, which is shortened by what
// was taken. They return false, leaving the text unchanged, if the text does
// not begin like that or a number overflows.

#include <charconv>
#include <cmath>
#include <cstdint>
#include <limits>
#include <string_view>
#include <system_error>

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

// Seconds such as "21.63554": no sign, a point, and 1 to 12 digits behind it,
// whose number is `digits`. Those behind the ninth are dropped.
inline bool TakeSeconds(std::string_view& text, Nanoseconds& time,
                        int& digits) {
  constexpr uint64_t kMaxSeconds = 9'000'000'000;
  constexpr int kMostDigits = 12;
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
    if (n == kMostDigits) return false;
    if (n >= 9) continue;
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

// A number as programs print it: "-4.287", "12", "1.03e+02".
inline bool TakeReal(std::string_view& text, double& value) {
  // No "inf" and "nan", and no sign but '-'.
  const std::string_view digits = text.substr(text.starts_with("-") ? 1 : 0);
  if (digits.empty() || !(IsDigit(digits[0]) || digits[0] == '.')) return false;
  double number = 0;
  const auto [end, error] =
      std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc()) return false;
  value = number;
  text.remove_prefix(static_cast<size_t>(end - text.data()));
  return true;
}

// Seconds, rounded to nanoseconds: "-4.287", "103.00000000000001", "1.03e+02".
inline bool TakeTime(std::string_view& text, Nanoseconds& time) {
  constexpr double kMaxSeconds = 9e9;
  std::string_view rest = text;
  double seconds = 0;
  if (!TakeReal(rest, seconds) || std::abs(seconds) > kMaxSeconds) return false;
  time = Nanoseconds(std::llround(seconds * 1e9));
  text = rest;
  return true;
}

}  // namespace guestmm::trace

#endif  // GUESTMM_SRC_TRACE_PARSE_H_
