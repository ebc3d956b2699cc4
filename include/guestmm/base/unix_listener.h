#ifndef GUESTMM_BASE_UNIX_LISTENER_H_
#define GUESTMM_BASE_UNIX_LISTENER_H_

#include <sys/types.h>

#include <chrono>
#include <optional>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "guestmm/base/export.h"
#include "guestmm/base/unique_fd.h"

namespace GUESTMM_EXPORT guestmm {

// A process at the other end of a Unix socket, as it was when it connected.
struct UnixPeer {
  pid_t pid = 0;  // 0 if unknown
  uid_t uid = static_cast<uid_t>(-1);
  gid_t gid = static_cast<gid_t>(-1);
};

// SO_PEERCRED of `socket`; all unknown if it is not connected.
UnixPeer PeerOf(int socket);

// True if `fd` is a Unix stream socket that listens, or, with `listens` false,
// one that does not.
bool IsUnixStream(int fd, bool listens);

struct UnixListenerOptions {
  // The socket file's permissions; the umask does not apply. To connect,
  // processes need write permission.
  mode_t mode = 0600;
  // Its group; nullopt for that of new files.
  std::optional<gid_t> group = std::nullopt;
};

// A listening Unix stream socket in the file system. Not thread-safe.
class UnixListener {
 public:
  // Listens nowhere.
  UnixListener() = default;
  // Listens at `path`. Replaces a socket that a former process left there.
  // InvalidArgument if the path is too long, or there is a file that is not a
  // socket; AlreadyExists if a process listens there; Unavailable, naming the
  // system call, if the host refuses.
  static absl::StatusOr<UnixListener> Listen(
      const std::string& path, const UnixListenerOptions& options = {});
  // Listens at `socket`, which a parent process made: InvalidArgument unless it
  // is a Unix stream socket that listens. Its file, if any, stays.
  static absl::StatusOr<UnixListener> Adopt(UniqueFd socket);
  // Stops listening, and removes the socket unless another process has replaced
  // it.
  ~UnixListener();
  UnixListener(UnixListener&& other) noexcept { *this = std::move(other); }
  UnixListener& operator=(UnixListener&& other) noexcept;

  // Non-blocking, for poll. -1 if it listens nowhere.
  int fd() const { return socket_.get(); }

  // The next connection, non-blocking; NotFound if there is none;
  // ResourceExhausted if this process or the host has no file descriptors or
  // memory for it. It then stays in the backlog, and fd() readable: wait for
  // kAcceptPause before the next call.
  absl::StatusOr<UniqueFd> Accept() const;
  static constexpr std::chrono::milliseconds kAcceptPause{100};

 private:
  void Close();

  UniqueFd socket_;
  std::string path_;
  ino_t inode_ = 0;
};

}  // namespace guestmm

#endif  // GUESTMM_BASE_UNIX_LISTENER_H_
