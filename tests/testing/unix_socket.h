#ifndef GUESTMM_TESTS_TESTING_UNIX_SOCKET_H_
#define GUESTMM_TESTS_TESTING_UNIX_SOCKET_H_

#include <sys/socket.h>
#include <sys/un.h>

#include <string>
#include <utility>

#include "guestmm/base/unique_fd.h"
#include "src/base/unix_socket.h"

namespace guestmm {

// A Unix stream socket after `call`, bind or connect, with `path`; invalid if
// it failed. `flags` are those of socket().
inline UniqueFd UnixSocketAfter(int (*call)(int, const sockaddr*, socklen_t),
                                const std::string& path,
                                int flags = SOCK_CLOEXEC) {
  UniqueFd fd(socket(AF_UNIX, SOCK_STREAM | flags, 0));
  const sockaddr_un address = UnixAddress(path).value();
  return call(fd.get(), reinterpret_cast<const sockaddr*>(&address),
              sizeof(address)) == 0
             ? std::move(fd)
             : UniqueFd();
}

}  // namespace guestmm

#endif  // GUESTMM_TESTS_TESTING_UNIX_SOCKET_H_
