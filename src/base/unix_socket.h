#ifndef GUESTMM_SRC_BASE_UNIX_SOCKET_H_
#define GUESTMM_SRC_BASE_UNIX_SOCKET_H_

#include <sys/socket.h>
#include <sys/un.h>

#include <cerrno>
#include <cstring>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_format.h"

namespace guestmm {

// Unavailable: "`what` failed: <errno as text>".
inline absl::Status SystemError(const std::string& what) {
  return absl::UnavailableError(
      absl::StrFormat("%s failed: %s", what, std::strerror(errno)));
}

// The address of the Unix socket at `path`. InvalidArgument if `path` is empty
// or longer than sun_path.
inline absl::StatusOr<sockaddr_un> UnixAddress(const std::string& path) {
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  if (path.empty() || path.size() >= sizeof(address.sun_path)) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "%s: must be 1 to %d bytes long, not %d", path.empty() ? "\"\"" : path,
        sizeof(address.sun_path) - 1, path.size()));
  }
  path.copy(static_cast<char*>(address.sun_path), path.size());
  return address;
}

}  // namespace guestmm

#endif  // GUESTMM_SRC_BASE_UNIX_SOCKET_H_
