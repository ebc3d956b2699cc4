#ifndef GUESTMM_SRC_EXPERIMENT_REPORT_FIELDS_JSON_H_
#define GUESTMM_SRC_EXPERIMENT_REPORT_FIELDS_JSON_H_

// Options structs as JSON, by their Fields: numbers for counts, bytes, seconds,
// orders and numbers; booleans for switches; strings for granules, choices,
// text and paths; null for what is unset. Names are those of the command line.
//
//   {"guest-memory": 268435456, "granule": "2MiB", "rest": 0.5, "vcpus": null}

#include <optional>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "guestmm/base/check.h"
#include "guestmm/base/choices.h"
#include "guestmm/base/fields.h"
#include "nlohmann/json.hpp"

namespace guestmm {

// `value` of a field of that kind.
nlohmann::ordered_json FieldJson(const FieldKind& kind,
                                 const std::optional<FieldValue>& value);

// The text of the value that `json`, which is not null, stands for, as the
// field's Parse takes it. A string stands for its text in any kind: "256MiB".
// None if `json` has a type that the kind has not.
std::optional<std::string> FieldText(const FieldKind& kind,
                                     const nlohmann::ordered_json& json);

// The field `name`. REQUIRES: there is one (CHECKed).
template <typename T>
nlohmann::ordered_json FieldJson(const Fields<T>& fields, const T& options,
                                 std::string_view name) {
  const Field<T>* const field = fields.Find(name);
  GUESTMM_CHECK(field != nullptr) << "no field " << name;
  return FieldJson(field->kind(), field->Get(options));
}

// {"NAME": VALUE, ...}: every field, in order.
template <typename T>
nlohmann::ordered_json FieldsJson(const Fields<T>& fields, const T& options) {
  auto json = nlohmann::ordered_json::object();
  for (const Field<T>& field : fields) {
    json[field.name()] = FieldJson(field.kind(), field.Get(options));
  }
  return json;
}

// Sets the fields that `json` has; the others keep their values.
// InvalidArgument names `place` and the field: "costs_ns.exit=-1: must be 0 to
// 10". REQUIRES: json.is_object().
template <typename T>
absl::Status FieldsFromJson(const Fields<T>& fields, std::string_view place,
                            const nlohmann::ordered_json& json, T& options) {
  for (const auto& [name, value] : json.items()) {
    const std::string where = absl::StrCat(std::string(place), ".", name);
    const Field<T>* const field = fields.Find(name);
    if (field == nullptr) {
      return absl::InvalidArgumentError(
          absl::StrCat(where, ": ", MustBeOneOf(name, fields.Names())));
    }
    if (value.is_null() && field->CanBeUnset()) {
      field->Unset(options);
      continue;
    }
    const std::optional<std::string> text = FieldText(field->kind(), value);
    const absl::Status status = text
                                    ? field->Parse(options, *text)
                                    : absl::InvalidArgumentError(field->Rule());
    if (!status.ok()) {
      return absl::InvalidArgumentError(
          absl::StrCat(where, "=", value.dump(), ": ", status.message()));
    }
  }
  return absl::OkStatus();
}

}  // namespace guestmm

#endif  // GUESTMM_SRC_EXPERIMENT_REPORT_FIELDS_JSON_H_
