#include "guestmm/vmm/control/client.h"

#include <sys/socket.h>
#include <sys/time.h>
#include <sys/types.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdint>
#include <string_view>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "guestmm/base/unique_fd.h"
#include "guestmm/base/units.h"
#include "guestmm/virtio/wire/virtio_device.h"
#include "nlohmann/json.hpp"
#include "src/base/unix_socket.h"

namespace guestmm {
namespace {

using nlohmann::ordered_json;

// For each system call. The control socket's thread answers at once.
constexpr timeval kPatience = {.tv_sec = 10, .tv_usec = 0};

// A device's status (virtio 1.3 §2.1), in a word.
std::string StatusWords(uint64_t status) {
  if ((status & kVirtioNeedsReset) != 0) return "a queue is broken";
  if ((status & kVirtioFailed) != 0) return "the driver has failed";
  if ((status & kVirtioDriverOk) != 0) return "running";
  return "no driver yet";
}

// A value as a person reads it.
std::string CellOf(const std::string& key, const ordered_json& value) {
  if (value.is_boolean()) return value.get<bool>() ? "yes" : "no";
  if (value.is_string()) return value.get<std::string>();
  if (value.is_number_unsigned()) {
    const auto number = value.get<uint64_t>();
    if (absl::EndsWith(key, "_bytes")) return FormatBytes(number);
    if (key == "device_status") return StatusWords(number);
    if (absl::EndsWith(key, "_rate")) {
      return number == 0 ? "no limit" : FormatBytes(number) + "/s";
    }
  }
  return value.dump();
}

std::string WithSpaces(std::string text) {
  for (char& c : text) c = c == '_' ? ' ' : c;
  return text;
}

// Appends the values of `from` to `flat`. Of objects in it, such as counters,
// those that are not 0 and not there yet.
void Flatten(const ordered_json& from, ordered_json& flat) {
  for (const auto& [key, value] : from.items()) {
    if (!value.is_object()) {
      flat[key] = value;
      continue;
    }
    for (const auto& [inner, count] : value.items()) {
      if (count.is_number() && count != 0 && !flat.contains(inner)) {
        flat[inner] = count;
      } else if (count.is_object()) {
        Flatten({{key, count}}, flat);
      }
    }
  }
}

void AddRows(const ordered_json& nested, ControlReply& reply) {
  ordered_json guests = ordered_json::array();
  for (const ordered_json& guest : nested) {
    Flatten(guest, guests.emplace_back(ordered_json::object()));
  }
  // Guests may have different keys: statistics, for example.
  std::vector<std::string> keys;
  for (const ordered_json& guest : guests) {
    for (const auto& [key, value] : guest.items()) {
      if (value.is_structured() ||
          std::find(keys.begin(), keys.end(), key) != keys.end()) {
        continue;
      }
      keys.push_back(key);
    }
  }
  for (const std::string& key : keys) {
    reply.headings.push_back(
        WithSpaces(std::string(absl::StripSuffix(key, "_bytes"))));
  }
  for (const ordered_json& guest : guests) {
    std::vector<std::string>& row = reply.rows.emplace_back();
    for (const std::string& key : keys) {
      row.push_back(guest.contains(key) ? CellOf(key, guest[key]) : "-");
    }
  }
}

}  // namespace

absl::StatusOr<std::string> AskControl(const std::string& path,
                                       const ControlRequest& request) {
  const absl::StatusOr<sockaddr_un> address = UnixAddress(path);
  if (!address.ok()) return address.status();
  const auto failed = [&](const char* call) {
    return SystemError(absl::StrCat(path, ": ", call));
  };
  const UniqueFd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!fd.valid()) return failed("socket");
  for (const int direction : {SO_RCVTIMEO, SO_SNDTIMEO}) {
    setsockopt(fd.get(), SOL_SOCKET, direction, &kPatience, sizeof(kPatience));
  }
  if (connect(fd.get(), reinterpret_cast<const sockaddr*>(&*address),
              sizeof(*address)) != 0) {
    return failed("connect");
  }
  std::string line = FormatControlRequest(request) + "\n";
  while (!line.empty()) {
    const ssize_t sent = send(fd.get(), line.data(), line.size(), MSG_NOSIGNAL);
    if (sent < 0 && errno == EINTR) continue;
    if (sent < 0) return failed("send");
    line.erase(0, static_cast<size_t>(sent));
  }
  std::string reply;
  std::array<char, 4096> piece;
  while (!absl::EndsWith(reply, "\n")) {
    const ssize_t got = recv(fd.get(), piece.data(), piece.size(), 0);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return failed("recv");
    if (got == 0) {
      return absl::UnavailableError(
          absl::StrCat(path, ": the other side closed the connection"));
    }
    reply.append(piece.data(), static_cast<size_t>(got));
  }
  reply.pop_back();
  return reply;
}

absl::StatusOr<ControlReply> ParseControlReply(const std::string& line) {
  const ordered_json json =
      ordered_json::parse(line, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object() || !json.contains("ok")) {
    return absl::InternalError("reply: must be a JSON object with \"ok\"");
  }
  if (json["ok"] != true) {
    const auto error = json.find("error");
    return absl::FailedPreconditionError(
        error != json.end() && error->is_string()
            ? error->get<std::string>()
            : "the request was refused, without a reason");
  }
  ControlReply reply;
  for (const auto& [key, value] : json.items()) {
    if (key == "ok") continue;
    if (key == "metrics" && value.is_string()) {
      reply.metrics = value.get<std::string>();
    } else if (key == "guests" && value.is_array()) {
      AddRows(value, reply);
    } else if (!value.is_structured()) {
      reply.values.emplace_back(WithSpaces(key), CellOf(key, value));
    }
  }
  return reply;
}

}  // namespace guestmm
