// The front end with VMMs that violate the protocol.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>

#include <chrono>
#include <functional>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_format.h"
#include "tests/testing/unix_socket.h"
#include "tests/virtio/vhost_user/front_end/device_testing.h"
#include "tests/virtio/vhost_user/vhost_user_testing.h"

namespace guestmm::scripted_vmm_test {
namespace {

using ::testing::EndsWith;
using ::testing::HasSubstr;

using Request = VhostUserRequest;

class ScriptedVmmTest : public VhostUserDeviceTest {
 protected:
  // The reply to a request; nullopt for none.
  using Script = std::function<std::optional<uint64_t>(Request)>;

  ScriptedVmmTest() { EXPECT_EQ(listen(listener_.get(), 1), 0); }

  // Serves one connection with `script` until it is closed.
  std::thread Serving(Script script) {
    return std::thread([this, script = std::move(script)] {
      UniqueFd socket(accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
      ScriptedFrontEnd end(std::move(socket));
      // Keep the channel that comes with one of them open.
      std::vector<VhostUserMessage> kept;
      while (std::optional<VhostUserMessage> message = end.Receive()) {
        const Request request = message->request();
        kept.push_back(*std::move(message));
        if (const std::optional<uint64_t> answer = script(request)) {
          end.Send(request, *answer, {}, kVhostUserReply);
        }
      }
    });
  }

  // The replies of a correct VMM, without a configuration.
  static std::optional<uint64_t> GoodAnswer(Request request) {
    switch (request) {
      case Request::kSetProtocolFeatures:
        return std::nullopt;
      case Request::kGetFeatures:
        return kVirtioFVersion1 | kVhostUserFProtocolFeatures;
      case Request::kGetProtocolFeatures:
        return kVhostUserProtocolFeatures & ~kVhostUserProtocolConfig;
      case Request::kGetQueueNum:
        return 3;
      case Request::kGetStatus:
        return kVirtioFeaturesOk;
      default:
        return 0;
    }
  }

  absl::StatusOr<std::unique_ptr<VhostUserDevice>> TryToConnect() {
    return VhostUserDevice::Connect(
        path_, *ram_, kBalloonKind,
        {.timeout = std::chrono::milliseconds(500)});
  }
  // The error of connecting to a VMM with `script`.
  std::string Error(Script script) {
    std::thread vmm = Serving(std::move(script));
    const auto device = TryToConnect();
    vmm.join();
    return device.status().ToString();
  }

  const UniqueFd listener_ = UnixSocketAfter(bind, path_);
};

TEST_F(ScriptedVmmTest, Silence) {
  EXPECT_EQ(Error([](Request) { return std::nullopt; }),
            "UNAVAILABLE: the connection to " + path_ +
                " was lost: GET_FEATURES: no reply in 500 ms");
}

TEST_F(ScriptedVmmTest, NoProtocolFeatures) {
  EXPECT_EQ(Error([](Request) { return 0; }),
            "FAILED_PRECONDITION: the VMM at " + path_ +
                " offers protocol features 0x0: must include 0x18028");
}

TEST_F(ScriptedVmmTest, RefusesMemory) {
  EXPECT_EQ(Error([](Request request) {
              return request == Request::kAddMemReg ? 999 : GoodAnswer(request);
            }),
            "INTERNAL: region 0x0 + 9.00 MiB: ADD_MEM_REG: the VMM replied "
            "with error 999, INTERNAL");
}

// The VMM stops replying during set-up, and its process keeps running. Since no
// driver has started its device, nothing waits for that process.
TEST_F(ScriptedVmmTest, SilenceDuringSetUp) {
  std::thread vmm = Serving([](Request request) {
    return request == Request::kSetVringEnable ? std::nullopt
                                               : GoodAnswer(request);
  });
  auto device = TryToConnect();
  ASSERT_TRUE(device.ok()) << device.status();
  const auto driver =
      BalloonDriver::Create(**device, *ram_, *allocator_, guest_);
  EXPECT_THAT(Message(driver.status()),
              HasSubstr("SET_VRING_ENABLE: no reply in 500 ms"));
  EXPECT_EQ((*device)->status(), 0);
  EXPECT_EQ(allocator_->Counts().allocated(), PageCount(0));
  device->reset();
  vmm.join();
}

TEST_F(ScriptedVmmTest, RepliesToWhatWasNotRequested) {
  std::thread vmm([&] {
    UniqueFd socket(accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
    ScriptedFrontEnd end(std::move(socket));
    end.Receive();
    end.Send(Request::kGetStatus, uint64_t{0}, {}, kVhostUserReply);
    end.AwaitClose();
  });
  const auto device = VhostUserDevice::Connect(path_, *ram_, kBalloonKind);
  EXPECT_THAT(
      Message(device.status()),
      EndsWith("the VMM replied to GET_STATUS, which was not requested"));
  vmm.join();
}

// Neither means that the driver reset the device, which may still touch memory.
TEST_F(ScriptedVmmTest, AnInvalidStatus) {
  for (const uint64_t status : {0, 0x100, 0x1ff}) {
    std::thread vmm = Serving([&](Request request) {
      return request == Request::kGetStatus ? status : GoodAnswer(request);
    });
    auto device = TryToConnect();
    ASSERT_TRUE(device.ok()) << device.status();
    (*device)->SetStatus(kVirtioAcknowledge);
    EXPECT_EQ((*device)->status(), kVirtioAcknowledge | kVirtioNeedsReset);
    EXPECT_THAT(Message((*device)->connection()),
                HasSubstr(absl::StrFormat("GET_STATUS: 0x%x: ", status)));
    device->reset();
    vmm.join();
  }
}

}  // namespace
}  // namespace guestmm::scripted_vmm_test
