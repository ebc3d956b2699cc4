#ifndef GUESTMM_SRC_EXPERIMENT_REPORT_FIELDS_JSON_H_
#define GUESTMM_SRC_EXPERIMENT_REPORT_FIELDS_JSON_H_

// Options structs as JSON, by their Fields: numbers (times in nanoseconds) for
// counts, bytes, seconds, orders and numbers; booleans for switches; strings
// for choices and text; null for what is unset.

#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "guestmm/base/fields.h"
#include "nlohmann/json.hpp"

namespace guestmm {

// `value` of a field of that kind.
nlohmann::ordered_json FieldJson(const FieldKind& kind,
                                 const std::optional<FieldValue>& value);

// The inverse, but for null. None if `json` has another type; the value may be
// out of bounds.
std::optional<FieldValue> FieldFromJson(const FieldKind& kind,
                                        const nlohmann::ordered_json& json);

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
      return absl::InvalidArgumentError(absl::StrCat(
          where, ": must be one of ", absl::StrJoin(fields.Names(), ", ")));
    }
    const std::optional<FieldValue> its = FieldFromJson(field->kind(), value);
    if (!its || !field->kind().IsValid(*its)) {
      return absl::InvalidArgumentError(
          absl::StrCat(where, "=", value.dump(), ": ", field->kind().Rule()));
    }
    field->Set(options, *its);
  }
  return absl::OkStatus();
}

}  // namespace guestmm

#endif  // GUESTMM_SRC_EXPERIMENT_REPORT_FIELDS_JSON_H_
