// One session of a VhostUserServer, with front ends that break the rules.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <limits>
#include <vector>

#include "absl/strings/str_cat.h"
#include "guestmm/base/random.h"
#include "tests/virtio/vhost_user/back_end/session_testing.h"
#include "tests/virtio/vhost_user/vhost_user_testing.h"

namespace guestmm::session_test {
namespace {

using ::testing::HasSubstr;

using Request = VhostUserRequest;

constexpr uint16_t kReporting = HonestGuest::kReporting;
constexpr uint64_t kRamBytes = HonestGuest::kRamBytes;

constexpr VhostUserVringState State(uint32_t index, uint32_t num) {
  return {.index = index, .num = num};
}

TEST_F(VhostUserSessionTest, AnHonestGuestIsServed) {
  HonestGuest guest(Connect());
  EXPECT_EQ(guest.front().Ask(Request::kGetQueueNum), 3u);
  EXPECT_EQ(guest.front().Ask(Request::kGetMaxMemSlots), 3u);
  EXPECT_EQ(guest.front().Ask(Request::kGetProtocolFeatures),
            kVhostUserProtocolFeatures);
  ASSERT_NO_FATAL_FAILURE(guest.Start());
  EXPECT_EQ(guest.front().Ask(Request::kGetStatus), 15u);
  for (int i = 0; i < 20; ++i) EXPECT_TRUE(guest.ReportOne());
  const auto sessions = server_.sessions();
  ASSERT_EQ(sessions.size(), 1u);
  EXPECT_EQ(sessions[0].peer.pid, getpid());
  EXPECT_EQ(balloons_.discards().reports, 20u);
  EXPECT_EQ(balloons_.discards().bytes, 20 * kPageSize);
  guest.front() = ScriptedFrontEnd();
  const auto [info, why] = ends_.Next();
  EXPECT_EQ(info.counters.messages, sessions[0].counters.messages);
  EXPECT_EQ(info.counters.refused, 0u);
  EXPECT_EQ(why, "UNAVAILABLE: the other end closed the connection");
  EXPECT_EQ(server_.counters().messages, info.counters.messages);
}

TEST_F(VhostUserSessionTest, ASessionContinuesIfTheErrorCanBeReplied) {
  HonestGuest guest(Connect());
  EXPECT_EQ(guest.front().Tell(Request::kSetStatus, uint64_t{1000}),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(guest.front().Tell(static_cast<Request>(77), uint64_t{0}),
            absl::StatusCode::kUnimplemented);
  ASSERT_NO_FATAL_FAILURE(guest.Start());
  EXPECT_TRUE(guest.ReportOne());
  EXPECT_EQ(server_.counters().refused, 2u);
}

TEST_F(VhostUserSessionTest, NoAcknowledgementWithoutReplyAck) {
  ScriptedFrontEnd front = Connect();
  front.SendBytes(Request::kSetOwner, {}, {}, kVhostUserNeedReply);
  EXPECT_TRUE(front.Ask(Request::kGetFeatures).has_value());
  EXPECT_EQ(front.Tell(Request::kSetStatus, uint64_t{256}), std::nullopt);
  EXPECT_THAT(ends_.Next().second, HasSubstr("SET_STATUS"));
}

TEST_F(VhostUserSessionTest, MissingConfigIsAnEmptyReply) {
  ScriptedFrontEnd front = Connect();
  for (const VhostUserConfigHeader header :
       {VhostUserConfigHeader{0, 0, 0}, VhostUserConfigHeader{0, 257, 0},
        VhostUserConfigHeader{0xffffffff, 1, 0},
        VhostUserConfigHeader{1000, 8, 0}}) {
    std::vector<std::byte> payload(sizeof(header) +
                                   std::min(header.size, 256u));
    std::memcpy(payload.data(), &header, sizeof(header));
    front.SendBytes(Request::kGetConfig, payload);
    const std::optional<VhostUserMessage> reply = front.Receive();
    ASSERT_TRUE(reply.has_value());
    EXPECT_TRUE(header.size == 0 || reply->payload.empty());
  }
  front.SendBytes(Request::kGetConfig, {});
  EXPECT_TRUE(front.Receive().value().payload.empty());
}

TEST_F(VhostUserSessionTest, AConfigWriteHasFlags) {
  ScriptedFrontEnd front = Connect();
  front.ShakeHands();
  for (const uint32_t flags : {0u, 1u, 2u}) {
    struct {
      VhostUserConfigHeader header;
      uint32_t actual;
    } const write = {{offsetof(BalloonConfig, actual), 4, flags}, flags + 5};
    EXPECT_EQ(
        front.Tell(Request::kSetConfig, write),
        flags < 2 ? absl::StatusCode::kOk : absl::StatusCode::kInvalidArgument);
  }
}

TEST_F(VhostUserSessionTest, OutOfOrder) {
  HonestGuest guest(Connect());
  ASSERT_NO_FATAL_FAILURE(guest.DescribeQueue());
  // The addresses are in no region yet.
  EXPECT_EQ(guest.Enable(), absl::StatusCode::kInvalidArgument);
  ASSERT_NO_FATAL_FAILURE(guest.Share());
  // Features are not negotiated.
  EXPECT_EQ(guest.Enable(), absl::StatusCode::kFailedPrecondition);
  ASSERT_NO_FATAL_FAILURE(guest.AgreeOnFeatures());
  EXPECT_EQ(guest.Enable(), absl::StatusCode::kOk);
  EXPECT_EQ(guest.Enable(), absl::StatusCode::kOk);
  // Others than those that the ring was set up with.
  EXPECT_EQ(guest.front().Tell(Request::kSetFeatures,
                               kVirtioFVersion1 | kVhostUserFProtocolFeatures),
            absl::StatusCode::kFailedPrecondition);
  // The ring is as it was; these are what it has already.
  ASSERT_NO_FATAL_FAILURE(guest.DescribeQueue());
  EXPECT_EQ(guest.front().Tell(Request::kSetVringNum, State(kReporting, 4)),
            absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(guest.front().Tell(Request::kSetVringBase, State(kReporting, 0)),
            absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(guest.front().Tell(Request::kSetVringAddr,
                               VhostUserVringAddr{kReporting, 0, 0, 0, 0, 0}),
            absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(
      guest.front().Tell(Request::kSetMemTable, VhostUserMemTableHeader{0, 0}),
      absl::StatusCode::kFailedPrecondition);
  // The ring's memory is pinned.
  EXPECT_EQ(guest.front().Tell(Request::kRemMemReg, RegionAt(0, kRamBytes)),
            absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(guest.front().Tell(Request::kSetStatus, uint64_t{15}),
            absl::StatusCode::kOk);
  EXPECT_TRUE(guest.ReportOne());
}

TEST_F(VhostUserSessionTest, ARingOutsideRam) {
  for (const uint64_t address :
       {kUserBase + kRamBytes, kUserBase - 1, ~uint64_t{0},
        kUserBase + kRamBytes - 16, kUserBase + 1}) {
    HonestGuest guest(Connect());
    ASSERT_NO_FATAL_FAILURE(guest.Share());
    ASSERT_NO_FATAL_FAILURE(guest.AgreeOnFeatures());
    ASSERT_NO_FATAL_FAILURE(guest.DescribeQueue());
    const VhostUserVringAddr addresses = {kReporting,       0,       kUserBase,
                                          kUserBase + 1024, address, 0};
    EXPECT_EQ(guest.front().Tell(Request::kSetVringAddr, addresses),
              absl::StatusCode::kOk);
    EXPECT_EQ(guest.Enable(), absl::StatusCode::kInvalidArgument);
    guest.front() = ScriptedFrontEnd();
    ends_.Next();
  }
}

TEST_F(VhostUserSessionTest, AResetForgetsTheQueue) {
  HonestGuest guest(Connect());
  ASSERT_NO_FATAL_FAILURE(guest.Start());
  EXPECT_TRUE(guest.ReportOne());
  for (const auto& reset : std::vector<std::function<void()>>{
           [&] { guest.front().Tell(Request::kSetStatus, uint64_t{0}); },
           [&] { guest.front().TellBytes(Request::kResetDevice, {}); }}) {
    reset();
    EXPECT_EQ(guest.front().Ask(Request::kGetStatus), 0u);
    // Nothing is pinned any more.
    EXPECT_EQ(guest.front().Tell(Request::kRemMemReg, RegionAt(0, kRamBytes)),
              absl::StatusCode::kOk);
    guest.driver().memory().Clear();
    guest.driver().JumpTo(0);
    ASSERT_NO_FATAL_FAILURE(guest.Start());
    EXPECT_TRUE(guest.ReportOne());
  }
}

TEST_F(VhostUserSessionTest, ABrokenRing) {
  HonestGuest guest(Connect());
  auto [near, far] = MakeSocketPair();
  const int fd = far.get();
  ASSERT_EQ(
      guest.front().TellBytes(Request::kSetBackendReqFd, {}, std::span(&fd, 1)),
      absl::StatusCode::kOk);
  ASSERT_NO_FATAL_FAILURE(guest.Start());
  guest.driver().JumpTo(9);
  const uint64_t one = 1;
  ASSERT_EQ(write(guest.kick(), &one, sizeof(one)), 8);
  ScriptedFrontEnd backend(std::move(near));
  const std::optional<VhostUserMessage> change = backend.Receive();
  ASSERT_TRUE(change.has_value());
  EXPECT_EQ(change->header.request, kVhostUserBackendConfigChange);
  EXPECT_EQ(guest.front().Ask(Request::kGetStatus), 15u | kVirtioNeedsReset);
}

TEST_F(VhostUserSessionTest, AFullCallDoesNotBlock) {
  HonestGuest guest(Connect());
  ASSERT_NO_FATAL_FAILURE(guest.Start());
  const uint64_t full = std::numeric_limits<uint64_t>::max() - 1;
  ASSERT_EQ(write(guest.call(), &full, sizeof(full)), 8);
  ASSERT_EQ(fcntl(guest.call(), F_SETFL, 0), 0);
  ASSERT_EQ(write(guest.kick(), &full, sizeof(full)), 8);
  guest.driver().OfferChain({{kMiB, kPageSize, kVirtqDescWrite, 0}});
  // Whatever the device is doing, it ends.
  EXPECT_EQ(guest.front().Tell(Request::kSetStatus, uint64_t{0}),
            absl::StatusCode::kOk);
}

TEST_F(VhostUserSessionTest, RandomMessages) {
  HonestGuest other(Connect());
  ASSERT_NO_FATAL_FAILURE(other.Start());
  const size_t before = OpenFds();
  const UniqueFd memfd = MakeMemfd(4 * kMiB);
  const UniqueFd event_fd = MakeEventFd();
  for (uint64_t seed = 0; seed < 200; ++seed) {
    SCOPED_TRACE(absl::StrCat("seed ", seed));
    Random random(seed);
    {
      ScriptedFrontEnd front = Connect();
      front.ShakeHands();
      for (int i = 0; i < 40; ++i) {
        std::vector<std::byte> payload(random.OneIn(2) ? 8 : random.Below(64));
        for (std::byte& byte : payload) {
          // Small numbers reach more code.
          byte = static_cast<std::byte>(
              !random.OneIn(4) ? random.Below(4) * (random.OneIn(8) ? 1 : 0)
                               : random.Below(256));
        }
        std::vector<int> fds;
        while (random.OneIn(2) && fds.size() < kVhostUserMaxFds) {
          fds.push_back(random.OneIn(2) ? memfd.get() : event_fd.get());
        }
        front.SendBytes(static_cast<Request>(random.Below(42)), payload, fds,
                        random.OneIn(8) ? 0 : kVhostUserNeedReply);
      }
    }
    ends_.Next();
  }
  EXPECT_EQ(OpenFds(), before + 2);
  EXPECT_TRUE(other.ReportOne());
}

}  // namespace
}  // namespace guestmm::session_test
