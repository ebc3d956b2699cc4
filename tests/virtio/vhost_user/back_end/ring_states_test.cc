// Rings that are enabled, started, stopped and resumed, in the sequences of
// QEMU, crosvm and Cloud Hypervisor.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <vector>

#include "tests/virtio/vhost_user/back_end/session_testing.h"
#include "tests/virtio/vhost_user/vhost_user_testing.h"

namespace guestmm::ring_states_test {
namespace {

using Request = VhostUserRequest;
using ::testing::HasSubstr;

constexpr uint16_t kReporting = HonestGuest::kReporting;
constexpr uint64_t kFeatures =
    kVirtioFVersion1 | kBalloonFPageReporting | kVhostUserFProtocolFeatures;

VhostUserVringState State(uint32_t index, uint32_t num) {
  return {.index = index, .num = num};
}

class RingStatesTest : public VhostUserSessionTest {
 protected:
  // The steps of front ends, each on `guest`.
  static void Tell(HonestGuest& guest, Request request, uint64_t value) {
    ASSERT_EQ(guest.front().Tell(request, value), absl::StatusCode::kOk);
  }
  static void Tell(HonestGuest& guest, Request request,
                   VhostUserVringState state) {
    ASSERT_EQ(guest.front().Tell(request, state), absl::StatusCode::kOk);
  }
  // GET_VRING_BASE.
  static uint32_t Stop(HonestGuest& guest) {
    guest.front().Send(Request::kGetVringBase, State(kReporting, 0));
    return guest.front().Receive().value().As<VhostUserVringState>()->num;
  }
  // What QEMU and crosvm send to stop a device, and to go on.
  static uint32_t Pause(HonestGuest& guest) {
    Tell(guest, Request::kSetVringEnable, State(kReporting, 0));
    return Stop(guest);
  }
  static void Resume(HonestGuest& guest, uint32_t base) {
    Tell(guest, Request::kSetFeatures, kFeatures);
    Tell(guest, Request::kSetVringBase, State(kReporting, base));
    guest.DescribeQueue();
    Tell(guest, Request::kSetVringEnable, State(kReporting, 1));
  }
  // The guest's processes write to all pages from 2 MiB on.
  static void WritePattern(HonestGuest& guest) {
    const auto ram = guest.ram().Translate({Gpa(2 * kMiB), 2 * kMiB});
    std::memset(ram->bytes().data(), 0x77, ram->bytes().size());
  }
  static void ExpectPattern(HonestGuest& guest) {
    const auto ram = guest.ram().Translate({Gpa(2 * kMiB), 2 * kMiB});
    for (const std::byte byte : ram->bytes()) {
      ASSERT_EQ(byte, std::byte{0x77});
    }
  }
  static void Kick(const HonestGuest& guest) {
    const uint64_t one = 1;
    ASSERT_EQ(write(guest.kick(), &one, sizeof(one)), 8);
  }
  // Offers a chain of one page at `gpa`, without a kick.
  static void Offer(HonestGuest& guest, uint64_t gpa) {
    guest.driver().OfferChain({{gpa, kPageSize, kVirtqDescWrite, 0}});
  }
  // SET_VRING_ERR. The eventfd that is readable once the ring is in error.
  static UniqueFd SetError(HonestGuest& guest) {
    UniqueFd error = MakeEventFd();
    const int fd = error.get();
    EXPECT_EQ(guest.front().Tell(Request::kSetVringErr, uint64_t{kReporting},
                                 std::span(&fd, 1)),
              absl::StatusCode::kOk);
    return error;
  }
  // Waits for a call.
  static void AwaitCall(const HonestGuest& guest) {
    ASSERT_TRUE(AwaitEvents(guest.call(), POLLIN));
    uint64_t calls = 0;
    ASSERT_EQ(read(guest.call(), &calls, sizeof(calls)), 8);
  }
};

// QEMU negotiates STATUS, and never sets DRIVER_OK for this device.
TEST_F(RingStatesTest, NoDriverOkIsNeeded) {
  HonestGuest guest(Connect());
  guest.Share();
  Tell(guest, Request::kSetFeatures, kFeatures);
  Tell(guest, Request::kSetStatus, uint64_t{kVirtioFeaturesOk});
  guest.DescribeQueue();
  ASSERT_EQ(guest.Enable(), absl::StatusCode::kOk);
  EXPECT_TRUE(guest.ReportOne());
}

// A driver breaks its ring; QEMU stops the device without SET_STATUS 0, and the
// next driver has a working one.
TEST_F(RingStatesTest, ABrokenRingEndsWithItsDriver) {
  HonestGuest guest(Connect());
  ASSERT_NO_FATAL_FAILURE(guest.Start());
  EXPECT_TRUE(guest.ReportOne());
  const UniqueFd error = SetError(guest);
  guest.driver().JumpTo(20);
  Kick(guest);
  ASSERT_TRUE(AwaitEvents(error.get(), POLLIN));
  EXPECT_EQ(Pause(guest), 1u);
  guest.driver().memory().Clear();
  guest.driver().JumpTo(0);
  Resume(guest, 0);
  EXPECT_TRUE(guest.ReportOne());
  EXPECT_EQ(guest.front().Ask(Request::kGetStatus), 15u);
}

// crosvm and Cloud Hypervisor do not negotiate STATUS.
TEST_F(RingStatesTest, NoStatusIsNeeded) {
  HonestGuest guest(Connect());
  Tell(guest, Request::kSetProtocolFeatures,
       kVhostUserProtocolFeatures & ~kVhostUserProtocolStatus);
  guest.Share();
  Tell(guest, Request::kSetFeatures, kFeatures);
  guest.DescribeQueue();
  ASSERT_EQ(guest.Enable(), absl::StatusCode::kOk);
  EXPECT_TRUE(guest.ReportOne());
}

// Without PROTOCOL_FEATURES all rings are enabled.
TEST_F(RingStatesTest, NoEnableIsNeededWithoutProtocolFeatures) {
  HonestGuest guest(Connect());
  guest.Share();
  Tell(guest, Request::kSetFeatures, kFeatures & ~kVhostUserFProtocolFeatures);
  guest.DescribeQueue();
  EXPECT_TRUE(guest.ReportOne());
}

// The deprecated RESET_OWNER is ignored.
TEST_F(RingStatesTest, ResetOwnerChangesNothing) {
  HonestGuest guest(Connect());
  ASSERT_NO_FATAL_FAILURE(guest.Start());
  EXPECT_EQ(guest.front().TellBytes(Request::kResetOwner, {}),
            absl::StatusCode::kOk);
  EXPECT_TRUE(guest.ReportOne());
}

// QEMU enables all queues that there are.
TEST_F(RingStatesTest, AQueueThatIsNotSetUpMayBeEnabled) {
  HonestGuest guest(Connect());
  for (const uint32_t index : {0u, 1u, 2u}) {
    Tell(guest, Request::kSetVringEnable, State(index, 1));
  }
  ASSERT_NO_FATAL_FAILURE(guest.Start());
  EXPECT_TRUE(guest.ReportOne());
}

// The kick is readable before the ring is enabled, and before it is known.
TEST_F(RingStatesTest, AnEarlyKickStartsTheRing) {
  HonestGuest guest(Connect());
  Offer(guest, kMiB);
  Kick(guest);
  guest.Share();
  guest.AgreeOnFeatures();
  guest.DescribeQueue();
  ASSERT_EQ(guest.Enable(), absl::StatusCode::kOk);
  AwaitCall(guest);
  EXPECT_EQ(guest.driver().used_idx(), 1);
}

// Under, at and over the queue's size of 8. Whatever is at guest address 2: a
// back end once took its place in a ring from there.
TEST_F(RingStatesTest, APauseLosesNothing) {
  for (const uint16_t at_2 : {0, 1, 0xf000}) {
    for (const int reports : {1, 7, 8, 9, 40}) {
      SCOPED_TRACE(testing::Message() << reports << " reports, " << at_2);
      HonestGuest guest(Connect());
      std::memcpy(
          guest.ram().Translate({Gpa(0), kPageSize})->bytes().data() + 2, &at_2,
          sizeof(at_2));
      ASSERT_NO_FATAL_FAILURE(guest.Start());
      for (int i = 0; i < reports; ++i) {
        // The last chains of the ring name pages that are in use later.
        Offer(guest, 2 * kMiB + static_cast<uint64_t>(i) * kPageSize);
        Kick(guest);
        ASSERT_NO_FATAL_FAILURE(AwaitCall(guest));
      }
      ASSERT_NO_FATAL_FAILURE(WritePattern(guest));
      const uint32_t base = Pause(guest);
      EXPECT_EQ(base, static_cast<uint32_t>(reports));
      ASSERT_NO_FATAL_FAILURE(Resume(guest, base));
      EXPECT_TRUE(guest.ReportOne());
      ASSERT_NO_FATAL_FAILURE(ExpectPattern(guest));
      guest.front() = ScriptedFrontEnd();
      ends_.Next();
    }
  }
}

// Cloud Hypervisor only disables and enables.
TEST_F(RingStatesTest, ADisabledRingKeepsItsPlaceAndItsKicks) {
  HonestGuest guest(Connect());
  ASSERT_NO_FATAL_FAILURE(guest.Start());
  EXPECT_TRUE(guest.ReportOne());
  Tell(guest, Request::kSetVringEnable, State(kReporting, 0));
  ASSERT_NO_FATAL_FAILURE(WritePattern(guest));
  Offer(guest, kMiB);
  Kick(guest);
  // Answered after the kick was handled.
  EXPECT_TRUE(guest.front().Ask(Request::kGetFeatures).has_value());
  EXPECT_EQ(guest.driver().used_idx(), 1);
  Tell(guest, Request::kSetVringEnable, State(kReporting, 1));
  ASSERT_NO_FATAL_FAILURE(AwaitCall(guest));
  EXPECT_EQ(guest.driver().used_idx(), 2);
  ASSERT_NO_FATAL_FAILURE(ExpectPattern(guest));
}

// A stopped ring starts with its next kick, not when it is enabled.
TEST_F(RingStatesTest, AStoppedRingWaitsForAKick) {
  HonestGuest guest(Connect());
  ASSERT_NO_FATAL_FAILURE(guest.Start());
  EXPECT_TRUE(guest.ReportOne());
  EXPECT_EQ(Stop(guest), 1u);
  EXPECT_EQ(Stop(guest), 1u) << "again";
  // Consumes the kicks so far: the eventfd is readable no more.
  uint64_t kicks = 0;
  ASSERT_EQ(read(guest.kick(), &kicks, sizeof(kicks)), 8);
  ASSERT_NO_FATAL_FAILURE(Resume(guest, 1));
  Offer(guest, kMiB);
  EXPECT_TRUE(guest.front().Ask(Request::kGetFeatures).has_value());
  EXPECT_EQ(guest.driver().used_idx(), 1);
  Kick(guest);
  ASSERT_NO_FATAL_FAILURE(AwaitCall(guest));
}

TEST_F(RingStatesTest, RingsStopByThemselves) {
  HonestGuest guest(Connect());
  ASSERT_NO_FATAL_FAILURE(guest.Start());
  guest.front().Send(Request::kGetVringBase, State(0, 0));
  EXPECT_EQ(guest.front().Receive().value().As<VhostUserVringState>()->num, 0u);
  EXPECT_TRUE(guest.ReportOne());
}

// Where another back end had taken a chain and not returned it, the chain is
// handled again.
TEST_F(RingStatesTest, ResumesAtTheFirstChainThatWasNotReturned) {
  HonestGuest guest(Connect());
  guest.Share();
  guest.AgreeOnFeatures();
  Offer(guest, kMiB);
  Offer(guest, kMiB);
  Tell(guest, Request::kSetVringBase, State(kReporting, 1));
  guest.DescribeQueue();
  ASSERT_EQ(guest.Enable(), absl::StatusCode::kOk);
  Kick(guest);
  ASSERT_NO_FATAL_FAILURE(AwaitCall(guest));
  while (guest.driver().used_idx() < 2) {
    ASSERT_NO_FATAL_FAILURE(AwaitCall(guest));
  }
}

TEST_F(RingStatesTest, ABaseThatTheRingCannotHaveIsRefused) {
  HonestGuest guest(Connect());
  guest.Share();
  guest.AgreeOnFeatures();
  Offer(guest, kMiB);
  guest.DescribeQueue();
  for (const uint32_t base : {2u, 61440u, 65535u}) {
    Tell(guest, Request::kSetVringBase, State(kReporting, base));
    EXPECT_EQ(guest.Enable(), absl::StatusCode::kInvalidArgument) << base;
  }
  // The ring can still be started right.
  Tell(guest, Request::kSetVringBase, State(kReporting, 0));
  ASSERT_EQ(guest.Enable(), absl::StatusCode::kOk);
  Kick(guest);
  ASSERT_NO_FATAL_FAILURE(AwaitCall(guest));
}

// A driver that the guest unbinds and binds again begins at 0, in a ring that
// it has zeroed, without SET_STATUS 0.
TEST_F(RingStatesTest, ANewDriverBeginsAnew) {
  HonestGuest guest(Connect());
  ASSERT_NO_FATAL_FAILURE(guest.Start());
  for (int round = 0; round < 3; ++round) {
    EXPECT_TRUE(guest.ReportOne());
    EXPECT_EQ(Pause(guest), 1u);
    guest.driver().memory().Clear();
    guest.driver().JumpTo(0);
    // Other features, and the same again.
    Tell(guest, Request::kSetFeatures,
         kVirtioFVersion1 | kVhostUserFProtocolFeatures);
    ASSERT_NO_FATAL_FAILURE(Resume(guest, 0));
  }
  EXPECT_TRUE(guest.ReportOne());
}

// A kick may be replaced while the ring runs.
TEST_F(RingStatesTest, AnotherKickIsPolled) {
  HonestGuest guest(Connect());
  ASSERT_NO_FATAL_FAILURE(guest.Start());
  EXPECT_TRUE(guest.ReportOne());
  const UniqueFd other = MakeEventFd();
  const int fd = other.get();
  ASSERT_EQ(guest.front().Tell(Request::kSetVringKick, uint64_t{kReporting},
                               std::span(&fd, 1)),
            absl::StatusCode::kOk);
  Offer(guest, kMiB);
  const uint64_t one = 1;
  ASSERT_EQ(write(fd, &one, sizeof(one)), 8);
  ASSERT_NO_FATAL_FAILURE(AwaitCall(guest));
}

TEST_F(RingStatesTest, ABrokenRingIsSignalled) {
  HonestGuest guest(Connect());
  // QEMU sends it first of all.
  const UniqueFd error = SetError(guest);
  ASSERT_NO_FATAL_FAILURE(guest.Start());
  guest.driver().JumpTo(9);
  Kick(guest);
  EXPECT_TRUE(AwaitEvents(error.get(), POLLIN));
}

TEST_F(RingStatesTest, ARingThatCannotBeSetUpAtItsKickIsSignalled) {
  HonestGuest guest(Connect());
  const UniqueFd error = SetError(guest);
  // Enabled when nothing was known of it; then described outside RAM.
  ASSERT_EQ(guest.Enable(), absl::StatusCode::kOk);
  guest.DescribeQueue();
  Kick(guest);
  EXPECT_TRUE(AwaitEvents(error.get(), POLLIN));
}

}  // namespace
}  // namespace guestmm::ring_states_test
