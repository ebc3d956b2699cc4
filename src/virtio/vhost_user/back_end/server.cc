#include "guestmm/virtio/vhost_user/back_end/server.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <iterator>
#include <optional>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "guestmm/base/check.h"
#include "src/virtio/vhost_user/back_end/session.h"
#include "src/virtio/vhost_user/unix_socket.h"

namespace guestmm {
namespace {

// The time to leave connections in the backlog when this process has no file
// descriptors left to accept them.
constexpr int kAcceptPauseMilliseconds = 100;

// The inode of the socket at `path`; nullopt if there is none.
std::optional<ino_t> SocketInode(const std::string& path) {
  struct stat file = {};
  if (lstat(path.c_str(), &file) != 0 || !S_ISSOCK(file.st_mode)) {
    return std::nullopt;
  }
  return file.st_ino;
}

}  // namespace

VhostUserCounters& VhostUserCounters::operator+=(
    const VhostUserCounters& other) {
  messages += other.messages;
  refused += other.refused;
  return *this;
}

VhostUserServer::VhostUserServer(MakeDevice make_device,
                                 VhostUserServerOptions options)
    : make_device_(std::move(make_device)),
      options_(std::move(options)),
      thread_([this] { Run(); }) {
  GUESTMM_CHECK(wake_.valid()) << "eventfd: " << std::strerror(errno);
}

VhostUserServer::~VhostUserServer() { Stop(); }

void VhostUserServer::Stop() {
  if (!thread_.joinable()) return;
  {
    LockHolder hold(mutex_);
    stop_ = true;
    for (Slot& slot : slots_) {
      if (slot.session != nullptr) slot.session->Stop();
    }
  }
  wake_.Wake();
  thread_.join();
  // The other thread has ended: the remaining sessions are joined here.
  std::list<Slot> slots;
  {
    LockHolder hold(mutex_);
    slots.splice(slots.end(), slots_);
  }
  for (Slot& slot : slots) slot.thread.join();
  // Another server may have replaced the socket.
  if (!path_.empty() && SocketInode(path_) == path_inode_) {
    unlink(path_.c_str());
  }
  LockHolder hold(mutex_);
  listener_ = UniqueFd();
}

absl::Status VhostUserServer::Listen(const std::string& path) {
  GUESTMM_CHECK(path_.empty()) << "Listen called again";
  const absl::StatusOr<sockaddr_un> address = UnixAddress(path);
  if (!address.ok()) return address.status();
  const auto* const generic = reinterpret_cast<const sockaddr*>(&*address);
  const auto failed = [&](const char* call) {
    return SystemError(absl::StrCat(path, ": ", call));
  };
  UniqueFd listener(
      socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!listener.valid()) return failed("socket");
  int bound = bind(listener.get(), generic, sizeof(*address));
  if (bound != 0 && errno == EADDRINUSE) {
    if (!SocketInode(path)) {
      return absl::InvalidArgumentError(
          absl::StrCat(path, ": must be a socket or not exist"));
    }
    const UniqueFd probe(
        socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (!probe.valid()) return failed("socket");
    // ECONNREFUSED means that no process listens any more. EAGAIN means that
    // one does, and is busy.
    if (connect(probe.get(), generic, sizeof(*address)) == 0 ||
        errno != ECONNREFUSED) {
      return absl::AlreadyExistsError(
          absl::StrCat(path, ": must not be in use by another server"));
    }
    unlink(path.c_str());
    bound = bind(listener.get(), generic, sizeof(*address));
  }
  if (bound != 0) return failed("bind");
  path_ = path;
  path_inode_ = SocketInode(path).value_or(0);
  if (listen(listener.get(), SOMAXCONN) != 0) return failed("listen");
  {
    LockHolder hold(mutex_);
    listener_ = std::move(listener);
  }
  wake_.Wake();
  return absl::OkStatus();
}

absl::Status VhostUserServer::Serve(UniqueFd connection) {
  VhostUserSessionInfo info;
  ucred peer = {};
  socklen_t length = sizeof(peer);
  if (getsockopt(connection.get(), SOL_SOCKET, SO_PEERCRED, &peer, &length) ==
      0) {
    info.pid = peer.pid;
  }
  LockHolder hold(mutex_);
  size_t live = 0;
  for (const Slot& slot : slots_) live += slot.live ? 1 : 0;
  absl::Status status;
  if (stop_) {
    status = absl::CancelledError("the server has stopped");
  } else if (live >= options_.max_sessions) {
    status = absl::ResourceExhaustedError(
        absl::StrFormat("%d sessions: no more are allowed", live));
  }
  if (status.ok()) status = Begin(std::move(connection), info);
  if (!status.ok()) ++refused_sessions_;
  return status;
}

absl::Status VhostUserServer::Begin(UniqueFd connection,
                                    VhostUserSessionInfo info) {
  // Never reused, even if the session cannot start: each device has an id of
  // its own.
  info.id = ++last_id_;
  // std::thread throws if the host has no threads left.
  try {
    absl::StatusOr<std::unique_ptr<VhostUserSession>> session =
        VhostUserSession::Create(
            std::move(connection),
            [&](const GuestRam& ram, Workqueue& workqueue) {
              return make_device_(info.id, ram, workqueue);
            },
            options_);
    if (!session.ok()) return session.status();
    Slot& slot = slots_.emplace_back();
    slot.info = info;
    slot.session = *std::move(session);
    try {
      slot.thread = std::thread([this, &slot] { RunSession(slot); });
    } catch (const std::system_error&) {
      slots_.pop_back();
      throw;
    }
    return absl::OkStatus();
  } catch (const std::system_error& error) {
    return absl::UnavailableError(
        absl::StrCat("no thread for a session: ", error.what()));
  }
}

std::vector<VhostUserSessionInfo> VhostUserServer::sessions() const {
  LockHolder hold(mutex_);
  std::vector<VhostUserSessionInfo> infos;
  for (const Slot& slot : slots_) {
    if (slot.session == nullptr) continue;
    infos.push_back(slot.info);
    infos.back().counters = slot.session->counters();
  }
  return infos;
}

VhostUserCounters VhostUserServer::counters() const {
  LockHolder hold(mutex_);
  VhostUserCounters sum = ended_;
  for (const Slot& slot : slots_) {
    if (slot.session != nullptr) sum += slot.session->counters();
  }
  return sum;
}

uint64_t VhostUserServer::refused_sessions() const {
  LockHolder hold(mutex_);
  return refused_sessions_;
}

void VhostUserServer::Run() {
  int pause = -1;
  while (true) {
    std::array<pollfd, 2> polled = {};
    {
      LockHolder hold(mutex_);
      if (stop_) return;
      polled = {pollfd{.fd = wake_.get(), .events = POLLIN, .revents = 0},
                pollfd{.fd = pause < 0 ? listener_.get() : -1,
                       .events = POLLIN,
                       .revents = 0}};
    }
    poll(polled.data(), polled.size(), pause);
    pause = -1;
    if (polled[0].revents != 0) {
      wake_.Drain();
      JoinEnded();
    }
    if ((polled[1].revents & POLLIN) == 0) continue;
    UniqueFd connection(
        accept4(polled[1].fd, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (!connection.valid()) {
      if (errno == EMFILE || errno == ENFILE || errno == ENOMEM ||
          errno == ENOBUFS) {
        pause = kAcceptPauseMilliseconds;
      }
      continue;
    }
    // Refused connections are counted in Serve.
    [[maybe_unused]] const absl::Status served = Serve(std::move(connection));
  }
}

void VhostUserServer::RunSession(Slot& slot) {
  VhostUserSession* session = nullptr;
  VhostUserSessionInfo info;
  {
    LockHolder hold(mutex_);
    session = slot.session.get();
    info = slot.info;
  }
  if (options_.on_begin) options_.on_begin(info);
  const absl::Status why = session->Run();
  session->Finish();
  std::unique_ptr<VhostUserSession> finished;
  {
    LockHolder hold(mutex_);
    info.counters = session->counters();
    ended_ += info.counters;
    finished = std::move(slot.session);
  }
  finished.reset();
  {
    // Before on_end, so that a guest told of the end can connect again.
    LockHolder hold(mutex_);
    slot.live = false;
  }
  if (options_.on_end) options_.on_end(info, why);
  {
    LockHolder hold(mutex_);
    slot.ended = true;
  }
  wake_.Wake();
}

void VhostUserServer::JoinEnded() {
  std::list<Slot> ended;
  {
    LockHolder hold(mutex_);
    for (auto slot = slots_.begin(); slot != slots_.end();) {
      const auto next = std::next(slot);
      if (slot->ended) ended.splice(ended.end(), slots_, slot);
      slot = next;
    }
  }
  for (Slot& slot : ended) slot.thread.join();
}

}  // namespace guestmm
