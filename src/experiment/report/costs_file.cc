#include "guestmm/experiment/report/costs_file.h"

#include <cerrno>
#include <cstring>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "guestmm/base/units.h"
#include "src/experiment/report/fields_json.h"

namespace guestmm {

std::string CostsJson(const CostModel& costs) {
  const nlohmann::ordered_json json = {
      {"costs_ns", FieldsJson(CostFields(), costs)}};
  return json.dump(2) + "\n";
}

absl::StatusOr<CostModel> ParseCosts(std::string_view file,
                                     std::string_view text) {
  const auto json = nlohmann::ordered_json::parse(text, nullptr,
                                                  /*allow_exceptions=*/false);
  if (!json.is_object() || !json.contains("costs_ns") ||
      !json["costs_ns"].is_object()) {
    return absl::InvalidArgumentError(
        absl::StrCat(std::string(file),
                     ": must be an object with the object \"costs_ns\", as "
                     "guestmm calibrate writes it"));
  }
  CostModel costs;
  const absl::Status status =
      FieldsFromJson(CostFields(), "costs_ns", json["costs_ns"], costs);
  if (!status.ok()) {
    return absl::InvalidArgumentError(
        absl::StrCat(std::string(file), ": ", status.message()));
  }
  return costs;
}

absl::StatusOr<CostModel> ReadCosts(const std::string& file) {
  // More than any such file has. /dev/zero never ends.
  constexpr size_t kMostBytes = 64 * kKiB;
  errno = 0;
  std::ifstream stream(file);
  std::string text(kMostBytes + 1, '\0');
  stream.read(text.data(), static_cast<std::streamsize>(text.size()));
  text.resize(static_cast<size_t>(stream.gcount()));
  if (!stream && (!stream.eof() || text.empty())) {
    return absl::NotFoundError(absl::StrCat(
        file, ": cannot be read",
        errno == 0 ? "" : absl::StrCat(": ", std::strerror(errno))));
  }
  if (text.size() > kMostBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat(file, ": must be at most ", FormatBytes(kMostBytes)));
  }
  return ParseCosts(file, text);
}

}  // namespace guestmm
