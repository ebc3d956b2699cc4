// A session's memory, as shared by the front end.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <optional>
#include <span>
#include <utility>

#include "src/virtio/vhost_user/back_end/memory_budget.h"
#include "tests/virtio/vhost_user/back_end/session_testing.h"
#include "tests/virtio/vhost_user/vhost_user_testing.h"

namespace guestmm::regions_test {
namespace {

using Request = VhostUserRequest;

TEST_F(VhostUserSessionTest, RegionsAreBounded) {
  ScriptedFrontEnd front = Connect();
  front.ShakeHands();
  const UniqueFd memfd = MakeMemfd(8 * kMiB);
  const int fd = memfd.get();
  const std::span<const int> fds(&fd, 1);
  for (uint64_t i = 0; i < 3; ++i) {
    EXPECT_EQ(front.Tell(Request::kAddMemReg, RegionAt(i * kMiB, kMiB), fds),
              absl::StatusCode::kOk);
    EXPECT_EQ(front.Tell(Request::kAddMemReg, RegionAt(i * kMiB, kMiB), fds),
              i < 2 ? absl::StatusCode::kAlreadyExists
                    : absl::StatusCode::kResourceExhausted);
  }
  // A region must be named by its address and its full size.
  EXPECT_EQ(front.Tell(Request::kRemMemReg, RegionAt(0, kPageSize)),
            absl::StatusCode::kNotFound);
  EXPECT_EQ(front.Tell(Request::kRemMemReg, RegionAt(0, kMiB), fds),
            absl::StatusCode::kOk);
  EXPECT_EQ(front.Tell(Request::kAddMemReg, RegionAt(8 * kMiB, kMiB), fds),
            absl::StatusCode::kOk);
}

// The limit of 64 MiB is that of all regions together, at any one time.
TEST_F(VhostUserSessionTest, BytesAreBounded) {
  ScriptedFrontEnd front = Connect();
  front.ShakeHands();
  const UniqueFd memfd = MakeMemfd(kGiB);
  const int fd = memfd.get();
  const std::span<const int> fds(&fd, 1);
  const auto add = [&](uint64_t gpa) {
    return front.Tell(Request::kAddMemReg, RegionAt(gpa, 40 * kMiB), fds);
  };
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(add(0), absl::StatusCode::kOk);
    EXPECT_EQ(add(kGiB), absl::StatusCode::kResourceExhausted);
    EXPECT_EQ(front.Tell(Request::kRemMemReg, RegionAt(0, 40 * kMiB)),
              absl::StatusCode::kOk);
  }
}

// A SET_MEM_TABLE of up to two regions.
template <size_t kCount>
struct MemTable {
  VhostUserMemTableHeader header = {kCount, 0};
  std::array<VhostUserRegion, kCount> regions;
};

TEST_F(VhostUserSessionTest, AMemTableReplacesWhatWasThere) {
  ScriptedFrontEnd front = Connect();
  front.ShakeHands();
  const UniqueFd memfd = MakeMemfd(64 * kMiB);
  const std::array fds = {memfd.get(), memfd.get()};
  const MemTable<2> table = {
      .regions = {RegionAt(0, 30 * kMiB).region,
                  RegionAt(kGiB, 30 * kMiB, kMiB).region}};
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(front.Tell(Request::kSetMemTable, table, fds),
              absl::StatusCode::kOk);
  }
  const VhostUserMemTableHeader none = {0, 0};
  EXPECT_EQ(front.Tell(Request::kRemMemReg, RegionAt(kGiB, 30 * kMiB)),
            absl::StatusCode::kOk);
  EXPECT_EQ(front.Tell(Request::kSetMemTable, none), absl::StatusCode::kOk);
  EXPECT_EQ(front.Tell(Request::kRemMemReg, RegionAt(0, 30 * kMiB)),
            absl::StatusCode::kNotFound);
}

// The ring goes on, in more memory than before.
TEST_F(VhostUserSessionTest, AMemTableWhileARingRuns) {
  HonestGuest guest(Connect());
  ASSERT_NO_FATAL_FAILURE(guest.Start());
  EXPECT_TRUE(guest.ReportOne());
  const UniqueFd more = MakeMemfd(kMiB);
  const std::array fds = {guest.ram().memfd(), more.get()};
  const MemTable<2> table = {
      .regions = {RegionAt(0, HonestGuest::kRamBytes).region,
                  RegionAt(kGiB, kMiB).region}};
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(guest.front().Tell(Request::kSetMemTable, table, fds),
              absl::StatusCode::kOk);
    EXPECT_TRUE(guest.ReportOne());
  }
  EXPECT_EQ(balloons_.discards().reports, 4u);
  EXPECT_EQ(guest.front().Tell(Request::kRemMemReg, RegionAt(kGiB, kMiB)),
            absl::StatusCode::kOk);
  EXPECT_TRUE(guest.ReportOne());
}

// Of two regions, one has the ring. A table that cannot take effect leaves both
// in place, and the ring running.
TEST_F(VhostUserSessionTest, ARefusedMemTableChangesNothing) {
  HonestGuest guest(Connect());
  ASSERT_NO_FATAL_FAILURE(guest.Start());
  const UniqueFd more = MakeMemfd(kMiB);
  const UniqueFd unsealed = MakeMemfd(kMiB, /*seals=*/0);
  const int fd = more.get();
  ASSERT_EQ(guest.front().Tell(Request::kAddMemReg, RegionAt(kGiB, kMiB),
                               std::span(&fd, 1)),
            absl::StatusCode::kOk);
  const VhostUserRegion of_ring = RegionAt(0, HonestGuest::kRamBytes).region;
  const VhostUserRegion other = RegionAt(kGiB, kMiB).region;
  const auto tell = [&](const auto& table, auto... fds) {
    return guest.front().Tell(Request::kSetMemTable, table, std::array{fds...});
  };
  const int of_guest = guest.ram().memfd();
  EXPECT_EQ(tell(MemTable<1>{.regions = {other}}, more.get()),
            absl::StatusCode::kFailedPrecondition);
  EXPECT_TRUE(guest.ReportOne());
  EXPECT_EQ(
      tell(MemTable<2>{.regions = {of_ring, other}}, of_guest, unsealed.get()),
      absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(guest.ReportOne());
  EXPECT_EQ(
      tell(MemTable<2>{.regions = {of_ring, of_ring}}, of_guest, of_guest),
      absl::StatusCode::kAlreadyExists);
  EXPECT_TRUE(guest.ReportOne());
  EXPECT_EQ(
      tell(MemTable<2>{.regions = {of_ring, RegionAt(kGiB, 100 * kMiB).region}},
           of_guest, more.get()),
      absl::StatusCode::kResourceExhausted);
  EXPECT_TRUE(guest.ReportOne());
  EXPECT_EQ(guest.front().Tell(Request::kRemMemReg, RegionAt(kGiB, kMiB)),
            absl::StatusCode::kOk);
}

// The table takes effect, but the ring in it was never used: the one that runs
// cannot go on.
TEST_F(VhostUserSessionTest, AMemTableOfOtherMemoryPutsItsRingInError) {
  HonestGuest guest(Connect());
  ASSERT_NO_FATAL_FAILURE(guest.Start());
  EXPECT_TRUE(guest.ReportOne());
  const UniqueFd error = MakeEventFd();
  const int error_fd = error.get();
  ASSERT_EQ(guest.front().Tell(Request::kSetVringErr,
                               uint64_t{HonestGuest::kReporting},
                               std::span(&error_fd, 1)),
            absl::StatusCode::kOk);
  const UniqueFd other = MakeMemfd(HonestGuest::kRamBytes);
  const int fd = other.get();
  EXPECT_EQ(
      guest.front().Tell(
          Request::kSetMemTable,
          MemTable<1>{.regions = {RegionAt(0, HonestGuest::kRamBytes).region}},
          std::span(&fd, 1)),
      absl::StatusCode::kOk);
  EXPECT_TRUE(AwaitEvents(error.get(), POLLIN));
  EXPECT_EQ(server_.counters().refused_by.at("memory"), 1u);
}

TEST(MemoryBudgetTest, BoundsTheSumAndEachUser) {
  MemoryBudget budget(/*most=*/10 * kMiB, /*most_per_uid=*/6 * kMiB);
  EXPECT_TRUE(budget.Take(1, 6 * kMiB).ok());
  EXPECT_EQ(Message(budget.Take(1, 1)),
            "1 B in addition to 6.00 MiB of guests of user 1: must be at most "
            "6.00 MiB in total");
  EXPECT_TRUE(budget.Take(2, 4 * kMiB).ok());
  EXPECT_EQ(Message(budget.Take(2, 1)),
            "1 B in addition to 10.00 MiB of all guests: must be at most "
            "10.00 MiB in total");
  EXPECT_EQ(
      Message(budget.Take(3, ~uint64_t{0})),
      "16777216.00 TiB in addition to 10.00 MiB of all guests: must be at "
      "most 10.00 MiB in total");
  budget.Return(1, 6 * kMiB);
  EXPECT_TRUE(budget.Take(2, 2 * kMiB).ok());
  EXPECT_TRUE(budget.Take(3, 4 * kMiB).ok());
}

// Two guests of a server with limits of all guests together.
class SharedLimitsTest : public ::testing::Test {
 protected:
  void Serve(const VhostUserServerOptions& options) {
    server_.emplace(balloons_.maker(), options);
  }
  ScriptedFrontEnd Connect() {
    auto [near, far] = MakeSocketPair();
    EXPECT_TRUE(server_->Serve(std::move(far)).ok());
    ScriptedFrontEnd front(std::move(near));
    front.ShakeHands();
    return front;
  }
  std::optional<absl::StatusCode> Add(ScriptedFrontEnd& front, uint64_t gpa,
                                      uint64_t bytes) const {
    const int fd = memfd_.get();
    return front.Tell(Request::kAddMemReg, RegionAt(gpa, bytes),
                      std::span(&fd, 1));
  }

  BalloonFactory balloons_;
  const UniqueFd memfd_ = MakeMemfd(kGiB);
  std::optional<VhostUserServer> server_;
};

// One guest's memory counts until it leaves.
TEST_F(SharedLimitsTest, OfTheMemoryOfAllGuests) {
  Ends ends;
  Serve({.max_total_bytes = 6 * kMiB,
         .on_end = [&](const auto& info, const auto& why) {
           ends.Add(info, why);
         }});
  ScriptedFrontEnd first = Connect();
  ScriptedFrontEnd second = Connect();
  EXPECT_EQ(Add(first, 0, 4 * kMiB), absl::StatusCode::kOk);
  EXPECT_EQ(Add(second, 0, 4 * kMiB), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(Add(second, 0, 2 * kMiB), absl::StatusCode::kOk);
  EXPECT_EQ(second.Tell(Request::kRemMemReg, RegionAt(0, 2 * kMiB)),
            absl::StatusCode::kOk);
  first = ScriptedFrontEnd();
  ends.Next();
  EXPECT_EQ(Add(second, 0, 6 * kMiB), absl::StatusCode::kOk);
  server_.reset();
}

// However much others take.
TEST_F(SharedLimitsTest, LeaveWhatIsGuaranteed) {
  Serve({.guaranteed_guest_bytes = 2 * kMiB, .max_total_bytes = 4 * kMiB});
  ScriptedFrontEnd large = Connect();
  EXPECT_EQ(Add(large, 0, 7 * kMiB), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(Add(large, 0, kMiB), absl::StatusCode::kOk);
  EXPECT_EQ(Add(large, kGiB, 5 * kMiB), absl::StatusCode::kOk);
  for (int i = 0; i < 3; ++i) {
    ScriptedFrontEnd small = Connect();
    EXPECT_EQ(Add(small, 0, kMiB), absl::StatusCode::kOk);
    EXPECT_EQ(Add(small, kGiB, kMiB), absl::StatusCode::kOk);
    EXPECT_EQ(Add(small, 2 * kGiB, kMiB), absl::StatusCode::kResourceExhausted);
  }
  EXPECT_EQ(large.Tell(Request::kRemMemReg, RegionAt(0, kMiB)),
            absl::StatusCode::kOk);
  ScriptedFrontEnd other = Connect();
  EXPECT_EQ(Add(other, 0, 3 * kMiB), absl::StatusCode::kOk);
}

}  // namespace
}  // namespace guestmm::regions_test
