// The sessions of a VhostUserServer.

#include "guestmm/virtio/vhost_user/back_end/server.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <tuple>
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
  // The session's thread is joined a moment after on_end.
  absl::Status status;
  do {
    std::tie(near, far) = MakeSocketPair();
    status = server_.Serve(std::move(far));
  } while (absl::IsResourceExhausted(status));
  EXPECT_TRUE(status.ok());
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
