#ifndef GUESTMM_TESTS_VIRTIO_VHOST_USER_BACK_END_SESSION_TESTING_H_
#define GUESTMM_TESTS_VIRTIO_VHOST_USER_BACK_END_SESSION_TESTING_H_

// A VhostUserServer of balloons, and front ends that send it single messages.

#include <gtest/gtest.h>
#include <poll.h>
#include <unistd.h>

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "guestmm/base/unique_fd.h"
#include "guestmm/base/units.h"
#include "guestmm/ram/guest_ram.h"
#include "guestmm/virtio/vhost_user/back_end/server.h"
#include "guestmm/virtio/vhost_user/vhost_user.h"
#include "guestmm/virtio/wire/balloon.h"
#include "guestmm/vmm/balloon_factory.h"
#include "tests/virtio/vhost_user/vhost_user_testing.h"
#include "tests/virtio/virtio_testing.h"

namespace guestmm {

// The user address at which front ends claim to have guest RAM.
inline constexpr uint64_t kUserBase = 0x7f00'0000'0000;

inline VhostUserSingleRegion RegionAt(uint64_t gpa, uint64_t bytes,
                                      uint64_t offset = 0) {
  return {.padding = 0,
          .region = {.guest_phys_addr = gpa,
                     .size = bytes,
                     .userspace_addr = kUserBase + gpa,
                     .mmap_offset = offset}};
}

// Collects how sessions ended. The reason is kept as text: a copied Status is
// shared with the server's thread, by means that ThreadSanitizer does not see.
class Ends {
 public:
  void Add(const VhostUserSessionInfo& info, const absl::Status& why) {
    std::lock_guard hold(mutex_);
    ends_.emplace_back(info, why.ToString());
    changed_.notify_all();
  }
  std::pair<VhostUserSessionInfo, std::string> Next() {
    std::unique_lock hold(mutex_);
    changed_.wait(hold, [&] { return !ends_.empty(); });
    auto end = ends_.front();
    ends_.pop_front();
    return end;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::pair<VhostUserSessionInfo, std::string>> ends_;
};

class VhostUserSessionTest : public ::testing::Test {
 protected:
  ScriptedFrontEnd Connect() {
    auto [near, far] = MakeSocketPair();
    EXPECT_TRUE(server_.Serve(std::move(far)).ok());
    return ScriptedFrontEnd(std::move(near));
  }

  Ends ends_;
  BalloonFactory balloons_;
  VhostUserServer server_{balloons_.maker(),
                          {.max_sessions = 4,
                           .max_regions = 3,
                           .max_guest_bytes = 64 * kMiB,
                           .on_end = [this](const auto& info, const auto& why) {
                             ends_.Add(info, why);
                           }}};
};

// A guest that follows the protocol, message by message.
class HonestGuest {
 public:
  using Request = VhostUserRequest;

  // The index of its one queue.
  static constexpr uint16_t kReporting = 2;
  static constexpr uint64_t kRamBytes = 4 * kMiB;

  explicit HonestGuest(ScriptedFrontEnd front) : front_(std::move(front)) {
    front_.ShakeHands();
  }

  static VirtqueueLayout Layout() { return LayOutVirtqueue(Gpa(0x10000), 8); }

  void Share() {
    const int memfd = ram_->memfd();
    ASSERT_EQ(front_.Tell(Request::kAddMemReg, RegionAt(0, kRamBytes),
                          std::span(&memfd, 1)),
              absl::StatusCode::kOk);
  }
  void AgreeOnFeatures(uint64_t features = kVirtioFVersion1 |
                                           kBalloonFPageReporting) {
    ASSERT_EQ(front_.Tell(Request::kSetStatus, uint64_t{3}),
              absl::StatusCode::kOk);
    ASSERT_EQ(front_.Tell(Request::kSetFeatures,
                          features | kVhostUserFProtocolFeatures),
              absl::StatusCode::kOk);
    ASSERT_EQ(front_.Tell(Request::kSetStatus, uint64_t{11}),
              absl::StatusCode::kOk);
  }
  void DescribeQueue() {
    const VhostUserVringState num = {.index = kReporting, .num = 8};
    ASSERT_EQ(front_.Tell(Request::kSetVringNum, num), absl::StatusCode::kOk);
    const VhostUserVringAddr addresses = {
        .index = kReporting,
        .flags = 0,
        .descriptors = kUserBase + Layout().descriptors.value(),
        .used = kUserBase + Layout().used.value(),
        .available = kUserBase + Layout().available.value(),
        .log = 0};
    ASSERT_EQ(front_.Tell(Request::kSetVringAddr, addresses),
              absl::StatusCode::kOk);
    const int call = call_.get();
    ASSERT_EQ(front_.Tell(Request::kSetVringCall, uint64_t{kReporting},
                          std::span(&call, 1)),
              absl::StatusCode::kOk);
    const int kick = kick_.get();
    ASSERT_EQ(front_.Tell(Request::kSetVringKick, uint64_t{kReporting},
                          std::span(&kick, 1)),
              absl::StatusCode::kOk);
  }
  std::optional<absl::StatusCode> Enable(uint32_t number = 1) {
    return front_.Tell(Request::kSetVringEnable,
                       VhostUserVringState{.index = kReporting, .num = number});
  }
  void Start() {
    Share();
    AgreeOnFeatures();
    DescribeQueue();
    ASSERT_EQ(Enable(), absl::StatusCode::kOk);
    ASSERT_EQ(front_.Tell(Request::kSetStatus, uint64_t{15}),
              absl::StatusCode::kOk);
  }

  // Reports a page and waits for the call. True if the page was discarded.
  bool ReportOne() {
    const GpaRange page = {Gpa(kMiB), kPageSize};
    std::byte* const at = ram_->Translate(page)->bytes().data();
    *at = std::byte{0x5a};
    driver_.OfferChain({{page.gpa.value(), kPageSize, kVirtqDescWrite, 0}});
    const uint64_t one = 1;
    EXPECT_EQ(write(kick_.get(), &one, sizeof(one)), 8);
    if (!AwaitEvents(call_.get(), POLLIN)) return false;
    uint64_t calls = 0;
    EXPECT_EQ(read(call_.get(), &calls, sizeof(calls)), 8);
    return *at == std::byte{0};
  }

  ScriptedFrontEnd& front() { return front_; }
  HostileDriver& driver() { return driver_; }
  GuestRam& ram() { return *ram_; }
  int kick() const { return kick_.get(); }
  int call() const { return call_.get(); }

 private:
  ScriptedFrontEnd front_;
  const std::unique_ptr<GuestRam> ram_ =
      GuestRam::Create({.regions = {{Gpa(0), kRamBytes}},
                        .source = MemorySource::kSharedMemfd})
          .value();
  const UniqueFd kick_ = MakeEventFd();
  const UniqueFd call_ = MakeEventFd();
  HostileDriver driver_{*ram_, Layout()};
};

}  // namespace guestmm

#endif  // GUESTMM_TESTS_VIRTIO_VHOST_USER_BACK_END_SESSION_TESTING_H_
