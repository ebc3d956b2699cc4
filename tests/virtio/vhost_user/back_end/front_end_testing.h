#ifndef GUESTMM_TESTS_VIRTIO_VHOST_USER_BACK_END_FRONT_END_TESTING_H_
#define GUESTMM_TESTS_VIRTIO_VHOST_USER_BACK_END_FRONT_END_TESTING_H_

// The front ends of QEMU, crosvm and Cloud Hypervisor: the messages that each
// sends, in its order. They differ in what they negotiate, in who gets a reply,
// in how memory is shared, and in what a pause is.

#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <ostream>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "guestmm/base/unique_fd.h"
#include "guestmm/base/units.h"
#include "guestmm/virtio/vhost_user/vhost_user.h"
#include "guestmm/virtio/wire/balloon.h"
#include "tests/virtio/vhost_user/back_end/guest_testing.h"
#include "tests/virtio/vhost_user/vhost_user_testing.h"

namespace guestmm {

enum class FrontEndKind { kQemu, kCrosvm, kCloudHypervisor };

inline constexpr std::array kFrontEndKinds = {
    FrontEndKind::kQemu, FrontEndKind::kCrosvm, FrontEndKind::kCloudHypervisor};

constexpr const char* Name(FrontEndKind kind) {
  switch (kind) {
    case FrontEndKind::kQemu:
      return "Qemu";
    case FrontEndKind::kCrosvm:
      return "Crosvm";
    case FrontEndKind::kCloudHypervisor:
      return "CloudHypervisor";
  }
  return "";
}
inline void PrintTo(FrontEndKind kind, std::ostream* os) { *os << Name(kind); }

class FrontEnd {
 public:
  using Request = VhostUserRequest;

  // Closes the connection instead of sending message `at`, or after half of it.
  struct Cut {
    size_t at;
    bool torn;
  };

  FrontEnd(FrontEndKind kind, GuestMemory& memory, ReportingGuest& guest,
           UniqueFd socket, std::optional<Cut> cut = {})
      : kind_(kind),
        memory_(memory),
        guest_(guest),
        front_(std::move(socket)),
        cut_(cut) {}

  // The features that the guest's driver accepts.
  uint64_t features =
      kVirtioFVersion1 | kVirtioFEventIdx | kBalloonFPageReporting;

  // What is sent when the connection is made.
  void Connect() {
    if (kind_ == FrontEndKind::kQemu) {
      Ask(Request::kGetFeatures);
      Negotiate(kVhostUserProtocolFeatures);
      Ask(Request::kGetQueueNum);
      Ask(Request::kGetMaxMemSlots);
      SendBackendReqFd();
      TellBytes(Request::kSetOwner, {});
      Ask(Request::kGetFeatures);
      for (uint16_t index = 0; index < kQueues; ++index) {
        SendFd(Request::kSetVringCall, index, guest_.call());
        SendFd(Request::kSetVringErr, index, error_.get());
      }
      return;
    }
    TellBytes(Request::kSetOwner, {});
    Ask(Request::kGetFeatures);
    if (kind_ == FrontEndKind::kCrosvm) {
      Negotiate(kVhostUserProtocolConfig | kVhostUserProtocolMq |
                kVhostUserProtocolBackendReq | kVhostUserProtocolReplyAck);
      SendBackendReqFd();
    } else {
      Negotiate(kVhostUserProtocolConfig | kVhostUserProtocolMq |
                kVhostUserProtocolMemSlots | kVhostUserProtocolReplyAck);
    }
    Ask(Request::kGetQueueNum);
  }

  // The guest's driver is ready: rings go on at `bases`.
  void Start(std::span<const uint16_t> bases = kFromTheStart) {
    Tell(Request::kSetFeatures, features | kVhostUserFProtocolFeatures);
    if (kind_ == FrontEndKind::kQemu) {
      // It never gets further than FEATURES_OK.
      Tell(Request::kSetStatus,
           Ask(Request::kGetStatus).value_or(0) | kVirtioFeaturesOk);
      for (; shared_ < memory_.parts().size(); ++shared_) {
        AddMemReg(memory_.parts()[shared_]);
      }
    } else {
      SetMemTable();
    }
    for (uint16_t index = 0; index < kQueues; ++index) {
      SetUp(index, bases[index]);
      if (kind_ == FrontEndKind::kCrosvm) Enable(index, 1);
    }
    if (kind_ == FrontEndKind::kCrosvm) return;
    for (uint16_t index = 0; index < kQueues; ++index) Enable(index, 1);
    if (kind_ == FrontEndKind::kCloudHypervisor) return;
    for (uint16_t index = 0; index < kQueues; ++index) {
      SendFd(Request::kSetVringCall, index, guest_.call());
    }
    GetConfig();
    // It signals the eventfds that it takes over.
    guest_.Notify();
  }

  // The guest resets the device, unbinds its driver, or shuts down. Returns
  // where the rings are.
  std::array<uint16_t, ReportingGuest::kQueues> Stop() {
    std::array<uint16_t, ReportingGuest::kQueues> bases = {};
    for (uint16_t index = 0; index < kQueues; ++index) {
      Enable(index, 0);
      if (kind_ == FrontEndKind::kCrosvm) bases[index] = GetBase(index);
    }
    if (kind_ == FrontEndKind::kCrosvm) return bases;
    for (uint16_t index = 0; index < kQueues; ++index) {
      bases[index] = GetBase(index);
    }
    return bases;
  }

  // The VM is paused, and goes on.
  void Pause() {
    if (kind_ != FrontEndKind::kCloudHypervisor) {
      bases_ = Stop();
      return;
    }
    for (uint16_t index = 0; index < kQueues; ++index) Enable(index, 0);
  }
  void Resume() {
    if (kind_ != FrontEndKind::kCloudHypervisor) {
      Start(bases_);
      return;
    }
    for (uint16_t index = 0; index < kQueues; ++index) Enable(index, 1);
  }
  // Where the reporting ring was when it was paused. REQUIRES: kind_ asks.
  uint16_t base() const { return bases_[ReportingGuest::kReporting]; }

  // Memory was plugged into or will be unplugged from the running guest.
  void MemoryAdded() {
    if (kind_ == FrontEndKind::kCrosvm) {
      SetMemTable();
      return;
    }
    AddMemReg(memory_.parts().back());
    shared_ = memory_.parts().size();
  }
  // REQUIRES: the last part that was added.
  void MemoryRemoved() {
    if (kind_ == FrontEndKind::kCrosvm) {
      SetMemTable(memory_.parts().size() - 1);
      return;
    }
    // With the region's fd, as QEMU and the specification have it.
    shared_ = memory_.parts().size() - 1;
    const int fd = memory_.parts()[shared_].memfd.get();
    Tell(Request::kRemMemReg, SingleRegion(shared_), std::span(&fd, 1),
         /*wants_reply=*/true);
  }

  // The guest writes poison_val: QEMU passes the whole configuration on.
  // Refusals are expected, and told.
  bool WritePoison(uint32_t value) {
    WholeConfig whole;
    whole.config.poison_val = value;
    struct {
      VhostUserConfigHeader header = {offsetof(BalloonConfig, poison_val),
                                      sizeof(uint32_t), 0};
      uint32_t value = 0;
    } field;
    field.value = value;
    const size_t before = refused_.size();
    TellBytes(Request::kSetConfig,
              kind_ == FrontEndKind::kQemu ? BytesOf(whole) : BytesOf(field),
              {}, /*wants_reply=*/true);
    const bool taken = refused_.size() == before;
    refused_.resize(before);
    return taken;
  }

  // Waits until the back end has handled what was sent.
  void Sync() { Ask(Request::kGetFeatures); }

  // Requests that were answered with an error, or not at all.
  const std::vector<std::string>& refused() const { return refused_; }
  // Messages sent.
  size_t sent() const { return sent_; }
  bool closed() const { return front_.fd() < 0; }
  // The eventfd of SET_VRING_ERR.
  int error() const { return error_.get(); }

  // For messages that no front end sends.
  ScriptedFrontEnd& scripted() { return front_; }
  // With a payload the second half of it is missing, else of the header.
  void SendTorn(Request request, std::span<const std::byte> payload) {
    const VhostUserHeader header = {
        .request = static_cast<uint32_t>(request),
        .flags = kVhostUserVersion,
        .size = static_cast<uint32_t>(payload.size())};
    std::vector<std::byte> bytes(BytesOf(header).begin(),
                                 BytesOf(header).end());
    bytes.insert(bytes.end(), payload.begin(), payload.end());
    bytes.resize(payload.empty() ? sizeof(header) / 2
                                 : sizeof(header) + payload.size() / 2);
    [[maybe_unused]] const ssize_t sent =
        send(front_.fd(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
  }

  // Payloads. The table of the first `count` parts, with their fds.
  std::vector<std::byte> MemTable(size_t count, std::vector<int>& fds) const {
    const std::span<const GuestMemory::Part> parts = memory_.parts();
    const std::span<const GuestMemory::Part> shared =
        parts.first(std::min(count, parts.size()));
    const VhostUserMemTableHeader header = {
        static_cast<uint32_t>(shared.size()), 0};
    std::vector<std::byte> payload(BytesOf(header).begin(),
                                   BytesOf(header).end());
    for (const GuestMemory::Part& part : shared) {
      const VhostUserRegion region = RegionOf(part);
      payload.insert(payload.end(), BytesOf(region).begin(),
                     BytesOf(region).end());
      fds.push_back(part.memfd.get());
    }
    return payload;
  }
  VhostUserSingleRegion SingleRegion(size_t part) const {
    return {0, RegionOf(memory_.parts()[part])};
  }
  VhostUserVringAddr Addresses(uint16_t index) const {
    const VirtqueueLayout layout = guest_.Layout(index);
    return {.index = index,
            .flags = 0,
            .descriptors = UserAddress(layout.descriptors),
            .used = UserAddress(layout.used),
            .available = UserAddress(layout.available),
            // Without LOG_ALL it means nothing.
            .log = layout.used.value()};
  }

 private:
  static constexpr uint16_t kQueues = ReportingGuest::kQueues;
  static constexpr std::array<uint16_t, kQueues> kFromTheStart = {};

  // GET_CONFIG and SET_CONFIG of all fields.
  struct WholeConfig {
    VhostUserConfigHeader header = {0, sizeof(BalloonConfig), 0};
    BalloonConfig config;
  };

  static VhostUserRegion RegionOf(const GuestMemory::Part& part) {
    return {.guest_phys_addr = part.range.gpa.value(),
            .size = part.range.bytes,
            .userspace_addr = UserAddress(part.range.gpa),
            .mmap_offset = part.offset};
  }
  // As QEMU's, no multiple of 2 MiB.
  static uint64_t UserAddress(Gpa gpa) {
    return 0x7f30'37ff'f000 + gpa.value();
  }

  // True if message number sent_ may be sent.
  bool Next(Request request, std::span<const std::byte> payload) {
    if (closed()) return false;
    if (cut_ && cut_->at == sent_) {
      if (cut_->torn) SendTorn(request, payload);
      front_ = ScriptedFrontEnd();
      return false;
    }
    ++sent_;
    return true;
  }
  void TellBytes(Request request, std::span<const std::byte> payload,
                 std::span<const int> fds = {}, bool wants_reply = false) {
    if (!Next(request, payload)) return;
    // crosvm and Cloud Hypervisor want a reply to everything.
    if (!wants_reply && (kind_ == FrontEndKind::kQemu || !has_replies_)) {
      front_.SendBytes(request, payload, fds);
      return;
    }
    const std::optional<absl::StatusCode> code =
        front_.TellBytes(request, payload, fds);
    if (code == absl::StatusCode::kOk) return;
    refused_.push_back(
        absl::StrCat(Name(request), ": ", code ? static_cast<int>(*code) : -1));
  }
  template <typename T>
  void Tell(Request request, const T& payload, std::span<const int> fds = {},
            bool wants_reply = false) {
    TellBytes(request, BytesOf(payload), fds, wants_reply);
  }
  std::optional<uint64_t> Ask(Request request) {
    if (!Next(request, {})) return std::nullopt;
    const std::optional<uint64_t> reply = front_.Ask(request);
    if (!reply) refused_.emplace_back(Name(request));
    return reply;
  }
  void Negotiate(uint64_t wanted) {
    const uint64_t offered = Ask(Request::kGetProtocolFeatures).value_or(0);
    Tell(Request::kSetProtocolFeatures, offered & wanted);
    has_replies_ = (offered & wanted & kVhostUserProtocolReplyAck) != 0;
  }
  void SendBackendReqFd() {
    auto [near, far] = MakeSocketPair();
    backend_ = std::move(near);
    const int fd = far.get();
    TellBytes(Request::kSetBackendReqFd, {}, std::span(&fd, 1),
              /*wants_reply=*/true);
  }
  void SendFd(Request request, uint64_t index, int fd) {
    Tell(request, index, std::span(&fd, 1));
  }
  void Enable(uint16_t index, uint32_t number) {
    Tell(Request::kSetVringEnable,
         VhostUserVringState{.index = index, .num = number}, {},
         /*wants_reply=*/true);
  }
  void GetConfig() {
    const WholeConfig whole;
    if (!Next(Request::kGetConfig, BytesOf(whole))) return;
    front_.Send(Request::kGetConfig, whole);
    const std::optional<VhostUserMessage> reply = front_.Receive();
    if (!reply || !reply->As<WholeConfig>().ok()) {
      refused_.emplace_back("GET_CONFIG");
    }
  }
  uint16_t GetBase(uint16_t index) {
    const VhostUserVringState state = {.index = index, .num = 0};
    if (!Next(Request::kGetVringBase, BytesOf(state))) return 0;
    front_.Send(Request::kGetVringBase, state);
    const std::optional<VhostUserMessage> reply = front_.Receive();
    if (!reply || !reply->As<VhostUserVringState>().ok()) {
      refused_.emplace_back("GET_VRING_BASE");
      return 0;
    }
    return static_cast<uint16_t>(reply->As<VhostUserVringState>()->num);
  }
  void AddMemReg(const GuestMemory::Part& part) {
    const int fd = part.memfd.get();
    Tell(Request::kAddMemReg, VhostUserSingleRegion{0, RegionOf(part)},
         std::span(&fd, 1), /*wants_reply=*/true);
  }
  // Of the first `count` parts, or of all.
  void SetMemTable(size_t count = SIZE_MAX) {
    std::vector<int> fds;
    const std::vector<std::byte> table = MemTable(count, fds);
    TellBytes(Request::kSetMemTable, table, fds);
  }
  void SetUp(uint16_t index, uint16_t base) {
    const VhostUserVringAddr addresses = Addresses(index);
    const VhostUserVringState num = {.index = index,
                                     .num = ReportingGuest::kSize};
    const VhostUserVringState from = {.index = index, .num = base};
    Tell(Request::kSetVringNum, num);
    if (kind_ == FrontEndKind::kQemu) {
      Tell(Request::kSetVringBase, from);
      Tell(Request::kSetVringAddr, addresses);
      SendFd(Request::kSetVringKick, index, Kick(index));
      SendFd(Request::kSetVringCall, index, guest_.call());
      return;
    }
    Tell(Request::kSetVringAddr, addresses);
    Tell(Request::kSetVringBase, from);
    SendFd(Request::kSetVringCall, index, guest_.call());
    SendFd(Request::kSetVringKick, index, Kick(index));
  }
  // Only the reporting queue is ever kicked.
  int Kick(uint16_t index) const {
    return index == ReportingGuest::kReporting ? guest_.kick()
                                               : other_kicks_[index].get();
  }

  const FrontEndKind kind_;
  GuestMemory& memory_;
  ReportingGuest& guest_;
  ScriptedFrontEnd front_;
  const std::optional<Cut> cut_;
  UniqueFd backend_;
  UniqueFd error_ = MakeEventFd();
  std::array<UniqueFd, kQueues> other_kicks_ = {MakeEventFd(), MakeEventFd(),
                                                MakeEventFd()};
  bool has_replies_ = false;
  // Parts that were sent by ADD_MEM_REG.
  size_t shared_ = 0;
  std::array<uint16_t, kQueues> bases_ = {};
  size_t sent_ = 0;
  std::vector<std::string> refused_;
};

}  // namespace guestmm

#endif  // GUESTMM_TESTS_VIRTIO_VHOST_USER_BACK_END_FRONT_END_TESTING_H_
