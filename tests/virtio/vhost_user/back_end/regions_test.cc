// A session's memory, as shared by the front end.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <span>

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

TEST_F(VhostUserSessionTest, AMemTableReplacesWhatWasThere) {
  ScriptedFrontEnd front = Connect();
  front.ShakeHands();
  const UniqueFd memfd = MakeMemfd(8 * kMiB);
  const std::array fds = {memfd.get(), memfd.get()};
  struct {
    VhostUserMemTableHeader header = {2, 0};
    std::array<VhostUserRegion, 2> regions = {
        RegionAt(0, kMiB).region, RegionAt(4 * kMiB, kMiB, kMiB).region};
  } const table;
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(front.Tell(Request::kSetMemTable, table, fds),
              absl::StatusCode::kOk);
  }
  EXPECT_EQ(front.Tell(Request::kRemMemReg, RegionAt(4 * kMiB, kMiB)),
            absl::StatusCode::kOk);
}

}  // namespace
}  // namespace guestmm::regions_test
