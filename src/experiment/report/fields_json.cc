#include "src/experiment/report/fields_json.h"

#include <variant>

namespace guestmm {

using Unit = FieldKind::Unit;

nlohmann::ordered_json FieldJson(const FieldKind& kind,
                                 const std::optional<FieldValue>& value) {
  if (!value) return nullptr;
  switch (kind.unit()) {
    case Unit::kSwitch:
      return std::get<uint64_t>(*value) != 0;
    case Unit::kGranule:
    case Unit::kChoice:
    case Unit::kText:
    case Unit::kPath:
      return kind.Format(*value);
    case Unit::kNumber:
      return std::get<double>(*value);
    case Unit::kSeconds:
      return static_cast<double>(std::get<uint64_t>(*value)) / 1e9;
    case Unit::kCount:
    case Unit::kBytes:
    case Unit::kOrder:
      break;
  }
  return std::get<uint64_t>(*value);
}

std::optional<std::string> FieldText(const FieldKind& kind,
                                     const nlohmann::ordered_json& json) {
  if (json.is_string()) return json.get<std::string>();
  switch (kind.unit()) {
    case Unit::kSwitch:
      if (!json.is_boolean()) return std::nullopt;
      return kind.Format(uint64_t{json.get<bool>()});
    case Unit::kCount:
    case Unit::kBytes:
    case Unit::kSeconds:
    case Unit::kOrder:
    case Unit::kNumber:
      if (!json.is_number()) return std::nullopt;
      // The shortest text that is read back as the same number.
      return json.dump();
    case Unit::kGranule:
    case Unit::kChoice:
    case Unit::kText:
    case Unit::kPath:
      break;
  }
  return std::nullopt;
}

}  // namespace guestmm
