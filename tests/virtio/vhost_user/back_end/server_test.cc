// The sessions of a VhostUserServer.

#include "guestmm/virtio/vhost_user/back_end/server.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <latch>
#include <tuple>
#include <utility>
#include <vector>

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
