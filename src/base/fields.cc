#include "guestmm/base/fields.h"

#include <bit>
#include <charconv>
#include <cmath>
#include <initializer_list>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "guestmm/base/choices.h"
#include "guestmm/base/duration.h"

namespace guestmm {
namespace {

using Unit = FieldKind::Unit;

template <typename T>
std::optional<T> ParseWhole(std::string_view text) {
  T value{};
  const char* const end = text.data() + text.size();
  const auto [rest, error] = std::from_chars(text.data(), end, value);
  if (error != std::errc() || rest != end) return std::nullopt;
  return value;
}

// The shortest text that is read back as the same number of nanoseconds.
std::string FormatNanoseconds(uint64_t value) {
  // A field's value holds the bits of a signed count.
  const bool is_negative = static_cast<int64_t>(value) < 0;
  const uint64_t nanoseconds = is_negative ? uint64_t{0} - value : value;
  std::string text =
      absl::StrFormat("%s%d.%09d", is_negative ? "-" : "",
                      nanoseconds / 1'000'000'000, nanoseconds % 1'000'000'000);
  text.erase(text.find_last_not_of('0') + 1);
  if (text.back() == '.') text.pop_back();
  return text;
}

// The shortest text that is read back as the same number; without an exponent
// unless it is very large or very small.
std::string FormatNumber(double number) {
  const double size = std::abs(number);
  const bool is_plain = size == 0 || (size >= 1e-6 && size < 1e15);
  char buffer[64];
  const auto [end, error] = std::to_chars(
      buffer, buffer + sizeof(buffer), number,
      is_plain ? std::chars_format::fixed : std::chars_format::general);
  return std::string(buffer, error == std::errc() ? end : buffer);
}

// As ParseBytes takes it, in the largest unit of which it is a multiple.
std::string FormatExactBytes(uint64_t bytes) {
  for (const auto& [unit, name] :
       {std::pair(kTiB, "TiB"), {kGiB, "GiB"}, {kMiB, "MiB"}, {kKiB, "KiB"}}) {
    if (bytes != 0 && bytes % unit == 0) {
      return absl::StrCat(bytes / unit, name);
    }
  }
  return absl::StrCat(bytes);
}

}  // namespace

namespace fields_internal {

FieldValue SecondsValue(double seconds) {
  constexpr double kMostSeconds = 9e9;  // of int64_t nanoseconds
  // Doubles next to these ends do not fit in nanoseconds.
  if (seconds <= -kMostSeconds) {
    return static_cast<uint64_t>(Nanoseconds::min().count());
  }
  if (!(seconds < kMostSeconds)) {
    return static_cast<uint64_t>(Nanoseconds::max().count());
  }
  return static_cast<uint64_t>(std::llround(seconds * 1e9));
}

}  // namespace fields_internal

FieldKind FieldKind::Count(uint64_t low, uint64_t high) {
  return FieldKind(Unit::kCount, low, high);
}
FieldKind FieldKind::Bytes(uint64_t low, uint64_t high) {
  return FieldKind(Unit::kBytes, low, high);
}
FieldKind FieldKind::Seconds(Nanoseconds low, Nanoseconds high) {
  return FieldKind(Unit::kSeconds, static_cast<uint64_t>(low.count()),
                   static_cast<uint64_t>(high.count()));
}
FieldKind FieldKind::Orders(Order low, Order high) {
  return FieldKind(Unit::kOrder, low.bits(), high.bits());
}
FieldKind FieldKind::Granule() {
  return FieldKind(Unit::kGranule, Order(0).bits(), kPageblockOrder.bits());
}
FieldKind FieldKind::Number(double low, double high) {
  return FieldKind(Unit::kNumber, low, high);
}
FieldKind FieldKind::Switch() {
  FieldKind kind(Unit::kSwitch, uint64_t{0}, uint64_t{1});
  kind.words_ = {"off", "on"};
  return kind;
}
FieldKind FieldKind::Choice(std::vector<std::string> words) {
  FieldKind kind(Unit::kChoice, uint64_t{0}, uint64_t{words.size() - 1});
  kind.words_ = std::move(words);
  return kind;
}
FieldKind FieldKind::Text() {
  return FieldKind(Unit::kText, std::string(), std::string());
}
FieldKind FieldKind::Path(std::string what) {
  FieldKind kind(Unit::kPath, std::string(), std::string());
  kind.what_ = std::move(what);
  return kind;
}

std::string FieldKind::Rule() const {
  switch (unit_) {
    case Unit::kSwitch:
      return "must be on or off";
    case Unit::kChoice:
      return absl::StrCat("must be one of ", absl::StrJoin(words_, ", "));
    case Unit::kGranule:
      return absl::StrCat("must be a power of 2, ", Format(low_), " to ",
                          Format(high_));
    case Unit::kText:
      return "must be text";
    case Unit::kPath:
      return absl::StrCat("must be the path of ", what_);
    case Unit::kSeconds:
      return absl::StrCat("must be ", Format(low_), " to ", Format(high_),
                          " seconds");
    case Unit::kCount:
    case Unit::kBytes:
      if (high_ == FieldValue(kMax)) {
        return absl::StrCat("must be ", Format(low_), " or more");
      }
      break;
    case Unit::kOrder:
    case Unit::kNumber:
      break;
  }
  return absl::StrCat("must be ", Format(low_), " to ", Format(high_));
}

bool FieldKind::IsValid(const FieldValue& value) const {
  if (value.index() != low_.index()) return false;
  if (unit_ == Unit::kText) return true;
  if (unit_ == Unit::kPath) return !std::get<std::string>(value).empty();
  // False for NaN.
  return low_ <= value && value <= high_;
}

absl::StatusOr<FieldValue> FieldKind::Parse(std::string_view text) const {
  std::optional<FieldValue> value;
  std::string form;  // of a text that is no value of the unit at all
  switch (unit_) {
    case Unit::kCount:
    case Unit::kOrder:
      value = ParseWhole<uint64_t>(text);
      form = "must be a whole number";
      break;
    case Unit::kBytes:
      value = ParseBytes(text);
      form = "must be a size, as in 256MiB";
      break;
    case Unit::kSeconds:
      if (const std::optional<Nanoseconds> time = ParseDuration(text)) {
        value = static_cast<uint64_t>(time->count());
      }
      break;
    case Unit::kNumber:
      value = ParseWhole<double>(text);
      form = "must be a number";
      break;
    case Unit::kSwitch:
    case Unit::kChoice:
      for (uint64_t i = 0; i < words_.size(); ++i) {
        if (words_[i] == text) value = i;
      }
      break;
    case Unit::kGranule:
      if (const std::optional<uint64_t> bytes = ParseBytes(text);
          bytes && *bytes >= kPageSize && std::has_single_bit(*bytes)) {
        value = static_cast<uint64_t>(std::countr_zero(*bytes / kPageSize));
      }
      break;
    case Unit::kText:
    case Unit::kPath:
      value = std::string(text);
      break;
  }
  if (value && IsValid(*value)) return *std::move(value);
  std::string rule = Rule();
  if (!value && unit_ == Unit::kChoice) rule = MustBeOneOf(text, words_);
  if (!value && !form.empty()) {
    rule = absl::StrCat(form, ", ", rule.substr(sizeof("must be ") - 1));
  }
  return absl::InvalidArgumentError(rule);
}

std::string FieldKind::Format(const FieldValue& value) const {
  switch (unit_) {
    case Unit::kCount:
    case Unit::kOrder:
      return absl::StrCat(std::get<uint64_t>(value));
    case Unit::kBytes:
      return FormatExactBytes(std::get<uint64_t>(value));
    case Unit::kGranule:
      return FormatExactBytes(
          Order(static_cast<int>(std::get<uint64_t>(value))).bytes());
    case Unit::kSeconds:
      return FormatNanoseconds(std::get<uint64_t>(value));
    case Unit::kNumber:
      return FormatNumber(std::get<double>(value));
    case Unit::kSwitch:
    case Unit::kChoice:
      return words_.at(std::get<uint64_t>(value));
    case Unit::kText:
    case Unit::kPath:
      return std::get<std::string>(value);
  }
  return "";
}

}  // namespace guestmm
