// One session at a time, on this thread: the same input gives the same run. The
// device may discard only what the guest has reported and not got back.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <utility>

#include "guestmm/base/check.h"
#include "guestmm/base/virtual_time.h"
#include "guestmm/host/discard/discarding_hypervisor.h"
#include "guestmm/virtio/device/balloon_device.h"
#include "src/virtio/vhost_user/back_end/memory_budget.h"
#include "src/virtio/vhost_user/back_end/session.h"
#include "tests/testing/fuzz_input.h"
#include "tests/testing/test_hypervisors.h"
#include "tests/virtio/vhost_user/back_end/conversation_fuzzing.h"

namespace guestmm {
namespace {

// Sessions, of which the last one may be alive.
class BackEnd {
 public:
  explicit BackEnd(RecordingHypervisor::Hook on_discard)
      : on_discard_(std::move(on_discard)) {}

  UniqueFd Connect() {
    session_.reset();
    auto [near, far] = MakeSocketPair();
    const auto make = [&](const GuestRam& ram, Workqueue&) {
      auto balloon = std::make_shared<Balloon>(ram, *this);
      BalloonDevice* const device = &balloon->device;
      return std::shared_ptr<VirtioDevice>(std::move(balloon), device);
    };
    session_ =
        VhostUserSession::Create(std::move(far), {}, make, options_, budget_)
            .value();
    return std::move(near);
  }
  void Serve() {
    if (session_ != nullptr && !session_->Run(/*timeout_ms=*/0).ok()) {
      session_.reset();
    }
  }
  void Settle() {
    Serve();
    time_.RunUntilIdle();
  }

 private:
  struct Balloon {
    Balloon(const GuestRam& ram, BackEnd& back_end)
        : discarding(ram),
          hypervisor(&discarding, back_end.on_discard_),
          device(ram, hypervisor, back_end.time_,
                 {.features = kBalloonFPageReporting | kBalloonFPagePoison}) {}
    DiscardingHypervisor discarding;
    RecordingHypervisor hypervisor;
    BalloonDevice device;
  };

  const RecordingHypervisor::Hook on_discard_;
  // In place of the session's workqueue, which has a thread.
  VirtualTime time_{1};
  const VhostUserServerOptions options_ = {.handshake_timeout = Nanoseconds(0)};
  MemoryBudget budget_{kTiB, kTiB};
  std::unique_ptr<VhostUserSession> session_;
};

}  // namespace
}  // namespace guestmm

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace guestmm;
  static GuestMemory memory(GuestMemory::Kind::kTwoMemfds);
  std::optional<FuzzedConversation> conversation;
  BackEnd back_end([&](std::span<const GpaRange> ranges) {
    for (const GpaRange& range : ranges) {
      GUESTMM_CHECK(conversation->MayDiscard(range)) << range;
    }
  });
  conversation.emplace(
      memory, [&] { return back_end.Connect(); }, [&] { back_end.Serve(); },
      [&] { back_end.Settle(); });
  conversation->Run(FuzzInput(data, size));
  return 0;
}
