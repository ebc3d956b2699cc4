#include "guestmm/base/fields.h"

#include <charconv>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"

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

// None for what is negative, not finite or does not fit.
std::optional<FieldValue> ParseNanoseconds(std::string_view text) {
  const std::optional<double> seconds = ParseWhole<double>(text);
  constexpr double kMostSeconds = 9e9;  // of int64_t nanoseconds
  if (!seconds || !(*seconds >= 0 && *seconds <= kMostSeconds)) {
    return std::nullopt;
  }
  return static_cast<uint64_t>(std::llround(*seconds * 1e9));
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

std::string FormatNumber(double number) {
  char buffer[32];
  const auto [end, error] =
      std::to_chars(buffer, buffer + sizeof(buffer), number);
  return std::string(buffer, error == std::errc() ? end : buffer);
}

}  // namespace

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
FieldKind FieldKind::Number(double low, double high) {
  return FieldKind(Unit::kNumber, low, high);
}
FieldKind FieldKind::Switch() {
  return FieldKind(Unit::kSwitch, uint64_t{0}, uint64_t{1});
}
FieldKind FieldKind::Choice(std::vector<std::string> words) {
  FieldKind kind(Unit::kChoice, uint64_t{0}, uint64_t{words.size() - 1});
  kind.words_ = std::move(words);
  return kind;
}
FieldKind FieldKind::Text() {
  return FieldKind(Unit::kText, std::string(), std::string());
}

std::string FieldKind::Rule() const {
  const auto bound = [&](const FieldValue& value) {
    return unit_ == Unit::kBytes ? FormatBytes(std::get<uint64_t>(value))
                                 : Format(value);
  };
  switch (unit_) {
    case Unit::kSwitch:
      return "must be on or off";
    case Unit::kChoice:
      return absl::StrCat("must be one of ", absl::StrJoin(words_, ", "));
    case Unit::kText:
      return "must be text";
    case Unit::kSeconds:
      return absl::StrCat("must be ", bound(low_), " to ", bound(high_),
                          " seconds");
    case Unit::kCount:
    case Unit::kBytes:
      if (high_ == FieldValue(kMax)) {
        return absl::StrCat("must be ", bound(low_), " or more");
      }
      break;
    case Unit::kOrder:
    case Unit::kNumber:
      break;
  }
  return absl::StrCat("must be ", bound(low_), " to ", bound(high_));
}

bool FieldKind::IsValid(const FieldValue& value) const {
  if (value.index() != low_.index()) return false;
  if (unit_ == Unit::kText) return true;
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
      value = ParseNanoseconds(text);
      break;
    case Unit::kNumber:
      value = ParseWhole<double>(text);
      form = "must be a number";
      break;
    case Unit::kSwitch:
      if (text == "on" || text == "off") value = uint64_t{text == "on"};
      break;
    case Unit::kChoice:
      for (uint64_t i = 0; i < words_.size(); ++i) {
        if (words_[i] == text) value = i;
      }
      break;
    case Unit::kText:
      value = std::string(text);
      break;
  }
  if (value && IsValid(*value)) return *std::move(value);
  std::string rule = Rule();
  if (!value && !form.empty()) {
    rule = absl::StrCat(form, ", ", rule.substr(sizeof("must be ") - 1));
  }
  return absl::InvalidArgumentError(rule);
}

std::string FieldKind::Format(const FieldValue& value) const {
  switch (unit_) {
    case Unit::kCount:
    case Unit::kBytes:
    case Unit::kOrder:
      return absl::StrCat(std::get<uint64_t>(value));
    case Unit::kSeconds:
      return FormatNanoseconds(std::get<uint64_t>(value));
    case Unit::kNumber:
      return FormatNumber(std::get<double>(value));
    case Unit::kSwitch:
      return std::get<uint64_t>(value) != 0 ? "on" : "off";
    case Unit::kChoice:
      return words_.at(std::get<uint64_t>(value));
    case Unit::kText:
      return std::get<std::string>(value);
  }
  return "";
}

}  // namespace guestmm
