// Sessions of a server, with its threads: messages, kicks and chains meet at
// any moment. A session that does not answer or end is a hang.

#include <cstddef>
#include <cstdint>
#include <utility>

#include "guestmm/base/check.h"
#include "guestmm/virtio/vhost_user/back_end/server.h"
#include "guestmm/vmm/balloon_factory.h"
#include "tests/testing/fuzz_input.h"
#include "tests/virtio/vhost_user/back_end/conversation_fuzzing.h"
#include "tests/virtio/vhost_user/back_end/session_testing.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace guestmm;
  static GuestMemory memory(GuestMemory::Kind::kTwoMemfds);
  Ends ends;
  BalloonFactory balloons(
      {.features = kBalloonFPageReporting | kBalloonFPagePoison});
  VhostUserServer server(balloons.maker(),
                         {.on_end = [&](const auto& info, const auto& why) {
                           ends.Add(info, why);
                         }});
  bool is_first = true;
  FuzzedConversation conversation(
      memory,
      [&] {
        // The former session has let go of the memory.
        if (!std::exchange(is_first, false)) ends.Next();
        auto [near, far] = MakeSocketPair();
        GUESTMM_CHECK(server.Serve(std::move(far)).ok());
        return std::move(near);
      },
      [] {}, [] {});
  conversation.Run(FuzzInput(data, size));
  ends.Next();
  return 0;
}
