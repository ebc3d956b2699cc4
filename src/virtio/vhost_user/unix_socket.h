#ifndef GUESTMM_SRC_VIRTIO_VHOST_USER_UNIX_SOCKET_H_
#define GUESTMM_SRC_VIRTIO_VHOST_USER_UNIX_SOCKET_H_

#include <sys/socket.h>
#include <sys/un.h>

#include <cerrno>
#include <cstring>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_format.h"

namespace guestmm {

// Unavailable: `what` failed, and why (errno).
inline absl::Status SystemError(const std::string& what) {
  return absl::UnavailableError(
      absl::StrFormat("%s failed: %s", what, std::strerror(errno)));
}

// The address of the Unix socket at `path`. InvalidArgument if it is empty or
// too long for one.
inline absl::StatusOr<sockaddr_un> UnixAddress(const std::string& path) {
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  if (path.empty() || path.size() >= sizeof(address.sun_path)) {
    return absl::InvalidArgumentError(
        absl::StrFormat("socket \"%s\": a path of %d bytes: allowed is 1 to %d",
                        path, path.size(), sizeof(address.sun_path) - 1));
  }
  path.copy(static_cast<char*>(address.sun_path), path.size());
  return address;
}

}  // namespace guestmm

#endif  // GUESTMM_SRC_VIRTIO_VHOST_USER_UNIX_SOCKET_H_
