// The sessions of a VhostUserServer.

#include "guestmm/virtio/vhost_user/back_end/server.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <latch>
#include <mutex>
#include <span>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/strings/str_format.h"
#include "tests/virtio/vhost_user/back_end/session_testing.h"
#include "tests/virtio/vhost_user/vhost_user_testing.h"

namespace guestmm::server_test {
namespace {

using Request = VhostUserRequest;

TEST_F(VhostUserSessionTest, SessionsAreBounded) {
  std::vector<ScriptedFrontEnd> fronts;
  for (int i = 0; i < 4; ++i) fronts.push_back(Connect());
  auto [near, far] = MakeSocketPair();
  EXPECT_EQ(Message(server_.Serve(std::move(far))),
            "4 sessions: no more are allowed");
  EXPECT_TRUE(ScriptedFrontEnd(std::move(near)).AwaitClose());
  EXPECT_EQ(server_.refused_sessions(), 1u);
  fronts.pop_back();
  ends_.Next();
  std::tie(near, far) = MakeSocketPair();
  EXPECT_TRUE(server_.Serve(std::move(far)).ok());
}

// A session does not count any more when on_end is called for it.
TEST(VhostUserServerTest, ASessionThatHasEndedLeavesRoomForAnother) {
  std::latch ending{1};
  std::latch served{1};
  BalloonFactory balloons;
  VhostUserServer server(
      balloons.maker(),
      {.max_sessions = 1, .on_end = [&](const auto&, const auto&) {
         if (ending.try_wait()) return;
         ending.count_down();
         served.wait();
       }});
  auto [near, far] = MakeSocketPair();
  ASSERT_TRUE(server.Serve(std::move(far)).ok());
  { const ScriptedFrontEnd closes(std::move(near)); }
  ending.wait();
  std::tie(near, far) = MakeSocketPair();
  EXPECT_TRUE(server.Serve(std::move(far)).ok());
  served.count_down();
}

// Connections that are refused, and those that must be.
TEST(VhostUserServerTest, AdmitsSomeUsersAndSoManyOfEach) {
  const uid_t me = geteuid();
  BalloonFactory balloons;
  std::vector<std::string> refused;
  const auto note = [&](const UnixPeer& peer, const absl::Status& why) {
    EXPECT_EQ(peer.pid, getpid());
    refused.push_back(why.ToString());
  };
  const auto serve = [](VhostUserServer& server, ScriptedFrontEnd& front) {
    auto [near, far] = MakeSocketPair();
    front = ScriptedFrontEnd(std::move(near));
    return server.Serve(std::move(far)).ok();
  };
  ScriptedFrontEnd first;
  ScriptedFrontEnd second;
  {
    VhostUserServer server(balloons.maker(), {.max_sessions_per_uid = 1,
                                              .on_refused_connection = note});
    EXPECT_TRUE(serve(server, first));
    EXPECT_FALSE(serve(server, second));
    EXPECT_TRUE(second.AwaitClose());
    EXPECT_EQ(server.refused_sessions(), 1u);
  }
  for (const bool allowed : {false, true}) {
    VhostUserServer server(balloons.maker(),
                           {.allowed_uids = {allowed ? me : me + 1},
                            .on_refused_connection = note});
    EXPECT_EQ(serve(server, first), allowed);
  }
  EXPECT_THAT(
      refused,
      testing::ElementsAre(
          absl::StrFormat("RESOURCE_EXHAUSTED: 1 sessions of user %d: no more "
                          "are allowed",
                          me),
          absl::StrFormat(
              "PERMISSION_DENIED: user %d: is not allowed to connect", me)));
}

// One that says nothing, and one that stops within its first message. One whose
// message is there in time may be silent from then on.
TEST(VhostUserServerTest, AConnectionMustSpeak) {
  Ends ends;
  BalloonFactory balloons;
  VhostUserServer server(balloons.maker(),
                         {.handshake_timeout = std::chrono::milliseconds(1),
                          .on_end = [&](const auto& info, const auto& why) {
                            ends.Add(info, why);
                          }});
  auto [speaks, speaks_far] = MakeSocketPair();
  ScriptedFrontEnd speaking(std::move(speaks));
  speaking.SendBytes(Request::kGetFeatures, {});
  ASSERT_TRUE(server.Serve(std::move(speaks_far)).ok());
  EXPECT_TRUE(speaking.Receive().has_value());
  for (const bool torn : {false, true}) {
    auto [near, far] = MakeSocketPair();
    const uint32_t part = 1;
    const ssize_t bytes = torn ? sizeof(part) : 0;
    ASSERT_EQ(write(near.get(), &part, static_cast<size_t>(bytes)), bytes);
    ASSERT_TRUE(server.Serve(std::move(far)).ok());
    EXPECT_EQ(ends.Next().second,
              "DEADLINE_EXCEEDED: no message in the first 0.001 s");
  }
  EXPECT_TRUE(speaking.Ask(Request::kGetFeatures).has_value());
}

TEST(VhostUserServerTest, TellsOfEachRefusal) {
  std::mutex mutex;
  std::vector<std::string> refusals;
  BalloonFactory balloons;
  VhostUserServer server(
      balloons.maker(),
      {.on_refused = [&](uint64_t session, const VhostUserRefusal& refusal) {
        const std::lock_guard hold(mutex);
        refusals.push_back(absl::StrFormat("%d %s %s", session, refusal.request,
                                           refusal.why.ToString()));
      }});
  auto [near, far] = MakeSocketPair();
  ASSERT_TRUE(server.Serve(std::move(far)).ok());
  HonestGuest guest{ScriptedFrontEnd(std::move(near))};
  guest.front().Tell(Request::kSetStatus, uint64_t{256});
  ASSERT_NO_FATAL_FAILURE(guest.Start());
  const UniqueFd error = MakeEventFd();
  const int fd = error.get();
  guest.front().Tell(Request::kSetVringErr, uint64_t{HonestGuest::kReporting},
                     std::span(&fd, 1));
  guest.driver().JumpTo(9);
  const uint64_t one = 1;
  ASSERT_EQ(write(guest.kick(), &one, sizeof(one)), 8);
  ASSERT_TRUE(AwaitEvents(error.get(), POLLIN));
  // Ends the device's work.
  guest.front().Tell(Request::kSetStatus, uint64_t{0});
  const std::lock_guard hold(mutex);
  EXPECT_THAT(
      refusals,
      testing::ElementsAre(
          "1 SET_STATUS INVALID_ARGUMENT: SET_STATUS: 0x100: must be at most "
          "0xff",
          "1 ring DATA_LOSS: ring: queue 2 is broken: available index moved "
          "from 0 to 9, with 0 chains outstanding in a queue of 8"));
  EXPECT_THAT(server.counters().refused_by,
              testing::ElementsAre(testing::Pair("SET_STATUS", 1u),
                                   testing::Pair("ring", 1u)));
}

TEST(VhostUserServerTest, EndsItsSessions) {
  const size_t before = OpenFds();
  Ends ends;
  BalloonFactory balloons;
  ScriptedFrontEnd front;
  {
    VhostUserServer server(balloons.maker(),
                           {.on_end = [&](const auto& info, const auto& why) {
                             ends.Add(info, why);
                           }});
    auto [near, far] = MakeSocketPair();
    ASSERT_TRUE(server.Serve(std::move(far)).ok());
    front = ScriptedFrontEnd(std::move(near));
    EXPECT_TRUE(front.Ask(Request::kGetFeatures).has_value());
  }
  EXPECT_EQ(ends.Next().second, "CANCELLED: the server ended the session");
  EXPECT_TRUE(front.AwaitClose());
  front = ScriptedFrontEnd();
  EXPECT_EQ(OpenFds(), before);
}

}  // namespace
}  // namespace guestmm::server_test
