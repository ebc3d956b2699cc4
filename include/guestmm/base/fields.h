#ifndef GUESTMM_BASE_FIELDS_H_
#define GUESTMM_BASE_FIELDS_H_

// Fields<T> describes an options struct: each member's name, unit, bounds and
// one line of text. It is the single home of an option; flags, checks, JSON and
// the axes of a study follow from it.
//
//   struct CacheOptions {
//     uint64_t ways = 8;
//     Nanoseconds delay{0};
//   };
//   const Fields<CacheOptions>& CacheFields() {
//     static const Fields<CacheOptions> fields = {
//         {"ways", &CacheOptions::ways, FieldKind::Count(1, 64), "Ways a set"},
//         {"delay", &CacheOptions::delay,
//          FieldKind::Seconds(Nanoseconds(0), std::chrono::hours(1)),
//          "Wait before eviction"}};
//     return fields;
//   }
//   CacheFields().Set(options, "ways", "0");  // "--ways=0: must be 1 to 64"

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <initializer_list>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "guestmm/base/check.h"
#include "guestmm/base/clock.h"
#include "guestmm/base/export.h"
#include "guestmm/base/option_error.h"
#include "guestmm/base/units.h"

namespace GUESTMM_EXPORT guestmm {

// A field's value outside its struct. uint64_t: a count, bytes, nanoseconds, an
// order, 0 or 1 of a switch, the index of a choice. double: a number.
// std::string: text, a path.
using FieldValue = std::variant<uint64_t, double, std::string>;

// The form of a field's text, and the values that it may have.
class FieldKind {
 public:
  enum class Unit {
    kCount,    // "16"
    kBytes,    // "256MiB", as ParseBytes
    kSeconds,  // "0.5", as ParseDuration; the value is in nanoseconds
    kOrder,    // "9"
    kGranule,  // "64KiB", as ParseBytes; the value is an order
    kNumber,   // "0.25"
    kSwitch,   // "on", "off"
    kChoice,   // one of some words; the value is the word's index
    kText,     // anything
    kPath,     // anything but ""
  };
  static constexpr uint64_t kMax = std::numeric_limits<uint64_t>::max();

  // Bounds are inclusive. REQUIRES: low <= high, and low >= 0.
  static FieldKind Count(uint64_t low = 0, uint64_t high = kMax);
  static FieldKind Bytes(uint64_t low = 0, uint64_t high = kMax);
  static FieldKind Seconds(Nanoseconds low, Nanoseconds high);
  static FieldKind Orders(Order low = Order(0), Order high = kMaxOrder);
  // The unit in which a host maps memory: Order(0) to kPageblockOrder.
  static FieldKind Granule();
  static FieldKind Number(double low, double high);
  static FieldKind Switch();
  // The words of an enum whose values are 0, 1, ... in the same order.
  static FieldKind Choice(std::vector<std::string> words);
  static FieldKind Text();
  // The path of `what`: "a socket". An empty member is unset.
  static FieldKind Path(std::string what);

  Unit unit() const { return unit_; }
  // Of a switch and a choice, in the order of their values.
  const std::vector<std::string>& words() const { return words_; }

  // "must be 1 to 64", "must be one of a, b": which values are valid.
  std::string Rule() const;
  bool IsValid(const FieldValue& value) const;
  // The value that `text` stands for. The error's message is the rule that
  // `text` breaks, as OptionError takes it.
  absl::StatusOr<FieldValue> Parse(std::string_view text) const;
  // The inverse of Parse. Bytes are written exactly, in the largest unit that
  // allows it: "64MiB", "4097". REQUIRES: `value` is of this unit.
  std::string Format(const FieldValue& value) const;

 private:
  FieldKind(Unit unit, FieldValue low, FieldValue high)
      : unit_(unit), low_(std::move(low)), high_(std::move(high)) {}

  Unit unit_;
  FieldValue low_;
  FieldValue high_;
  std::vector<std::string> words_;
  std::string what_;  // of a path
};

namespace fields_internal {

template <typename Member>
struct Unwrapped {
  using Type = Member;
};
template <typename Member>
struct Unwrapped<std::optional<Member>> {
  using Type = Member;
};

// Nanoseconds as a field's value. Beyond the range of Nanoseconds: its end; NaN
// is the upper one, which no field allows.
FieldValue SecondsValue(double seconds);

template <typename Value>
FieldValue ToFieldValue(const Value& value, FieldKind::Unit unit) {
  if constexpr (std::is_same_v<Value, Nanoseconds>) {
    return static_cast<uint64_t>(value.count());
  } else if constexpr (std::is_same_v<Value, Order>) {
    return value.bits();
  } else if constexpr (std::is_same_v<Value, double>) {
    if (unit == FieldKind::Unit::kSeconds) return SecondsValue(value);
    return value;
  } else if constexpr (std::is_same_v<Value, std::string>) {
    return value;
  } else {
    return static_cast<uint64_t>(value);
  }
}

template <typename Value>
Value FromFieldValue(const FieldValue& value, FieldKind::Unit unit) {
  if constexpr (std::is_same_v<Value, Nanoseconds>) {
    return Nanoseconds(static_cast<int64_t>(std::get<uint64_t>(value)));
  } else if constexpr (std::is_same_v<Value, Order>) {
    return Order(static_cast<int>(std::get<uint64_t>(value)));
  } else if constexpr (std::is_same_v<Value, double>) {
    if (unit != FieldKind::Unit::kSeconds) return std::get<double>(value);
    return static_cast<double>(std::get<uint64_t>(value)) / 1e9;
  } else if constexpr (std::is_same_v<Value, std::string>) {
    return std::get<std::string>(value);
  } else {
    return static_cast<Value>(std::get<uint64_t>(value));
  }
}

// True if a member of type Value can have this unit.
template <typename Value>
constexpr bool Holds(FieldKind::Unit unit) {
  using Unit = FieldKind::Unit;
  if constexpr (std::is_same_v<Value, Nanoseconds>) {
    return unit == Unit::kSeconds;
  } else if constexpr (std::is_same_v<Value, Order>) {
    return unit == Unit::kOrder || unit == Unit::kGranule;
  } else if constexpr (std::is_same_v<Value, double>) {
    return unit == Unit::kNumber || unit == Unit::kSeconds;
  } else if constexpr (std::is_same_v<Value, std::string>) {
    return unit == Unit::kText || unit == Unit::kPath;
  } else if constexpr (std::is_same_v<Value, bool>) {
    return unit == Unit::kSwitch;
  } else if constexpr (std::is_enum_v<Value>) {
    return unit == Unit::kChoice;
  } else {
    return unit == Unit::kCount || unit == Unit::kBytes;
  }
}

// Functions from a struct to its member, and to a member of its member.
template <typename T, typename Member>
struct Access {
  Member T::*member;

  Member& operator()(T& options) const { return options.*member; }
  const Member& operator()(const T& options) const { return options.*member; }
};
template <typename T, typename Inner, typename Member>
struct InnerAccess {
  Inner T::*inner;
  Member Inner::*member;

  Member& operator()(T& options) const { return options.*inner.*member; }
  const Member& operator()(const T& options) const {
    return options.*inner.*member;
  }
};

// Converts to the type of any member but a T.
template <typename T>
struct AnyMember {
  template <typename Member>
  requires(!std::same_as<Member, T>)
  // Never called. Defined, since a T of an anonymous namespace makes this one
  // of internal linkage. NOLINTNEXTLINE(google-explicit-constructor)
  operator Member() const {
    __builtin_unreachable();
  }
};

template <typename T, typename... Members>
consteval size_t CountMembers() {
  if constexpr (requires { T{Members{}..., AnyMember<T>{}}; }) {
    return CountMembers<T, Members..., AnyMember<T>>();
  } else {
    return sizeof...(Members);
  }
}

}  // namespace fields_internal

// The number of members of an aggregate without base classes and arrays. A test
// compares it to the size of the struct's Fields.
template <typename T>
inline constexpr size_t kMemberCount = fields_internal::CountMembers<T>();

// One member of T: an integer, Nanoseconds, Order, double (a number or
// seconds), bool, an enum or std::string, or an optional of those.
template <typename T>
class Field {
 public:
  // `name` is the option as the command line spells it, without dashes. `text`
  // is one line of help, without a full stop. `unset`: the word that stands for
  // an optional without a value; "": no word does. REQUIRES: `kind` fits the
  // member's type (CHECKed).
  template <typename Member>
  Field(std::string name, Member T::*member, FieldKind kind, std::string text,
        std::string unset = "")
      : Field(fields_internal::Access<T, Member>{member}, std::move(name),
              std::move(kind), std::move(text), std::move(unset)) {}
  // A member of a struct in T.
  template <typename Inner, typename Member>
  Field(std::string name, Inner T::*inner, Member Inner::*member,
        FieldKind kind, std::string text)
      : Field(fields_internal::InnerAccess<T, Inner, Member>{inner, member},
              std::move(name), std::move(kind), std::move(text), "") {}

  const std::string& name() const { return name_; }
  const std::string& text() const { return text_; }
  const FieldKind& kind() const { return kind_; }
  const std::string& unset() const { return unset_; }

  // None if the member is an unset optional, or an empty path.
  std::optional<FieldValue> Get(const T& options) const {
    return get_(options);
  }
  // REQUIRES: kind().IsValid(value) (CHECKed).
  void Set(T& options, const FieldValue& value) const {
    GUESTMM_CHECK(kind_.IsValid(value)) << name_ << " " << kind_.Rule();
    set_(options, value);
  }
  // True if Get may return none.
  bool CanBeUnset() const { return clear_ != nullptr; }
  // REQUIRES: CanBeUnset().
  void Unset(T& options) const { clear_(options); }

  // "must be 1 to 64, or max": kind().Rule() and the word for unset.
  std::string Rule() const { return WithUnset(kind_.Rule()); }
  // Parses and sets. The error's message is the rule that `text` breaks; the
  // options are then unchanged.
  absl::Status Parse(T& options, std::string_view text) const {
    if (!unset_.empty() && text == unset_) {
      Unset(options);
      return absl::OkStatus();
    }
    const absl::StatusOr<FieldValue> value = kind_.Parse(text);
    if (!value.ok()) {
      return absl::InvalidArgumentError(
          WithUnset(absl::StrCat(value.status().message())));
    }
    set_(options, *value);
    return absl::OkStatus();
  }
  // As Parse takes it. If unset: the word for that, or "".
  std::string Format(const T& options) const {
    const std::optional<FieldValue> value = get_(options);
    return value ? kind_.Format(*value) : unset_;
  }

 private:
  // `member`: an Access or InnerAccess.
  template <typename MemberOf>
  Field(MemberOf member, std::string name, FieldKind kind, std::string text,
        std::string unset)
      : name_(std::move(name)),
        text_(std::move(text)),
        kind_(std::move(kind)),
        unset_(std::move(unset)) {
    using Member = std::remove_cvref_t<std::invoke_result_t<MemberOf, T&>>;
    using Value = typename fields_internal::Unwrapped<Member>::Type;
    const FieldKind::Unit unit = kind_.unit();
    GUESTMM_CHECK(fields_internal::Holds<Value>(unit))
        << "field " << name_ << " is not of its member's unit";
    get_ = [member, unit](const T& options) -> std::optional<FieldValue> {
      const Member& value = member(options);
      if constexpr (!std::is_same_v<Member, Value>) {
        if (!value.has_value()) return std::nullopt;
        return fields_internal::ToFieldValue(*value, unit);
      } else {
        if constexpr (std::is_same_v<Member, std::string>) {
          if (unit == FieldKind::Unit::kPath && value.empty()) {
            return std::nullopt;
          }
        }
        return fields_internal::ToFieldValue(value, unit);
      }
    };
    set_ = [member, unit](T& options, const FieldValue& value) {
      member(options) = fields_internal::FromFieldValue<Value>(value, unit);
    };
    if (!std::is_same_v<Member, Value> || unit == FieldKind::Unit::kPath) {
      clear_ = [member](T& options) { member(options) = Member(); };
    }
    GUESTMM_CHECK(unset_.empty() || CanBeUnset())
        << "field " << name_ << " cannot be \"" << unset_ << "\"";
  }

  std::string WithUnset(const std::string& rule) const {
    return unset_.empty() ? rule : rule + ", or " + unset_;
  }

  std::string name_;
  std::string text_;
  FieldKind kind_;
  std::string unset_;
  std::function<std::optional<FieldValue>(const T&)> get_;
  std::function<void(T&, const FieldValue&)> set_;
  std::function<void(T&)> clear_;
};

// The members of T that have fields, in the order in which users read them.
template <typename T>
class Fields {
 public:
  Fields(std::initializer_list<Field<T>> fields) : fields_(fields) {}

  auto begin() const { return fields_.begin(); }
  auto end() const { return fields_.end(); }
  size_t size() const { return fields_.size(); }
  const Field<T>& operator[](size_t index) const { return fields_[index]; }

  // Null if there is none.
  const Field<T>* Find(std::string_view name) const {
    for (const Field<T>& field : fields_) {
      if (field.name() == name) return &field;
    }
    return nullptr;
  }
  std::vector<std::string> Names() const {
    std::vector<std::string> names;
    for (const Field<T>& field : fields_) names.push_back(field.name());
    return names;
  }

  // Sets the field `name` from its text. An OptionError if `text` is not one of
  // its values, and then the options are unchanged; NotFound if there is no
  // such field.
  absl::Status Set(T& options, std::string_view name,
                   std::string_view text) const {
    const Field<T>* const field = Find(name);
    if (field == nullptr) {
      return absl::NotFoundError("no option --" + std::string(name));
    }
    const absl::Status status = field->Parse(options, text);
    if (status.ok()) return status;
    return OptionError(name, text, absl::StrCat(status.message()));
  }

  // The text of the field `name`. REQUIRES: there is one (CHECKed).
  std::string Format(const T& options, std::string_view name) const {
    const Field<T>* const field = Find(name);
    GUESTMM_CHECK(field != nullptr) << "no field " << name;
    return field->Format(options);
  }

  // An OptionError for the first field that is out of bounds.
  absl::Status Check(const T& options) const {
    for (const Field<T>& field : fields_) {
      const std::optional<FieldValue> value = field.Get(options);
      if (value && !field.kind().IsValid(*value)) {
        return OptionError(field.name(), field.Format(options), field.Rule());
      }
    }
    return absl::OkStatus();
  }

 private:
  std::vector<Field<T>> fields_;
};

}  // namespace guestmm

#endif  // GUESTMM_BASE_FIELDS_H_
