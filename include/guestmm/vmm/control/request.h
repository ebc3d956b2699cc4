#ifndef GUESTMM_VMM_CONTROL_REQUEST_H_
#define GUESTMM_VMM_CONTROL_REQUEST_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "guestmm/base/export.h"

namespace GUESTMM_EXPORT guestmm {

// A request to a VMM's control socket: one JSON object in a line.
//
//   {"command": "target", "guest": 1, "bytes": 1073741824}
//
// docs/vmm.md has the commands and their replies.
struct ControlRequest {
  std::string command;
  std::optional<uint64_t> guest = {};   // unset: all
  std::string action = {};              // of hint: start, stop, progress
  std::optional<uint64_t> bytes = {};   // of target and rate
  std::optional<double> interval = {};  // of statistics: seconds; 0: none
  bool request = false;  // of statistics: ask the guest for new ones

  bool operator==(const ControlRequest&) const = default;
};

// InvalidArgument, naming the command and the key, if the line is no request:
// "target: bytes: must be a whole number".
absl::StatusOr<ControlRequest> ParseControlRequest(std::string_view line);
// The line, without its end.
std::string FormatControlRequest(const ControlRequest& request);

}  // namespace guestmm

#endif  // GUESTMM_VMM_CONTROL_REQUEST_H_
