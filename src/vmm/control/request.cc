#include "guestmm/vmm/control/request.h"

#include <cmath>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "nlohmann/json.hpp"

namespace guestmm {
namespace {

using nlohmann::ordered_json;

constexpr double kMostSeconds = 86'400;

// What a command takes.
struct Command {
  std::string_view name;
  std::vector<std::string_view> keys;
  // Of these, the one that must be there; empty for none.
  std::string_view needed = {};
};

const std::vector<Command>& Commands() {
  static const std::vector<Command> commands = {
      {"status", {"guest"}},
      {"target", {"guest", "bytes"}, "bytes"},
      {"hint", {"guest", "action"}, "action"},
      {"statistics", {"guest", "interval", "request"}},
      {"hold", {"guest"}},
      {"resume", {"guest"}},
      {"rate", {"guest", "bytes"}, "bytes"},
      {"metrics", {}}};
  return commands;
}

absl::Status Wrong(std::string_view where, std::string_view rule) {
  return absl::InvalidArgumentError(
      absl::StrCat(std::string(where), ": must be ", std::string(rule)));
}

absl::Status SetNumber(const ordered_json& value, const std::string& where,
                       std::optional<uint64_t>& number) {
  if (!value.is_number_unsigned()) return Wrong(where, "a whole number");
  number = value.get<uint64_t>();
  return absl::OkStatus();
}

// Sets `key`, which the command takes. `where`: "target: bytes".
absl::Status SetKey(const std::string& key, const ordered_json& value,
                    const std::string& where, ControlRequest& request) {
  if (key == "guest") return SetNumber(value, where, request.guest);
  if (key == "bytes") return SetNumber(value, where, request.bytes);
  if (key == "action") {
    if (value.is_string()) request.action = value.get<std::string>();
    for (const std::string_view word : {"start", "stop", "progress"}) {
      if (request.action == word) return absl::OkStatus();
    }
    return Wrong(where, "start, stop or progress");
  }
  if (key == "interval") {
    if (value.is_number()) request.interval = value.get<double>();
    constexpr double kLeastSeconds = 0.1;
    if (request.interval && *request.interval <= kMostSeconds &&
        (*request.interval == 0 || *request.interval >= kLeastSeconds)) {
      return absl::OkStatus();
    }
    return Wrong(where, "0, or 0.1 to 86400 seconds");
  }
  if (!value.is_boolean()) return Wrong(where, "true or false");
  request.request = value.get<bool>();
  return absl::OkStatus();
}

const Command* FindCommand(const std::string& name) {
  for (const Command& command : Commands()) {
    if (command.name == name) return &command;
  }
  return nullptr;
}

}  // namespace

absl::StatusOr<ControlRequest> ParseControlRequest(std::string_view line) {
  const ordered_json json =
      ordered_json::parse(line, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) return Wrong("line", "one JSON object");
  ControlRequest request;
  const auto named = json.find("command");
  if (named != json.end() && named->is_string()) {
    request.command = named->get<std::string>();
  }
  const Command* const command = FindCommand(request.command);
  if (command == nullptr) {
    std::vector<std::string> names;
    for (const Command& known : Commands()) names.emplace_back(known.name);
    return Wrong("command", "one of " + absl::StrJoin(names, ", "));
  }
  bool has_needed = command->needed.empty();
  for (const auto& [key, value] : json.items()) {
    if (key == "command") continue;
    bool is_known = false;
    for (const std::string_view known : command->keys) is_known |= known == key;
    const std::string where = request.command + ": " + key;
    if (!is_known) {
      const std::vector<std::string> keys(command->keys.begin(),
                                          command->keys.end());
      return keys.empty() ? Wrong(where, "left out")
                          : Wrong(where, "one of " + absl::StrJoin(keys, ", "));
    }
    absl::Status status = SetKey(key, value, where, request);
    if (!status.ok()) return status;
    has_needed |= key == command->needed;
  }
  if (!has_needed) {
    return Wrong(request.command + ": " + std::string(command->needed),
                 "given");
  }
  return request;
}

std::string FormatControlRequest(const ControlRequest& request) {
  ordered_json json = {{"command", request.command}};
  if (request.guest) json["guest"] = *request.guest;
  if (!request.action.empty()) json["action"] = request.action;
  if (request.bytes) json["bytes"] = *request.bytes;
  if (request.interval) json["interval"] = *request.interval;
  if (request.request) json["request"] = true;
  return json.dump(-1, ' ', false, ordered_json::error_handler_t::replace);
}

}  // namespace guestmm
