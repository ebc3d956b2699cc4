#include "guestmm/virtio/vhost_user_device.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "guestmm/base/check.h"
#include "guestmm/base/lock.h"
#include "guestmm/virtio/event_fd_notifier.h"
#include "guestmm/virtio/vhost_user.h"
#include "src/virtio/unix_socket.h"

// Headers older than the kernel: the number is the same on all architectures
// but alpha.
#ifndef SYS_pidfd_open
#define SYS_pidfd_open 434
#endif

namespace guestmm {
namespace {

using std::chrono::steady_clock;

// What the VMM must speak.
constexpr uint64_t kNeededOfVmm =
    kVhostUserProtocolReplyAck | kVhostUserProtocolBackendReq |
    kVhostUserProtocolMemSlots | kVhostUserProtocolStatus;

// How large a balloon's configuration may be, by the features it has (virtio
// 1.3 §5.5.4). vhost-user does not say; of what is not there nothing is read.
constexpr std::array<uint32_t, 4> kConfigSizes = {16, 12, 8, 0};

// Another description of the same file, to be passed on or kept.
UniqueFd Duplicate(const UniqueFd& fd) {
  return UniqueFd(fcntl(fd.get(), F_DUPFD_CLOEXEC, 0));
}

std::string SharedText(GpaRange range) {
  return absl::StrFormat("region 0x%x + %s", range.gpa.value(),
                         FormatBytes(range.bytes));
}

// What of `range` is in none of `others`, one behind the other.
std::vector<GpaRange> Without(GpaRange range,
                              const std::vector<GpaRange>& others) {
  std::vector<GpaRange> left = {range};
  for (const GpaRange& other : others) {
    std::vector<GpaRange> next;
    for (const GpaRange& piece : left) {
      const uint64_t start = piece.gpa.value();
      const uint64_t end = start + piece.bytes;
      const uint64_t cut_start = std::clamp(other.gpa.value(), start, end);
      const uint64_t cut_end =
          std::clamp(other.gpa.value() + other.bytes, cut_start, end);
      if (cut_start > start) next.push_back({piece.gpa, cut_start - start});
      if (end > cut_end) next.push_back({Gpa(cut_end), end - cut_end});
    }
    left = std::move(next);
  }
  return left;
}

}  // namespace

// The connection and what is known of the device behind it. Its thread takes
// what comes: answers, calls, changes of the configuration, and the end of the
// connection or of the VMM's process.
class VhostUserDevice::FrontEnd final : public RegionObserver {
 public:
  FrontEnd(std::string path, GuestRam& ram,
           const VhostUserDeviceOptions& options)
      : path_(std::move(path)),
        ram_(ram),
        options_(options),
        wake_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)),
        thread_([this] { Run(); }) {
    GUESTMM_CHECK(wake_.valid()) << "eventfd: " << std::strerror(errno);
    ram_.SetObserver(this);
  }

  ~FrontEnd() override {
    ram_.SetObserver(nullptr);
    {
      LockHolder hold(mutex_);
      stop_ = true;
    }
    Wake();
    thread_.join();
  }

  absl::Status Connect() {
    const absl::StatusOr<sockaddr_un> address = UnixAddress(path_);
    if (!address.ok()) return address.status();
    UniqueFd socket(
        ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (!socket.valid()) return SystemError("socket");
    if (connect(socket.get(), reinterpret_cast<const sockaddr*>(&*address),
                sizeof(*address)) != 0) {
      return SystemError(absl::StrCat("connecting to ", path_));
    }
    absl::StatusOr<UniqueFd> process = WatchPeer(socket.get());
    if (!process.ok()) return process.status();
    std::array<int, 2> pair = {-1, -1};
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair.data()) != 0) {
      return SystemError("socketpair");
    }
    const UniqueFd backend_end(pair[1]);
    {
      LockHolder hold(mutex_);
      channel_ = VhostUserChannel(std::move(socket));
      backend_ = VhostUserChannel(UniqueFd(pair[0]));
      process_ = *std::move(process);
      link_ = Link::kUp;
      lost_.clear();
    }
    Wake();
    const absl::Status status = ShakeHands(backend_end.get());
    if (!status.ok()) {
      LockHolder hold(mutex_);
      Lose(status);
    }
    return status;
  }

  absl::Status Reconnect() {
    {
      LockHolder hold(mutex_);
      if (status_ != 0 || resetting_ || abandoned_) {
        return absl::FailedPreconditionError(
            absl::StrCat("the device at ", path_,
                         abandoned_ ? " was abandoned" : " was not reset"));
      }
      if (link_ == Link::kUp) return absl::OkStatus();
    }
    return Connect();
  }

  void Abandon() {
    LockHolder hold(mutex_);
    abandoned_ = true;
    Lose(absl::CancelledError("abandoned"));
    if (resetting_) CompleteReset();
  }

  absl::Status connection() const {
    LockHolder hold(mutex_);
    if (link_ == Link::kUp) return absl::OkStatus();
    return absl::UnavailableError(lost_);
  }
  pid_t vmm_pid() const {
    LockHolder hold(mutex_);
    return pid_;
  }
  uint32_t device_id() const { return options_.device_id; }
  uint64_t features() const {
    LockHolder hold(mutex_);
    return features_;
  }
  uint16_t MaxQueueSize(uint16_t index) const {
    LockHolder hold(mutex_);
    return index < queue_count_ ? options_.max_queue_size : 0;
  }

  absl::Status SetDriverFeatures(uint64_t features) {
    return Tell(VhostUserRequest::kSetFeatures,
                BytesOf(features | kVhostUserFProtocolFeatures));
  }

  uint8_t Status() {
    {
      LockHolder hold(mutex_);
      while (resetting_ && changed_.wait_until(mutex_, reset_deadline_) !=
                               std::cv_status::timeout) {
      }
      if (status_ == 0) return 0;
      if (resetting_ || link_ != Link::kUp) return LostStatus();
    }
    const absl::StatusOr<uint64_t> status =
        AskNumber(VhostUserRequest::kGetStatus);
    LockHolder hold(mutex_);
    // It may have been reset meanwhile.
    if (status_ == 0) return 0;
    if (resetting_ || !status.ok()) return LostStatus();
    if (*status == 0) {
      // Not by a reset of ours, after which its queues would be forgotten.
      Lose(absl::InternalError("GET_STATUS: the VMM lost the status"));
      return LostStatus();
    }
    status_ = static_cast<uint8_t>(*status);
    return status_;
  }

  void SetStatus(uint8_t status) {
    if (status == 0) return Reset();
    {
      LockHolder hold(mutex_);
      // What there is no connection for leaves no trace: it is safe to use the
      // memory.
      if (resetting_ || link_ != Link::kUp) return;
      status_ |= status;
    }
    // Whoever needs to know whether it was taken reads the status.
    [[maybe_unused]] const absl::Status told =
        Tell(VhostUserRequest::kSetStatus, BytesOf(uint64_t{status}));
  }

  uint32_t ConfigGeneration() const {
    LockHolder hold(mutex_);
    return generation_;
  }

  absl::Status ReadConfig(uint32_t offset, std::span<std::byte> bytes) {
    FetchConfig();
    LockHolder hold(mutex_);
    if (absl::Status status = CheckConfig(offset, bytes.size()); !status.ok()) {
      return status;
    }
    std::copy_n(config_.begin() + offset, bytes.size(), bytes.begin());
    return absl::OkStatus();
  }

  absl::Status WriteConfig(uint32_t offset, std::span<const std::byte> bytes) {
    {
      LockHolder hold(mutex_);
      if (absl::Status status = CheckConfig(offset, bytes.size());
          !status.ok()) {
        return status;
      }
    }
    const VhostUserConfigHeader header = {
        .offset = offset,
        .size = static_cast<uint32_t>(bytes.size()),
        .flags = 0};
    const std::span<const std::byte> start = BytesOf(header);
    std::vector<std::byte> payload(start.begin(), start.end());
    payload.insert(payload.end(), bytes.begin(), bytes.end());
    absl::Status status = Tell(VhostUserRequest::kSetConfig, payload);
    LockHolder hold(mutex_);
    config_is_current_ = false;
    return status;
  }

  absl::StatusOr<Notifier*> SetUpQueue(uint16_t index,
                                       const VirtqueueLayout& layout,
                                       Notifier& used) {
    const UniqueFd kick(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    UniqueFd call(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    if (!kick.valid() || !call.valid()) return SystemError("eventfd");
    const UniqueFd call_end = Duplicate(call);
    Queue* queue = nullptr;
    {
      LockHolder hold(mutex_);
      if (index >= queue_count_) {
        return absl::NotFoundError(absl::StrFormat(
            "queue %d: the device at %s has %d", index, path_, queue_count_));
      }
      queue = queues_[index].get();
      queue->used = &used;
      queue->call = std::move(call);
    }
    queue->kick.Set(Duplicate(kick));
    Wake();

    // Where the rings are, in this process' terms: see Share.
    const VhostUserVringAddr addresses = {
        .index = index,
        .flags = 0,
        .descriptors = layout.descriptors.value(),
        .used = layout.used.value(),
        .available = layout.available.value(),
        .log = 0};
    const auto state = [&](uint32_t number) {
      return VhostUserVringState{.index = index, .num = number};
    };
    const auto tell = [&](VhostUserRequest request, const auto& payload,
                          std::span<const int> fds = {}) {
      return Tell(request, BytesOf(payload), fds);
    };
    const int kick_fd = kick.get();
    const int call_fd = call_end.get();
    absl::Status status =
        tell(VhostUserRequest::kSetVringNum, state(layout.size));
    if (status.ok()) {
      status = tell(VhostUserRequest::kSetVringBase, state(0));
    }
    if (status.ok()) status = tell(VhostUserRequest::kSetVringAddr, addresses);
    if (status.ok()) {
      status = tell(VhostUserRequest::kSetVringCall, uint64_t{index},
                    std::span(&call_fd, 1));
    }
    if (status.ok()) {
      status = tell(VhostUserRequest::kSetVringKick, uint64_t{index},
                    std::span(&kick_fd, 1));
    }
    if (status.ok()) {
      LockHolder hold(mutex_);
      enabled_ = true;
    }
    if (status.ok()) status = tell(VhostUserRequest::kSetVringEnable, state(1));
    if (!status.ok()) {
      LockHolder hold(mutex_);
      queue->used = nullptr;
      return status;
    }
    return &queue->kick;
  }

  void SetConfigNotifier(Notifier& config) {
    LockHolder hold(mutex_);
    config_notifier_ = &config;
  }

  void OnRegionAdded(GpaRange range) override {
    LockHolder hold(sharing_);
    // What could not be shared is skipped in reports: they are hints.
    [[maybe_unused]] const absl::Status shared = Share(range);
  }

  // A part of what was shared as one stays shared: the VMM then has a mapping
  // of a hole.
  void OnRegionRemoved(GpaRange) override {
    LockHolder hold(sharing_);
    const std::vector<GpaRange> regions = ram_.regions();
    std::erase_if(shared_, [&](const GpaRange& shared) {
      const std::vector<GpaRange> unused = Without(shared, regions);
      return unused.size() == 1 && unused[0] == shared &&
             Tell(VhostUserRequest::kRemMemReg,
                  BytesOf(VhostUserSingleRegion{.padding = 0,
                                                .region = RegionOf(shared)}))
                 .ok();
    });
  }

 private:
  enum class Link {
    kUp,
    kLost,  // the socket is closed; the process may be there, and act
    kGone,  // and the process has ended
  };
  struct Queue {
    EventFdNotifier kick;
    // Of the queue as it is set up now.
    UniqueFd call;
    Notifier* used = nullptr;
  };
  // A request whose answer has not come yet.
  struct Pending {
    VhostUserRequest request;
    bool is_reset = false;
    bool done = false;
    absl::Status status;
    std::vector<std::byte> reply;
  };

  // A pidfd of the process at the other end of `socket`. Its pid may be some
  // other process's by now, but only if it is gone, which closed the socket.
  absl::StatusOr<UniqueFd> WatchPeer(int socket) {
    ucred peer = {};
    socklen_t length = sizeof(peer);
    if (getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &peer, &length) != 0) {
      return SystemError("getsockopt(SO_PEERCRED)");
    }
    UniqueFd process(static_cast<int>(syscall(SYS_pidfd_open, peer.pid, 0U)));
    if (!process.valid()) {
      return SystemError(absl::StrFormat(
          "pidfd_open of process %d, the VMM at %s,", peer.pid, path_));
    }
    pollfd polled = {.fd = socket, .events = POLLRDHUP, .revents = 0};
    if (poll(&polled, 1, 0) != 0) {
      return absl::UnavailableError(
          absl::StrCat("the VMM at ", path_, " closed the connection"));
    }
    LockHolder hold(mutex_);
    pid_ = peer.pid;
    return process;
  }

  absl::Status ShakeHands(int backend_end) {
    const absl::StatusOr<uint64_t> features =
        AskNumber(VhostUserRequest::kGetFeatures);
    if (!features.ok()) return features.status();
    uint64_t protocol = 0;
    if ((*features & kVhostUserFProtocolFeatures) != 0) {
      const absl::StatusOr<uint64_t> offered =
          AskNumber(VhostUserRequest::kGetProtocolFeatures);
      if (!offered.ok()) return offered.status();
      protocol = *offered;
    }
    if ((protocol & kNeededOfVmm) != kNeededOfVmm) {
      return absl::FailedPreconditionError(absl::StrFormat(
          "the VMM at %s offers protocol features 0x%x: 0x%x are needed", path_,
          protocol, kNeededOfVmm));
    }
    protocol &= kVhostUserProtocolFeatures;
    {
      LockHolder hold(mutex_);
      if (absl::Status status = Send(VhostUserRequest::kSetProtocolFeatures, 0,
                                     BytesOf(protocol));
          !status.ok()) {
        return status;
      }
    }
    absl::Status status = Tell(VhostUserRequest::kSetOwner, {});
    if (status.ok()) {
      status = Tell(VhostUserRequest::kSetBackendReqFd, {},
                    std::span(&backend_end, 1));
    }
    if (!status.ok()) return status;
    const absl::StatusOr<uint64_t> queues =
        AskNumber(VhostUserRequest::kGetQueueNum);
    if (!queues.ok()) return queues.status();
    {
      LockHolder hold(mutex_);
      features_ = *features & ~kVhostUserFProtocolFeatures;
      queue_count_ = static_cast<uint16_t>(
          std::min<uint64_t>(*queues, kVhostUserVringIndexMask));
      // Kicks live as long as the device.
      while (queues_.size() < queue_count_) {
        queues_.push_back(std::make_unique<Queue>());
      }
    }
    FindConfig((protocol & kVhostUserProtocolConfig) != 0);

    LockHolder hold(sharing_);
    shared_.clear();
    for (const GpaRange& region : ram_.regions()) {
      if (absl::Status shared = Share(region); !shared.ok()) return shared;
    }
    return connection();
  }

  // Where the VMM is told that a region is. Ring addresses are given in these
  // terms too, by which it finds them again: nothing else uses them, so they
  // need not say where the region is mapped, which changes when it comes again.
  VhostUserRegion RegionOf(GpaRange range) const {
    return {.guest_phys_addr = range.gpa.value(),
            .size = range.bytes,
            .userspace_addr = range.gpa.value(),
            .mmap_offset = range.gpa.value()};
  }

  absl::Status Share(GpaRange range) ABSL_EXCLUSIVE_LOCKS_REQUIRED(sharing_) {
    const int memfd = ram_.memfd();
    for (const GpaRange& piece : Without(range, shared_)) {
      if (absl::Status status =
              Tell(VhostUserRequest::kAddMemReg,
                   BytesOf(VhostUserSingleRegion{.padding = 0,
                                                 .region = RegionOf(piece)}),
                   std::span(&memfd, 1));
          !status.ok()) {
        return absl::Status(status.code(), absl::StrCat(SharedText(piece), ": ",
                                                        status.message()));
      }
      shared_.push_back(piece);
    }
    return absl::OkStatus();
  }

  void FindConfig(bool has_config) {
    for (const uint32_t size : kConfigSizes) {
      {
        LockHolder hold(mutex_);
        config_.assign(has_config ? size : 0, std::byte{0});
        config_is_current_ = false;
      }
      if (FetchConfig()) return;
    }
  }

  // Reads all of it, if what is known may not be current and as far as there is
  // a connection: a device tells of what it changes itself (virtio 1.3 §2.5).
  // False if the device does not have as much.
  bool FetchConfig() {
    VhostUserConfigHeader header = {};
    {
      LockHolder hold(mutex_);
      header.size = static_cast<uint32_t>(config_.size());
      if (header.size == 0 || link_ != Link::kUp) return true;
      // A change that comes meanwhile takes it back.
      if (std::exchange(config_is_current_, true)) return true;
    }
    const std::span<const std::byte> start = BytesOf(header);
    std::vector<std::byte> payload(start.begin(), start.end());
    payload.resize(sizeof(header) + header.size);
    const absl::StatusOr<std::vector<std::byte>> reply =
        Ask(VhostUserRequest::kGetConfig, payload);
    if (!reply.ok()) return true;
    if (reply->size() != payload.size()) return false;
    const std::vector<std::byte> config(
        reply->begin() + static_cast<ptrdiff_t>(sizeof(header)), reply->end());
    LockHolder hold(mutex_);
    if (config != config_) {
      config_ = config;
      ++generation_;
    }
    return true;
  }

  absl::Status CheckConfig(uint32_t offset, size_t bytes) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (offset <= config_.size() && bytes <= config_.size() - offset) {
      return absl::OkStatus();
    }
    return absl::OutOfRangeError(
        absl::StrFormat("configuration from %d, %d bytes: there are %d", offset,
                        bytes, config_.size()));
  }

  // Sends a request that is answered by more than a number, or by one that is
  // no error, and waits for it.
  absl::StatusOr<std::vector<std::byte>> Ask(
      VhostUserRequest request, std::span<const std::byte> payload) {
    return Exchange(request, 0, payload, {});
  }
  absl::StatusOr<uint64_t> AskNumber(VhostUserRequest request) {
    absl::StatusOr<std::vector<std::byte>> reply = Ask(request, {});
    if (!reply.ok()) return reply.status();
    if (reply->size() != sizeof(uint64_t)) {
      const absl::Status status = absl::InvalidArgumentError(
          absl::StrFormat("%s: answered with %d bytes: must be %d",
                          Name(request), reply->size(), sizeof(uint64_t)));
      LockHolder hold(mutex_);
      Lose(status);
      return status;
    }
    uint64_t number = 0;
    std::memcpy(&number, reply->data(), sizeof(number));
    return number;
  }
  // Sends a request and waits until the VMM says what came of it.
  absl::Status Tell(VhostUserRequest request,
                    std::span<const std::byte> payload,
                    std::span<const int> fds = {}) {
    return Exchange(request, kVhostUserNeedReply, payload, fds).status();
  }

  absl::StatusOr<std::vector<std::byte>> Exchange(
      VhostUserRequest request, uint32_t flags,
      std::span<const std::byte> payload, std::span<const int> fds) {
    LockHolder hold(mutex_);
    if (absl::Status status = Send(request, flags, payload, fds);
        !status.ok()) {
      return status;
    }
    const auto pending = std::make_shared<Pending>();
    pending->request = request;
    pending_.push_back(pending);
    const auto deadline = steady_clock::now() + options_.timeout;
    while (!pending->done) {
      if (changed_.wait_until(mutex_, deadline) == std::cv_status::timeout &&
          !pending->done) {
        Lose(absl::UnavailableError(absl::StrFormat(
            "%s: no answer in %d ms", Name(request),
            std::chrono::duration_cast<std::chrono::milliseconds>(
                options_.timeout)
                .count())));
      }
    }
    if (!pending->status.ok()) return pending->status;
    return std::move(pending->reply);
  }

  absl::Status Send(VhostUserRequest request, uint32_t flags,
                    std::span<const std::byte> payload,
                    std::span<const int> fds = {})
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (link_ != Link::kUp) return LostError();
    absl::Status status =
        channel_.Send(static_cast<uint32_t>(request), flags, payload, fds);
    if (!status.ok()) Lose(status);
    return status;
  }

  absl::Status LostError() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return absl::UnavailableError(
        absl::StrCat("the connection to ", path_, " was lost: ", lost_));
  }
  uint8_t LostStatus() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return link_ == Link::kUp
               ? status_
               : static_cast<uint8_t>(status_ | kVirtioNeedsReset);
  }

  void Reset() {
    LockHolder hold(mutex_);
    if (resetting_) return;
    resetting_ = true;
    reset_deadline_ = steady_clock::now() + options_.timeout;
    if (link_ == Link::kLost && !enabled_) return CompleteReset();
    if (link_ == Link::kGone || abandoned_) return CompleteReset();
    if (link_ == Link::kLost) return;
    if (!Send(VhostUserRequest::kSetStatus, kVhostUserNeedReply,
              BytesOf(uint64_t{0}))
             .ok()) {
      return;
    }
    const auto pending = std::make_shared<Pending>();
    pending->request = VhostUserRequest::kSetStatus;
    pending->is_reset = true;
    pending_.push_back(pending);
  }

  // From here on the VMM touches nothing, and no one is notified.
  void CompleteReset() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    resetting_ = false;
    status_ = 0;
    enabled_ = false;
    config_is_current_ = false;
    config_notifier_ = nullptr;
    for (const auto& queue : queues_) {
      queue->used = nullptr;
      queue->call = UniqueFd();
      queue->kick.Set(UniqueFd());
    }
    changed_.notify_all();
  }

  void Lose(const absl::Status& why) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (link_ != Link::kUp) return;
    link_ = Link::kLost;
    lost_ = absl::StrCat(why.message());
    // Who polls it holds it open.
    shutdown(channel_.fd(), SHUT_RDWR);
    channel_ = VhostUserChannel();
    backend_ = VhostUserChannel();
    for (const auto& pending : pending_) {
      pending->done = true;
      pending->status = LostError();
    }
    pending_.clear();
    if (resetting_ && !enabled_) CompleteReset();
    if (config_notifier_ != nullptr) config_notifier_->Notify();
    changed_.notify_all();
    Wake();
  }

  void Run() {
    // Behind wake, process, socket and the VMM's own channel.
    constexpr size_t kFirstCall = 4;
    std::vector<pollfd> polled;
    while (true) {
      {
        LockHolder hold(mutex_);
        if (stop_) return;
        const auto add = [&](int fd) {
          polled.push_back({.fd = fd, .events = POLLIN, .revents = 0});
        };
        polled.clear();
        add(wake_.get());
        add(link_ == Link::kGone ? -1 : process_.get());
        add(channel_.fd());
        add(backend_.fd());
        for (const auto& queue : queues_) add(queue->call.get());
      }
      poll(polled.data(), polled.size(), -1);
      if (polled[0].revents != 0) Drain(wake_.get());
      // What was polled may be another one by now, so nothing here waits.
      LockHolder hold(mutex_);
      for (size_t i = 0; i + kFirstCall < polled.size(); ++i) {
        if (polled[i + kFirstCall].revents != 0) HandleCall(*queues_[i]);
      }
      if (polled[2].revents != 0) HandleReplies();
      if (polled[3].revents != 0) HandleBackend();
      if (polled[1].revents != 0) HandleProcess();
    }
  }

  static bool Drain(int event_fd) {
    uint64_t count = 0;
    return read(event_fd, &count, sizeof(count)) == sizeof(count);
  }

  static void HandleCall(Queue& queue) {
    if (queue.call.valid() && Drain(queue.call.get()) &&
        queue.used != nullptr) {
      queue.used->Notify();
    }
  }

  void HandleReplies() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    while (link_ == Link::kUp) {
      absl::StatusOr<std::optional<VhostUserMessage>> message =
          channel_.Receive();
      if (!message.ok()) return Lose(message.status());
      if (!message->has_value()) return;
      HandleReply(**message);
    }
  }

  void HandleReply(VhostUserMessage& message)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (pending_.empty() || pending_.front()->request != message.request() ||
        (message.header.flags & kVhostUserReply) == 0) {
      return Lose(absl::InvalidArgumentError(
          absl::StrCat("the VMM answered ", Name(message.request()),
                       ", which was not asked")));
    }
    const std::shared_ptr<Pending> pending = pending_.front();
    pending_.pop_front();
    pending->done = true;
    pending->reply = std::move(message.payload);
    const bool is_answer = IsAnswered(pending->request);
    if (!is_answer) pending->status = Acknowledged(*pending);
    changed_.notify_all();
    if (!pending->is_reset) return;
    if (!pending->status.ok()) return Lose(pending->status);
    CompleteReset();
  }

  // Whether a request has an answer of its own.
  static bool IsAnswered(VhostUserRequest request) {
    switch (request) {
      case VhostUserRequest::kGetFeatures:
      case VhostUserRequest::kGetProtocolFeatures:
      case VhostUserRequest::kGetQueueNum:
      case VhostUserRequest::kGetStatus:
      case VhostUserRequest::kGetConfig:
        return true;
      default:
        return false;
    }
  }

  static absl::Status Acknowledged(const Pending& pending) {
    uint64_t number = 0;
    if (pending.reply.size() != sizeof(number)) {
      return absl::InvalidArgumentError(absl::StrFormat(
          "%s: answered with %d bytes: must be %d", Name(pending.request),
          pending.reply.size(), sizeof(number)));
    }
    std::memcpy(&number, pending.reply.data(), sizeof(number));
    if (number == 0) return absl::OkStatus();
    // Our own VMM says what kind of error it is.
    constexpr auto kLastCode =
        static_cast<uint64_t>(absl::StatusCode::kUnauthenticated);
    const auto code = number <= kLastCode
                          ? static_cast<absl::StatusCode>(number)
                          : absl::StatusCode::kInternal;
    return absl::Status(
        code, absl::StrFormat("%s: the VMM answered with error %d, %s",
                              Name(pending.request), number,
                              absl::StatusCodeToString(code)));
  }

  void HandleBackend() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    while (link_ == Link::kUp) {
      absl::StatusOr<std::optional<VhostUserMessage>> message =
          backend_.Receive();
      if (!message.ok()) {
        return Lose(absl::UnavailableError(absl::StrCat(
            "the VMM's own channel: ", message.status().message())));
      }
      if (!message->has_value()) return;
      uint64_t error = 0;
      if ((*message)->header.request == kVhostUserBackendConfigChange) {
        ++generation_;
        config_is_current_ = false;
        if (config_notifier_ != nullptr) config_notifier_->Notify();
      } else {
        error = static_cast<uint64_t>(absl::StatusCode::kUnimplemented);
      }
      if ((*message)->needs_reply()) {
        // If it cannot be sent, the connection is at its end, which shows.
        [[maybe_unused]] const absl::Status sent = backend_.Send(
            (*message)->header.request, kVhostUserReply, BytesOf(error));
      }
    }
  }

  void HandleProcess() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (link_ == Link::kGone || !process_.valid()) return;
    pollfd polled = {.fd = process_.get(), .events = POLLIN, .revents = 0};
    if (poll(&polled, 1, 0) != 1) return;
    Lose(absl::UnavailableError(
        absl::StrFormat("process %d, the VMM, has ended", pid_)));
    link_ = Link::kGone;
    if (resetting_) CompleteReset();
    changed_.notify_all();
  }

  void Wake() const {
    const uint64_t one = 1;
    [[maybe_unused]] const ssize_t written =
        write(wake_.get(), &one, sizeof(one));
  }

  const std::string path_;
  GuestRam& ram_;
  const VhostUserDeviceOptions options_;
  const UniqueFd wake_;

  // Held across requests about memory, one at a time.
  Mutex sharing_;
  // What the VMM has mapped.
  std::vector<GpaRange> shared_ ABSL_GUARDED_BY(sharing_);

  // Not held while anyone waits. Held while driver and notifiers are told.
  mutable Mutex mutex_;
  // An answer came, a reset completed, or the connection was lost.
  std::condition_variable_any changed_;
  bool stop_ ABSL_GUARDED_BY(mutex_) = false;
  Link link_ ABSL_GUARDED_BY(mutex_) = Link::kGone;
  // Why it is not up. No Status, which several threads would share.
  std::string lost_ ABSL_GUARDED_BY(mutex_);
  VhostUserChannel channel_ ABSL_GUARDED_BY(mutex_);
  VhostUserChannel backend_ ABSL_GUARDED_BY(mutex_);
  // The VMM's.
  UniqueFd process_ ABSL_GUARDED_BY(mutex_);
  pid_t pid_ ABSL_GUARDED_BY(mutex_) = 0;
  bool abandoned_ ABSL_GUARDED_BY(mutex_) = false;
  // In the order in which they were sent, which is that of the answers.
  std::deque<std::shared_ptr<Pending>> pending_ ABSL_GUARDED_BY(mutex_);

  uint64_t features_ ABSL_GUARDED_BY(mutex_) = 0;
  uint16_t queue_count_ ABSL_GUARDED_BY(mutex_) = 0;
  std::vector<std::unique_ptr<Queue>> queues_ ABSL_GUARDED_BY(mutex_);
  // As last read; bits that were set and not seen refused.
  uint8_t status_ ABSL_GUARDED_BY(mutex_) = 0;
  // A queue was enabled since the last reset, or may have been: without one the
  // VMM touches nothing, whatever became of the connection.
  bool enabled_ ABSL_GUARDED_BY(mutex_) = false;
  // A reset was asked for and is not complete.
  bool resetting_ ABSL_GUARDED_BY(mutex_) = false;
  steady_clock::time_point reset_deadline_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::byte> config_ ABSL_GUARDED_BY(mutex_);
  bool config_is_current_ ABSL_GUARDED_BY(mutex_) = false;
  uint32_t generation_ ABSL_GUARDED_BY(mutex_) = 0;
  Notifier* config_notifier_ ABSL_GUARDED_BY(mutex_) = nullptr;

  std::thread thread_;
};

absl::StatusOr<std::unique_ptr<VhostUserDevice>> VhostUserDevice::Connect(
    const std::string& path, GuestRam& ram,
    const VhostUserDeviceOptions& options) {
  if (ram.memfd() < 0) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "guest RAM of source %s%s: another process can map only a %s or a %s",
        ram.foreign() ? "foreign " : "", Name(ram.source()),
        Name(MemorySource::kSharedMemfd), Name(MemorySource::kHugetlb)));
  }
  auto front_end = std::make_unique<FrontEnd>(path, ram, options);
  if (absl::Status status = front_end->Connect(); !status.ok()) return status;
  return std::unique_ptr<VhostUserDevice>(
      new VhostUserDevice(std::move(front_end)));
}

VhostUserDevice::VhostUserDevice(std::unique_ptr<FrontEnd> front_end)
    : front_end_(std::move(front_end)) {}

VhostUserDevice::~VhostUserDevice() = default;

absl::Status VhostUserDevice::Reconnect() { return front_end_->Reconnect(); }

void VhostUserDevice::Abandon() { front_end_->Abandon(); }

absl::Status VhostUserDevice::connection() const {
  return front_end_->connection();
}

pid_t VhostUserDevice::vmm_pid() const { return front_end_->vmm_pid(); }

uint32_t VhostUserDevice::device_id() const { return front_end_->device_id(); }

uint64_t VhostUserDevice::DeviceFeatures() const {
  return front_end_->features();
}

absl::Status VhostUserDevice::SetDriverFeatures(uint64_t features) {
  return front_end_->SetDriverFeatures(features);
}

uint8_t VhostUserDevice::status() const { return front_end_->Status(); }

void VhostUserDevice::SetStatus(uint8_t status) {
  front_end_->SetStatus(status);
}

uint32_t VhostUserDevice::ConfigGeneration() const {
  return front_end_->ConfigGeneration();
}

absl::Status VhostUserDevice::ReadConfig(uint32_t offset,
                                         std::span<std::byte> bytes) const {
  return front_end_->ReadConfig(offset, bytes);
}

absl::Status VhostUserDevice::WriteConfig(uint32_t offset,
                                          std::span<const std::byte> bytes) {
  return front_end_->WriteConfig(offset, bytes);
}

uint16_t VhostUserDevice::MaxQueueSize(uint16_t index) const {
  return front_end_->MaxQueueSize(index);
}

absl::StatusOr<Notifier*> VhostUserDevice::SetUpQueue(
    uint16_t index, const VirtqueueLayout& layout, Notifier& used) {
  return front_end_->SetUpQueue(index, layout, used);
}

void VhostUserDevice::SetConfigNotifier(Notifier& config) {
  front_end_->SetConfigNotifier(config);
}

}  // namespace guestmm
