#include "guestmm/base/unix_listener.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "src/base/unix_socket.h"

namespace guestmm {
namespace {

// The inode of the socket at `path`; nullopt if there is none.
std::optional<ino_t> SocketInode(const std::string& path) {
  struct stat file = {};
  if (lstat(path.c_str(), &file) != 0 || !S_ISSOCK(file.st_mode)) {
    return std::nullopt;
  }
  return file.st_ino;
}

UniqueFd MakeSocket() {
  return UniqueFd(
      socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
}

}  // namespace

UnixPeer PeerOf(int socket) {
  ucred peer = {};
  socklen_t length = sizeof(peer);
  if (getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &peer, &length) != 0) {
    return {};
  }
  return {.pid = peer.pid, .uid = peer.uid, .gid = peer.gid};
}

bool IsUnixStream(int fd, bool listens) {
  const auto has = [fd](int option, int wanted) {
    int value = 0;
    socklen_t length = sizeof(value);
    return getsockopt(fd, SOL_SOCKET, option, &value, &length) == 0 &&
           value == wanted;
  };
  return has(SO_DOMAIN, AF_UNIX) && has(SO_TYPE, SOCK_STREAM) &&
         has(SO_ACCEPTCONN, listens ? 1 : 0);
}

absl::StatusOr<UnixListener> UnixListener::Adopt(UniqueFd socket) {
  if (!IsUnixStream(socket.get(), /*listens=*/true)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "fd ", socket.get(), ": must be a Unix stream socket that listens"));
  }
  if (fcntl(socket.get(), F_SETFD, FD_CLOEXEC) != 0 ||
      fcntl(socket.get(), F_SETFL, O_NONBLOCK) != 0) {
    return SystemError("fcntl");
  }
  UnixListener listener;
  listener.socket_ = std::move(socket);
  return listener;
}

absl::StatusOr<UnixListener> UnixListener::Listen(
    const std::string& path, const UnixListenerOptions& options) {
  const absl::StatusOr<sockaddr_un> address = UnixAddress(path);
  if (!address.ok()) return address.status();
  const auto* const generic = reinterpret_cast<const sockaddr*>(&*address);
  const auto failed = [&](const char* call) {
    return SystemError(absl::StrCat(path, ": ", call));
  };
  UnixListener listener;
  listener.socket_ = MakeSocket();
  if (listener.fd() < 0) return failed("socket");
  // The mode of the socket is that of the file which bind() creates, less the
  // umask: at no time may anyone connect who may not connect later.
  if (fchmod(listener.fd(), options.mode & S_IRWXU) != 0) {
    return failed("fchmod");
  }
  int bound = bind(listener.fd(), generic, sizeof(*address));
  if (bound != 0 && errno == EADDRINUSE) {
    if (!SocketInode(path)) {
      return absl::InvalidArgumentError(
          absl::StrCat(path, ": must be a socket or not exist"));
    }
    const UniqueFd probe = MakeSocket();
    if (!probe.valid()) return failed("socket");
    // ECONNREFUSED means that no process listens any more. EAGAIN means that
    // one does, and is busy.
    if (connect(probe.get(), generic, sizeof(*address)) == 0 ||
        errno != ECONNREFUSED) {
      return absl::AlreadyExistsError(
          absl::StrCat(path, ": must not be in use by another server"));
    }
    unlink(path.c_str());
    bound = bind(listener.fd(), generic, sizeof(*address));
  }
  if (bound != 0) return failed("bind");
  listener.path_ = path;
  listener.inode_ = SocketInode(path).value_or(0);
  if (options.group &&
      lchown(path.c_str(), static_cast<uid_t>(-1), *options.group) != 0) {
    return failed("lchown");
  }
  if (chmod(path.c_str(), options.mode) != 0) return failed("chmod");
  if (listen(listener.fd(), SOMAXCONN) != 0) return failed("listen");
  return listener;
}

absl::StatusOr<UniqueFd> UnixListener::Accept() const {
  UniqueFd connection(
      accept4(fd(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
  if (connection.valid()) return connection;
  const bool is_exhausted =
      errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS;
  return is_exhausted ? absl::ResourceExhaustedError("accept4")
                      : absl::NotFoundError("accept4");
}

UnixListener::~UnixListener() { Close(); }

UnixListener& UnixListener::operator=(UnixListener&& other) noexcept {
  if (this == &other) return *this;
  Close();
  socket_ = std::move(other.socket_);
  path_ = std::exchange(other.path_, {});
  inode_ = other.inode_;
  return *this;
}

void UnixListener::Close() {
  if (!path_.empty() && SocketInode(path_) == inode_) unlink(path_.c_str());
  path_.clear();
  socket_ = UniqueFd();
}

}  // namespace guestmm
