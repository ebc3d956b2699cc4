#ifndef GUESTMM_TESTS_VIRTIO_VHOST_USER_BACK_END_CONVERSATION_FUZZING_H_
#define GUESTMM_TESTS_VIRTIO_VHOST_USER_BACK_END_CONVERSATION_FUZZING_H_

// A guest and its front end, who do what an input says: whole conversations
// with rings that run, and messages that are valid, slightly wrong, torn or out
// of order.
//
//   kind of front end: 1 byte | steps of 4 bytes
//
// The guest's driver keeps to the rules, so whatever the messages say, its
// pages in use stay as they are and its ring never breaks, until the front end
// lies to the device about where rings and memory are. From then on it is
// enough that the back end survives, until the next connection, which begins
// anew.

#include <gtest/gtest.h>
#include <poll.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "guestmm/base/check.h"
#include "guestmm/base/unique_fd.h"
#include "guestmm/virtio/vhost_user/vhost_user.h"
#include "tests/testing/fuzz_input.h"
#include "tests/virtio/vhost_user/back_end/front_end_testing.h"
#include "tests/virtio/vhost_user/back_end/guest_testing.h"
#include "tests/virtio/vhost_user/vhost_user_testing.h"

namespace guestmm {

// What talks to the back end.
class FuzzedConversation {
 public:
  // Connects to a back end; ends the former connection.
  using Connect = std::function<UniqueFd()>;

  // `serve` runs the back end until it waits, if it runs on this thread, and
  // `settle` its device, too.
  FuzzedConversation(GuestMemory& memory, Connect connect,
                     std::function<void()> serve, std::function<void()> settle)
      : memory_(memory),
        connect_(std::move(connect)),
        serve_(std::move(serve)),
        settle_(std::move(settle)) {}

  void Run(FuzzInput input) {
    kind_ = kFrontEndKinds[input.Take<uint8_t>() % kFrontEndKinds.size()];
    Reconnect();
    while (!input.rest().empty()) Do(input.Take<Step>());
    // Whatever has happened, the next connection works.
    Reconnect();
    Start();
    const GpaRange unit = memory_.unit_at(0);
    guest_.fate = ReportingGuest::Fate::kDiscarded;
    guest_.Offer(unit);
    guest_.Notify();
    settle_();
    GUESTMM_CHECK(guest_.AwaitAll()) << "a report is not returned";
    CheckMemory();
    // Its memory is not the back end's any more.
    front_.reset();
  }

  // True if the device may discard the range.
  bool MayDiscard(GpaRange range) const {
    return lies_ || memory_.IsLent(range);
  }

 private:
  struct Step {
    uint8_t what;
    uint8_t a;
    uint8_t b;
    uint8_t c;
  };
  using Request = VhostUserRequest;

  // Ends the connection, if any. All is as it should be again.
  void Reconnect() {
    front_.reset();
    const bool was_lying = std::exchange(lies_, false);
    front_.emplace(kind_, memory_, guest_, connect_());
    front_->scripted().serve = serve_;
    // After the former back end has let go of the memory.
    guest_.Bind(0);
    guest_.fate = ReportingGuest::Fate::kUnknown;
    if (was_lying) {
      for (const GpaRange& region : memory_.ram().regions()) {
        memory_.Use(region);
      }
    }
    front_->Connect();
  }
  void Start() {
    front_->Start();
    Drain();
  }

  void Do(const Step& step) {
    switch (step.what % 16) {
      case 0:
        // The guest's driver is bound, again.
        front_->Stop();
        // If that was refused or unheard, the rings may be in use.
        Drain();
        if (!IsAlive()) return Reconnect();
        if (step.a % 2 != 0) guest_.Bind(step.b % 2);
        Start();
        break;
      case 1:
        front_->Pause();
        break;
      case 2:
        front_->Resume();
        break;
      case 3:
        front_->WritePoison(step.a % 2 * 0xaaaaaaaau);
        break;
      case 4:
        front_->features ^=
            step.a % 2 != 0 ? kBalloonFPagePoison : kBalloonFPageReporting;
        break;
      case 5:
      case 6:
      case 7: {
        const GpaRange unit = memory_.unit_at(step.a);
        if (guest_.outstanding() == ReportingGuest::kSize ||
            memory_.IsLent(unit)) {
          return;
        }
        guest_.Offer(unit);
        if (step.b % 4 != 0) guest_.Kick();
        break;
      }
      case 8:
        guest_.Notify();
        serve_();
        break;
      case 9:
        settle_();
        if (!guest_.TakeReturned()) {
          GUESTMM_CHECK(lies_) << "the used ring is broken";
          Reconnect();
        }
        break;
      case 10:
        CheckMemory();
        break;
      case 11:
        if (step.a % 8 == 0) Reconnect();
        break;
      case 12:
        if (step.a % 8 == 0) Scribble(step);
        break;
      default:
        Send(step);
    }
  }

  // A message from the table below.
  void Send(const Step& step) {
    // Those that a front end sends, and some that are not supported.
    static constexpr std::array<uint32_t, 36> kRequests = {
        1,  2,  3,  4,  5,  8,  9,  10, 11, 12, 13, 14, 15, 16, 18, 21, 24, 25,
        34, 36, 37, 38, 39, 40, 11, 18, 10, 12, 6,  7,  19, 31, 32, 33, 41, 99};
    const auto request =
        static_cast<Request>(kRequests[step.a % kRequests.size()]);
    std::vector<int> fds;
    std::vector<std::byte> payload = Payload(request, step, fds);
    switch (step.c % 16) {
      case 1:
        if (!payload.empty()) payload.pop_back();
        break;
      case 2:
        payload.resize(payload.size() + 1 + step.b);
        break;
      case 3:
        fds.clear();
        break;
      case 4:
        fds.resize(step.b % (kVhostUserMaxFds + 1), memory_fd());
        break;
      case 5:
        if (!payload.empty()) {
          payload[step.b % payload.size()] ^= std::byte{0x81};
          lies_ |= Describes(request);
        }
        break;
      case 6: {
        // Torn: the rest never comes.
        front_->SendTorn(request, payload);
        return Reconnect();
      }
      default:
        break;
    }
    front_->scripted().SendBytes(request, payload, fds,
                                 step.c >= 128 ? kVhostUserNeedReply : 0);
    Drain();
    if (!IsAlive()) Reconnect();
  }
  // True for messages about where rings and memory are.
  static bool Describes(Request request) {
    return request == Request::kSetMemTable || request == Request::kAddMemReg ||
           request == Request::kRemMemReg || request == Request::kSetVringNum ||
           request == Request::kSetVringAddr;
  }
  int memory_fd() const { return memory_.parts()[0].memfd.get(); }

  // A valid payload, or nearly.
  std::vector<std::byte> Payload(Request request, const Step& step,
                                 std::vector<int>& fds) {
    const auto bytes = [](const auto& value) {
      return std::vector<std::byte>(BytesOf(value).begin(),
                                    BytesOf(value).end());
    };
    const uint32_t index = step.b % 4;
    const bool is_odd = step.b >= 192;
    switch (request) {
      case Request::kSetFeatures:
        return bytes(front_->features |
                     (is_odd ? 0 : kVhostUserFProtocolFeatures));
      case Request::kSetProtocolFeatures:
        // Without replies the front end would wait for ever.
        return bytes((kVhostUserProtocolFeatures & ~uint64_t{step.b}) |
                     kVhostUserProtocolReplyAck);
      case Request::kSetMemTable:
        return front_->MemTable(step.b % 3, fds);
      case Request::kSetVringNum:
        if (is_odd) lies_ = true;
        return bytes(VhostUserVringState{
            index, is_odd ? 1u << (step.b % 16) : ReportingGuest::kSize});
      case Request::kSetVringAddr: {
        VhostUserVringAddr addresses = front_->Addresses(index % 3);
        if (is_odd) {
          lies_ = true;
          addresses.used += step.b % 32 * kPageSize / 2;
          addresses.available -= step.b % 8 * kPageSize;
        }
        return bytes(addresses);
      }
      case Request::kSetVringBase:
        return bytes(VhostUserVringState{
            index, is_odd ? 0xf000 + step.b
                          : guest_.UsedIndex(index % 3) + step.b / 64u});
      case Request::kGetVringBase:
      case Request::kSetVringEnable:
        return bytes(VhostUserVringState{index, step.b / 16u % 3});
      case Request::kSetVringKick:
      case Request::kSetVringCall:
      case Request::kSetVringErr: {
        if (is_odd) return bytes(uint64_t{index} | kVhostUserVringNoFd);
        const bool is_own = index == ReportingGuest::kReporting;
        fds.push_back(!is_own                             ? other_.get()
                      : request == Request::kSetVringCall ? guest_.call()
                                                          : guest_.kick());
        return bytes(uint64_t{index});
      }
      case Request::kSetBackendReqFd:
        fds.push_back(backend_.second.get());
        return {};
      case Request::kGetConfig:
      case Request::kSetConfig: {
        std::vector<std::byte> whole =
            bytes(VhostUserConfigHeader{step.b % 20u, step.b / 16u, 0});
        whole.resize(whole.size() + step.b / 16);
        return whole;
      }
      case Request::kAddMemReg:
      case Request::kRemMemReg: {
        VhostUserSingleRegion single = front_->SingleRegion(0);
        if (request == Request::kAddMemReg) {
          fds.push_back(memory_fd());
          if (is_odd) {
            // Memory that the guest does not know of.
            single.region.guest_phys_addr += kTiB * (step.b % 4);
            single.region.userspace_addr += kTiB * (step.b % 4);
          }
        }
        return bytes(single);
      }
      case Request::kSetStatus:
        return bytes(uint64_t{step.b} & 0x8f);
      default:
        return std::vector<std::byte>(step.b % 3 * 4);
    }
  }

  // Writes to the ring what a driver must not.
  void Scribble(const Step& step) {
    lies_ = true;
    const auto layout = guest_.Layout(step.b % ReportingGuest::kQueues);
    const VirtqueueMemory memory =
        VirtqueueMemory::Map(memory_.ram(), layout).value();
    const uint16_t slot = step.c % ReportingGuest::kSize;
    switch (step.b / 4 % 4) {
      case 0:
        memory.available_idx().store(step.c);
        break;
      case 1:
        memory.available_ring(slot).store(step.c);
        break;
      case 2:
        memory.used_idx().store(step.c);
        break;
      default:
        memory.StoreDescriptor(slot,
                               {.addr = step.c * kPageSize,
                                .len = uint32_t{step.b} << (step.c % 25),
                                .flags = static_cast<uint16_t>(step.c % 8),
                                .next = static_cast<uint16_t>(step.b % 16)});
    }
  }

  // Takes all replies, so that the next message gets its own.
  void Drain() {
    ScriptedFrontEnd& scripted = front_->scripted();
    if (!IsAlive()) return;
    scripted.SendBytes(Request::kGetQueueNum, {});
    while (const auto reply = scripted.Receive()) {
      if (reply->request() == Request::kGetQueueNum) return;
    }
    GUESTMM_CHECK(!IsAlive()) << "the back end does not answer";
  }
  bool IsAlive() {
    pollfd polled = {
        .fd = front_->scripted().fd(), .events = POLLRDHUP, .revents = 0};
    return poll(&polled, 1, 0) == 0 ||
           (polled.revents & (POLLRDHUP | POLLHUP | POLLERR)) == 0;
  }

  void CheckMemory() const {
    if (lies_) return;
    const std::string wrong = memory_.WrongPages();
    GUESTMM_CHECK(wrong.empty()) << wrong;
  }

  GuestMemory& memory_;
  const Connect connect_;
  const std::function<void()> serve_;
  const std::function<void()> settle_;
  FrontEndKind kind_ = FrontEndKind::kQemu;
  ReportingGuest guest_{memory_};
  std::optional<FrontEnd> front_;
  const UniqueFd other_ = MakeEventFd();
  const std::pair<UniqueFd, UniqueFd> backend_ = MakeSocketPair();
  // The front end has said something untrue of rings or memory.
  bool lies_ = false;
};

}  // namespace guestmm

#endif  // GUESTMM_TESTS_VIRTIO_VHOST_USER_BACK_END_CONVERSATION_FUZZING_H_
