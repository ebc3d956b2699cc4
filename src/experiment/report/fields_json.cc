#include "src/experiment/report/fields_json.h"

namespace guestmm {

nlohmann::ordered_json FieldJson(const FieldKind& kind,
                                 const std::optional<FieldValue>& value) {
  if (!value) return nullptr;
  switch (kind.unit()) {
    case FieldKind::Unit::kSwitch:
      return std::get<uint64_t>(*value) != 0;
    case FieldKind::Unit::kChoice:
    case FieldKind::Unit::kText:
      return kind.Format(*value);
    case FieldKind::Unit::kNumber:
      return std::get<double>(*value);
    case FieldKind::Unit::kCount:
    case FieldKind::Unit::kBytes:
    case FieldKind::Unit::kSeconds:
    case FieldKind::Unit::kOrder:
      break;
  }
  return std::get<uint64_t>(*value);
}

std::optional<FieldValue> FieldFromJson(const FieldKind& kind,
                                        const nlohmann::ordered_json& json) {
  switch (kind.unit()) {
    case FieldKind::Unit::kSwitch:
      if (!json.is_boolean()) return std::nullopt;
      return uint64_t{json.get<bool>()};
    case FieldKind::Unit::kChoice: {
      if (!json.is_string()) return std::nullopt;
      const absl::StatusOr<FieldValue> value =
          kind.Parse(json.get<std::string>());
      return value.ok() ? std::optional(*value) : std::nullopt;
    }
    case FieldKind::Unit::kText:
      if (!json.is_string()) return std::nullopt;
      return json.get<std::string>();
    case FieldKind::Unit::kNumber:
      if (!json.is_number()) return std::nullopt;
      return json.get<double>();
    case FieldKind::Unit::kCount:
    case FieldKind::Unit::kBytes:
    case FieldKind::Unit::kSeconds:
    case FieldKind::Unit::kOrder:
      break;
  }
  if (!json.is_number_unsigned()) return std::nullopt;
  return json.get<uint64_t>();
}

}  // namespace guestmm
