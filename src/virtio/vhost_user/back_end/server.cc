#include "guestmm/virtio/vhost_user/back_end/server.h"

#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <iterator>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "guestmm/base/check.h"
#include "src/base/unix_socket.h"
#include "src/virtio/vhost_user/back_end/session.h"

namespace guestmm {
VhostUserCounters& VhostUserCounters::operator+=(
    const VhostUserCounters& other) {
  messages += other.messages;
  refused += other.refused;
  for (const auto& [name, count] : other.refused_by) refused_by[name] += count;
  return *this;
}

VhostUserServer::VhostUserServer(MakeDevice make_device,
                                 VhostUserServerOptions options)
    : make_device_(std::move(make_device)),
      options_(std::move(options)),
      budget_(std::make_unique<MemoryBudget>(options_.max_total_bytes,
                                             options_.max_total_bytes_per_uid)),
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
  LockHolder hold(mutex_);
  listener_ = UnixListener();
}

absl::Status VhostUserServer::Listen(const std::string& path) {
  absl::StatusOr<UnixListener> listener =
      UnixListener::Listen(path, options_.socket);
  if (!listener.ok()) return listener.status();
  Listen(*std::move(listener));
  return absl::OkStatus();
}

void VhostUserServer::Listen(UnixListener listener) {
  {
    LockHolder hold(mutex_);
    GUESTMM_CHECK(listener_.fd() < 0) << "Listen called again";
    listener_ = std::move(listener);
  }
  wake_.Wake();
}

absl::Status VhostUserServer::Serve(UniqueFd connection) {
  const UnixPeer peer = PeerOf(connection.get());
  absl::Status status;
  {
    LockHolder hold(mutex_);
    status = Admit(peer);
    VhostUserSessionInfo info;
    info.peer = peer;
    if (status.ok()) status = Begin(std::move(connection), info);
    if (!status.ok()) ++refused_sessions_;
  }
  if (!status.ok() && options_.on_refused_connection) {
    options_.on_refused_connection(peer, status);
  }
  return status;
}

absl::Status VhostUserServer::Admit(const UnixPeer& peer) const {
  if (stop_) return absl::CancelledError("the server has stopped");
  const std::vector<uid_t>& allowed = options_.allowed_uids;
  if (!allowed.empty() &&
      std::find(allowed.begin(), allowed.end(), peer.uid) == allowed.end()) {
    return absl::PermissionDeniedError(
        absl::StrFormat("user %d: is not allowed to connect", peer.uid));
  }
  size_t live = 0;
  size_t of_uid = 0;
  for (const Slot& slot : slots_) {
    if (!slot.live) continue;
    ++live;
    if (slot.info.peer.uid == peer.uid) ++of_uid;
  }
  if (live >= options_.max_sessions) {
    return absl::ResourceExhaustedError(
        absl::StrFormat("%d sessions: no more are allowed", live));
  }
  if (of_uid >= options_.max_sessions_per_uid) {
    return absl::ResourceExhaustedError(absl::StrFormat(
        "%d sessions of user %d: no more are allowed", of_uid, peer.uid));
  }
  return absl::OkStatus();
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
            std::move(connection), info,
            [&](const GuestRam& ram, Workqueue& workqueue) {
              return make_device_(info.id, ram, workqueue);
            },
            options_, *budget_);
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
                pollfd{.fd = pause < 0 ? listener_.fd() : -1,
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
    absl::StatusOr<UniqueFd> connection = [&] {
      LockHolder hold(mutex_);
      return listener_.Accept();
    }();
    if (absl::IsResourceExhausted(connection.status())) {
      pause = static_cast<int>(UnixListener::kAcceptPause.count());
    }
    if (!connection.ok()) continue;
    // Serve counts the refused.
    [[maybe_unused]] const absl::Status served = Serve(*std::move(connection));
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
