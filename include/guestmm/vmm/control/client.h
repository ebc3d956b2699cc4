#ifndef GUESTMM_VMM_CONTROL_CLIENT_H_
#define GUESTMM_VMM_CONTROL_CLIENT_H_

#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "guestmm/base/export.h"
#include "guestmm/vmm/control/request.h"

namespace GUESTMM_EXPORT guestmm {

// Sends a request to the control socket at `path`, and returns the line of its
// reply. Unavailable, naming the path, if nobody listens or replies there.
absl::StatusOr<std::string> AskControl(const std::string& path,
                                       const ControlRequest& request);

// A reply for people: single values, then a row for each guest. Sizes have
// units, and what is nested is left out.
struct ControlReply {
  std::vector<std::pair<std::string, std::string>> values;
  std::vector<std::string> headings;
  std::vector<std::vector<std::string>> rows;
  // Of the request `metrics`.
  std::string metrics;
};

// FailedPrecondition, with the reply's error, if the request was refused;
// Internal if the line is no reply.
absl::StatusOr<ControlReply> ParseControlReply(const std::string& line);

}  // namespace guestmm

#endif  // GUESTMM_VMM_CONTROL_CLIENT_H_
