#include "guestmm/vmm/vmm.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>

#include <array>
#include <chrono>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "guestmm/base/unique_fd.h"
#include "guestmm/reporting/reporter.h"
#include "tests/testing/await.h"
#include "tests/virtio/virtio_testing.h"
#include "tests/vmm/vmm_testing.h"

namespace guestmm::vmm_test {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

class VmmGuestsTest : public VmmWorld {};

TEST_F(VmmGuestsTest, AGuestFollowsItsTarget) {
  const auto one = StartGuest();
  const auto two = StartGuest();
  ASSERT_TRUE(one != nullptr && two != nullptr);
  ASSERT_EQ(vmm_.SetTarget(2, 8 * kMiB), absl::OkStatus());
  EXPECT_TRUE(Await([&] { return Look(2).balloon.actual_bytes == 8 * kMiB; }));
  EXPECT_EQ(Look(2).balloon.target_bytes, 8 * kMiB);
  EXPECT_EQ(Look(1).balloon.target_bytes, 0u);
  EXPECT_EQ(Look(2).counters.discards.device.inflated_pages, 2048u);
  // All of them.
  ASSERT_EQ(vmm_.SetTarget({}, 4 * kMiB), absl::OkStatus());
  EXPECT_TRUE(Await([&] {
    return Look(1).balloon.actual_bytes == 4 * kMiB &&
           Look(2).balloon.actual_bytes == 4 * kMiB;
  }));
}

TEST_F(VmmGuestsTest, RefusesTargetsThatABalloonCannotHave) {
  EXPECT_EQ(Message(vmm_.SetTarget({}, 5000)),
            "5000: must be a multiple of 4096, below 16 TiB");
  EXPECT_TRUE(absl::IsInvalidArgument(vmm_.SetTarget({}, 16 * kTiB)));
  EXPECT_EQ(vmm_.SetTarget({}, 16 * kTiB - kPageSize), absl::OkStatus());
}

TEST_F(VmmGuestsTest, NamesAGuestThatIsNotConnected) {
  EXPECT_EQ(Message(vmm_.SetTarget(7, 0)), "guest 7: must be connected");
  EXPECT_TRUE(absl::IsNotFound(vmm_.HoldDiscards(7, true)));
  EXPECT_TRUE(absl::IsNotFound(vmm_.SetMaxDiscardRate(7, 1)));
  EXPECT_TRUE(absl::IsNotFound(vmm_.StartHinting(7)));
  EXPECT_TRUE(absl::IsNotFound(vmm_.StopHinting(7)));
  EXPECT_TRUE(absl::IsNotFound(vmm_.RequestStatistics(7)));
  EXPECT_TRUE(
      absl::IsNotFound(vmm_.SetStatisticsInterval(7, std::chrono::seconds(1))));
}

TEST_F(VmmGuestsTest, AHintingRunDiscardsWhatIsFree) {
  const auto guest = StartGuest();
  ASSERT_NE(guest, nullptr);
  ASSERT_EQ(vmm_.StartHinting(1), absl::OkStatus());
  EXPECT_TRUE(Await([&] { return !Look(1).balloon.hinting; }));
  const VmmGuest after = Look(1);
  EXPECT_EQ(after.counters.discards.device.hint_runs, 1u);
  EXPECT_GT(after.balloon.run_bytes, kGuestBytes / 2);
  EXPECT_EQ(after.balloon.run_bytes,
            after.counters.discards.device.hinted_bytes);
  // The next run counts from 0.
  ASSERT_EQ(vmm_.HoldDiscards(1, true), absl::OkStatus());
  ASSERT_EQ(vmm_.StartHinting(1), absl::OkStatus());
  EXPECT_EQ(Look(1).balloon.run_bytes, 0u);
  EXPECT_TRUE(Look(1).balloon.hinting);
  EXPECT_THAT(Message(vmm_.StartHinting(1)),
              HasSubstr("guest 1: hints requested while run"));
  ASSERT_EQ(vmm_.StopHinting(1), absl::OkStatus());
  ASSERT_EQ(vmm_.HoldDiscards(1, false), absl::OkStatus());
  EXPECT_TRUE(Await([&] { return !Look(1).balloon.hinting; }));
}

TEST_F(VmmGuestsTest, StatisticsComeOnRequestAndAtIntervals) {
  const auto guest = StartGuest();
  ASSERT_NE(guest, nullptr);
  const auto updates = [&] {
    return Look(1).counters.discards.device.stats_updates;
  };
  EXPECT_TRUE(Await([&] { return updates() == 1; })) << "the driver's first";
  ASSERT_EQ(vmm_.RequestStatistics({}), absl::OkStatus());
  EXPECT_TRUE(Await([&] { return updates() == 2; }));
  const BalloonStatistics statistics = Look(1).balloon.statistics;
  EXPECT_GT(statistics[BalloonStat::kFree].value_or(0), kMiB);
  ASSERT_EQ(vmm_.SetStatisticsInterval({}, std::chrono::milliseconds(1)),
            absl::OkStatus());
  EXPECT_EQ(Look(1).balloon.statistics_interval, std::chrono::milliseconds(1));
  EXPECT_TRUE(Await([&] { return updates() > 20; }));
  ASSERT_EQ(vmm_.SetStatisticsInterval(1, Nanoseconds(0)), absl::OkStatus());
  EXPECT_EQ(Look(1).balloon.statistics_interval, Nanoseconds(0));
}

TEST_F(VmmGuestsTest, HeldDiscardsLoseNothing) {
  const auto guest = StartGuest();
  ASSERT_NE(guest, nullptr);
  ASSERT_TRUE(guest->WaitUntilAtRest(std::chrono::minutes(1)));
  ASSERT_EQ(vmm_.HoldDiscards({}, true), absl::OkStatus());
  const uint64_t before = Look(1).counters.discards.bytes;
  FreeABlock(*guest);
  EXPECT_TRUE(
      Await([&] { return guest->reporter()->in_flight_pages().value() > 0; }));
  EXPECT_EQ(Look(1).counters.discards.bytes, before);
  EXPECT_TRUE(Look(1).balloon.holds_discards);
  ASSERT_EQ(vmm_.HoldDiscards({}, false), absl::OkStatus());
  EXPECT_TRUE(guest->WaitUntilAtRest(std::chrono::minutes(1)));
  EXPECT_GT(Look(1).counters.discards.bytes, before);
}

// What is set for all guests is set for those to come.
TEST_F(VmmGuestsTest, SettingsForAllHoldForLaterGuests) {
  const auto first = StartGuest();
  ASSERT_NE(first, nullptr);
  ASSERT_EQ(vmm_.SetMaxDiscardRate({}, kGiB), absl::OkStatus());
  ASSERT_EQ(vmm_.HoldDiscards({}, true), absl::OkStatus());
  ASSERT_EQ(vmm_.SetMaxDiscardRate(1, 0), absl::OkStatus());
  const auto second = StartGuest();
  ASSERT_NE(second, nullptr);
  EXPECT_EQ(Look(1).balloon.max_discard_rate, 0u);
  EXPECT_EQ(Look(2).balloon.max_discard_rate, kGiB);
  EXPECT_TRUE(Look(2).balloon.holds_discards);
  ASSERT_EQ(vmm_.HoldDiscards({}, false), absl::OkStatus());
}

TEST_F(VmmGuestsTest, CountsOutliveTheirGuest) {
  {
    const auto guest = StartGuest();
    ASSERT_NE(guest, nullptr);
    FreeABlock(*guest);
    guest->WaitUntilAtRest(std::chrono::minutes(1));
  }
  EXPECT_TRUE(Await([&] { return vmm_.guests() == 0; }));
  EXPECT_THAT(vmm_.Guests(), IsEmpty());
  const VmmCounters all = vmm_.counters();
  EXPECT_GT(all.discards.device.reports, 0u);
  EXPECT_EQ(all.discards.device.reports, all.discards.device.acknowledged);
  EXPECT_EQ(all.discards.bytes, all.discards.device.bytes);
}

// --- Offers.

TEST(VmmOffer, OnlyWhatIsOfferedCanBeAskedFor) {
  Vmm vmm;
  EXPECT_EQ(vmm.offered(), kBalloonFPageReporting | kBalloonFPagePoison);
  EXPECT_EQ(Message(vmm.SetTarget({}, 0)),
            "not offered to guests (--offer=balloon)");
  EXPECT_EQ(Message(vmm.StartHinting({})),
            "not offered to guests (--offer=hinting)");
  for (const absl::Status& status :
       {vmm.RequestStatistics({}), vmm.SetStatisticsInterval({}, {})}) {
    EXPECT_EQ(Message(status), "not offered to guests (--offer=statistics)");
  }
}

// Whatever some guests share, the others have their part, and the addresses of
// this process suffice.
TEST(VmmLimits, LeaveEachGuestItsPart) {
  const VhostUserServerOptions limits = VmmOptions::DefaultServer();
  EXPECT_EQ(limits.guaranteed_guest_bytes, 128 * kGiB);
  EXPECT_LE(limits.max_total_bytes +
                limits.max_sessions * limits.guaranteed_guest_bytes,
            96 * kTiB);
}

// --- Refusals.

// A front end that sends what nobody knows.
class RawGuest {
 public:
  explicit RawGuest(Vmm& vmm) {
    std::array<int, 2> fds = {-1, -1};
    EXPECT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds.data()),
              0);
    near_ = UniqueFd(fds[0]);
    EXPECT_EQ(vmm.Serve(UniqueFd(fds[1])), absl::OkStatus());
  }
  // Sends a request without contents, and awaits the reply to it.
  void Send(uint32_t request) {
    constexpr uint32_t kVersion = 1;
    constexpr uint32_t kNeedReply = 8;
    const std::array<uint32_t, 3> header = {request, kVersion | kNeedReply, 0};
    EXPECT_EQ(send(near_.get(), header.data(), sizeof(header), MSG_NOSIGNAL),
              static_cast<ssize_t>(sizeof(header)));
  }

 private:
  UniqueFd near_;
};

TEST(VmmRefusals, EachKindIsToldOnce) {
  Mutex mutex;
  std::vector<std::string> told;
  VmmOptions options;
  options.on_refused = [&](uint64_t guest, const VhostUserRefusal& refusal) {
    LockHolder hold(mutex);
    told.push_back(absl::StrCat(guest, " ", refusal.request));
  };
  options.on_end = [&](const VmmGuest& guest, const absl::Status&) {
    LockHolder hold(mutex);
    told.push_back(
        absl::StrCat("end ", guest.id, " ", guest.counters.requests.refused));
  };
  Vmm vmm(std::move(options));
  constexpr uint32_t kSetLogBase = 6;
  {
    RawGuest guest(vmm);
    guest.Send(kSetLogBase);
    const auto told_of = [&](size_t count) {
      LockHolder hold(mutex);
      return told.size() >= count;
    };
    EXPECT_TRUE(Await([&] { return told_of(2); }));
  }
  LockHolder hold(mutex);
  EXPECT_THAT(told, SizeIs(2));
  EXPECT_EQ(told.front(), "1 SET_LOG_BASE");
  EXPECT_EQ(told.back(), "end 1 1");
}

// So that what is kept of refusals has a bound.
TEST(VmmRefusals, RequestsThatNobodyKnowsHaveOneName) {
  Vmm vmm;
  for (uint32_t request = 1000; request < 1010; ++request) {
    RawGuest(vmm).Send(request);
  }
  EXPECT_TRUE(Await([&] { return vmm.counters().requests.refused == 10; }));
  EXPECT_THAT(vmm.counters().requests.refused_by,
              testing::ElementsAre(testing::Pair("unknown request", 10u)));
}

TEST(VmmRefusals, RefusedConnectionsAreTold) {
  std::vector<std::string> told;
  VmmOptions options;
  options.server.max_sessions = 1;
  options.on_refused_connection = [&](const UnixPeer& peer,
                                      const absl::Status& why) {
    EXPECT_EQ(peer.pid, getpid());
    told.push_back(Message(why));
  };
  Vmm vmm(std::move(options));
  const RawGuest first(vmm);
  std::array<int, 2> fds = {-1, -1};
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds.data()), 0);
  const UniqueFd near(fds[0]);
  EXPECT_TRUE(absl::IsResourceExhausted(vmm.Serve(UniqueFd(fds[1]))));
  EXPECT_EQ(vmm.refused_connections(), 1u);
  EXPECT_THAT(told, testing::ElementsAre("1 sessions: no more are allowed"));
}

}  // namespace
}  // namespace guestmm::vmm_test
