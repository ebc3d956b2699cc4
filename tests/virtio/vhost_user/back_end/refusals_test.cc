// Every message that a session refuses, and its error.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <deque>
#include <functional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/virtio/vhost_user/back_end/session_testing.h"
#include "tests/virtio/vhost_user/vhost_user_testing.h"

namespace guestmm::refusals_test {
namespace {

using Request = VhostUserRequest;

constexpr uint16_t kReporting = HonestGuest::kReporting;

// A table with a region that is too large.
struct OneRegion {
  VhostUserMemTableHeader header = {1, 0};
  VhostUserRegion region = RegionAt(0, kGiB).region;
};

// A refused message, and its error.
struct Refusal {
  std::string_view text;
  std::function<void(ScriptedFrontEnd&)> send;
};

// Sends `payload` with `event_fds` eventfds.
template <typename T>
std::function<void(ScriptedFrontEnd&)> Sends(Request request, T payload,
                                             int event_fds = 0) {
  return [=](ScriptedFrontEnd& front) {
    const UniqueFd event_fd = MakeEventFd();
    const std::vector<int> fds(static_cast<size_t>(event_fds), event_fd.get());
    front.Send(request, payload, fds);
  };
}

// Shares a region of a memfd.
std::function<void(ScriptedFrontEnd&)> Shares(VhostUserSingleRegion region,
                                              uint64_t bytes,
                                              int seals = F_SEAL_SHRINK) {
  return [=](ScriptedFrontEnd& front) {
    const UniqueFd memfd = MakeMemfd(bytes, seals);
    const int fd = memfd.get();
    front.Send(Request::kAddMemReg, region, std::span(&fd, 1));
  };
}

constexpr VhostUserVringState State(uint32_t index, uint32_t num) {
  return {.index = index, .num = num};
}

std::vector<Refusal> AllRefusals() {
  constexpr uint64_t kHigh = ~uint64_t{0} - kPageSize + 1;
  std::vector<Refusal> refusals = {
      {"UNIMPLEMENTED: request 99: is not supported",
       Sends(static_cast<Request>(99), uint64_t{0})},
      {"UNIMPLEMENTED: SET_LOG_BASE: is not supported",
       Sends(static_cast<Request>(6), uint64_t{0}, 3)},
      {"INVALID_ARGUMENT: SET_FEATURES: payload of 4 bytes: must be 8",
       Sends(Request::kSetFeatures, uint32_t{0})},
      {"INVALID_ARGUMENT: SET_FEATURES: 0x244000080 has bit 7, "
       "VHOST_F_LOG_ALL, VIRTIO_F_ACCESS_PLATFORM: must be a subset of "
       "0x170000020",
       Sends(Request::kSetFeatures,
             kVhostUserFProtocolFeatures | uint64_t{0x204000080})},
      {"INVALID_ARGUMENT: SET_PROTOCOL_FEATURES: 0x90011102 has LOG_SHMFD, "
       "PAGEFAULT, INFLIGHT_SHMFD, bit 28, bit 31: must be a subset of 0x1a229",
       Sends(Request::kSetProtocolFeatures, uint64_t{0x90011102})},
      {"INVALID_ARGUMENT: SET_STATUS: 0x100: must be at most 0xff",
       Sends(Request::kSetStatus, uint64_t{0x100})},
      {"INVALID_ARGUMENT: SET_BACKEND_REQ_FD: came with 0 fds: must be 1",
       Sends(Request::kSetBackendReqFd, uint64_t{0})},
      {"INVALID_ARGUMENT: SET_BACKEND_REQ_FD: must come with a connected Unix "
       "socket",
       Sends(Request::kSetBackendReqFd, uint64_t{0}, 1)},
      {"INVALID_ARGUMENT: SET_CONFIG: payload of 8 bytes: must be 12",
       Sends(Request::kSetConfig, uint64_t{0})},
      {"OUT_OF_RANGE: SET_CONFIG: 300 bytes: must be at most 256",
       Sends(Request::kSetConfig, VhostUserConfigHeader{0, 300, 0})},
      {"INVALID_ARGUMENT: SET_CONFIG: payload of 12 bytes: must be 16",
       Sends(Request::kSetConfig, VhostUserConfigHeader{0, 4, 0})},

      {"INVALID_ARGUMENT: SET_MEM_TABLE: payload of 4 bytes: must be 8",
       Sends(Request::kSetMemTable, uint32_t{0})},
      {"INVALID_ARGUMENT: SET_MEM_TABLE: 2 regions with 1 fds: must be one fd "
       "each, at most 8",
       Sends(Request::kSetMemTable, VhostUserMemTableHeader{2, 0}, 1)},
      {"INVALID_ARGUMENT: SET_MEM_TABLE: 4294967295 regions with 8 fds: must "
       "be one fd each, at most 8",
       Sends(Request::kSetMemTable, VhostUserMemTableHeader{0xffffffff, 0}, 8)},
      {"INVALID_ARGUMENT: SET_MEM_TABLE: payload of 8 bytes: must be 40",
       Sends(Request::kSetMemTable, VhostUserMemTableHeader{1, 0}, 1)},
      {"INVALID_ARGUMENT: ADD_MEM_REG: came with 0 fds: must be 1",
       Sends(Request::kAddMemReg, RegionAt(0, kPageSize))},
      {"INVALID_ARGUMENT: ADD_MEM_REG: payload of 8 bytes: must be 40",
       Sends(Request::kAddMemReg, uint64_t{0}, 1)},
      {"RESOURCE_EXHAUSTED: ADD_MEM_REG: 1.00 GiB of this guest: must be at "
       "most 64.00 MiB in total",
       Shares(RegionAt(0, kGiB), kGiB)},
      {"RESOURCE_EXHAUSTED: SET_MEM_TABLE: 1.00 GiB of this guest: must be at "
       "most 64.00 MiB in total",
       Sends(Request::kSetMemTable, OneRegion(), 1)},
      {"INVALID_ARGUMENT: ADD_MEM_REG: user address 0xfffffffffffff000 + "
       "4.00 KiB runs past the end of the address space",
       Shares({0, {0, kPageSize, 0xfffffffffffff000, 0}}, kPageSize)},
      {"INVALID_ARGUMENT: ADD_MEM_REG: memory from another process: takes no "
       "seals: must "
       "be a memfd",
       Sends(Request::kAddMemReg, RegionAt(0, kPageSize), 1)},
      {"INVALID_ARGUMENT: ADD_MEM_REG: memory from another process: not sealed "
       "with "
       "F_SEAL_SHRINK: it could get shorter while it is used",
       Shares(RegionAt(0, kPageSize), kPageSize, 0)},
      {"INVALID_ARGUMENT: ADD_MEM_REG: memory from another process: sealed "
       "against writing",
       Shares(RegionAt(0, kPageSize), kPageSize, F_SEAL_SHRINK | F_SEAL_WRITE)},
      {"INVALID_ARGUMENT: ADD_MEM_REG: region 0x0 + 0 B: start and size must "
       "be multiples "
       "of 4.00 KiB, and the size not zero",
       Shares(RegionAt(0, 0), kPageSize)},
      {"INVALID_ARGUMENT: ADD_MEM_REG: region 0x200 + 4.00 KiB: start and size "
       "must be "
       "multiples of 4.00 KiB, and the size not zero",
       Shares(RegionAt(512, kPageSize), kPageSize)},
      {"INVALID_ARGUMENT: ADD_MEM_REG: region 0xfffffffffffff000 + 4.00 KiB: "
       "runs past the "
       "end of the address space",
       Shares({0, {kHigh, kPageSize, 0, 0}}, kPageSize)},
      {"INVALID_ARGUMENT: ADD_MEM_REG: region 0x0 + 4.00 KiB: offset 0x200 "
       "must be a "
       "multiple of 4.00 KiB",
       Shares(RegionAt(0, kPageSize, 512), 2 * kPageSize)},
      {"INVALID_ARGUMENT: ADD_MEM_REG: region 0x0 + 8.00 KiB: at offset 0x0 of "
       "a memfd of "
       "4.00 KiB, does not lie within it",
       Shares(RegionAt(0, 2 * kPageSize), kPageSize)},
      {"INVALID_ARGUMENT: ADD_MEM_REG: region 0x0 + 4.00 KiB: at offset "
       "0xfffffffffffff000 "
       "of a memfd of 4.00 KiB, does not lie within it",
       Shares(RegionAt(0, kPageSize, kHigh), kPageSize)},
      {"NOT_FOUND: REM_MEM_REG: no region at 0x0 of 4.00 KiB",
       Sends(Request::kRemMemReg, RegionAt(0, kPageSize))},

      {"NOT_FOUND: SET_VRING_NUM: queue 3: must be below 3, the device's "
       "number of queues",
       Sends(Request::kSetVringNum, State(3, 8))},
      {"NOT_FOUND: SET_VRING_BASE: queue 4294967295: must be below 3, the "
       "device's number of "
       "queues",
       Sends(Request::kSetVringBase, State(0xffffffff, 8))},
      {"NOT_FOUND: GET_VRING_BASE: queue 9: must be below 3, the device's "
       "number of queues",
       Sends(Request::kGetVringBase, State(9, 0))},
      {"NOT_FOUND: SET_VRING_ENABLE: queue 3: must be below 3, the device's "
       "number of queues",
       Sends(Request::kSetVringEnable, State(3, 1))},
      {"NOT_FOUND: SET_VRING_KICK: queue 255: must be below 3, the device's "
       "number of queues",
       Sends(Request::kSetVringKick, uint64_t{255}, 1)},
      {"NOT_FOUND: SET_VRING_CALL: queue 7: must be below 3, the device's "
       "number of queues",
       Sends(Request::kSetVringCall, uint64_t{7}, 1)},
      {"INVALID_ARGUMENT: SET_VRING_NUM: queue 2 of 0 descriptors: must be a "
       "power of 2 up to 32",
       Sends(Request::kSetVringNum, State(kReporting, 0))},
      {"INVALID_ARGUMENT: SET_VRING_NUM: queue 2 of 24 descriptors: must be a "
       "power of 2 up to 32",
       Sends(Request::kSetVringNum, State(kReporting, 24))},
      {"INVALID_ARGUMENT: SET_VRING_NUM: queue 2 of 65536 descriptors: must be "
       "a power of 2 up to 32",
       Sends(Request::kSetVringNum, State(kReporting, 65536))},
      {"INVALID_ARGUMENT: SET_VRING_BASE: queue 2 from entry 65536: must be at "
       "most 65535",
       Sends(Request::kSetVringBase, State(kReporting, 65536))},
      {"INVALID_ARGUMENT: SET_VRING_ADDR: flags 0x1: must be 0",
       Sends(Request::kSetVringAddr,
             VhostUserVringAddr{kReporting, 1, 0, 0, 0, 0})},
      {"INVALID_ARGUMENT: SET_VRING_ENABLE: queue 2: 2: must be 0 or 1",
       Sends(Request::kSetVringEnable, State(kReporting, 2))},
      {"INVALID_ARGUMENT: SET_VRING_KICK: 0x2 came with 0 fds: must be 1",
       Sends(Request::kSetVringKick, uint64_t{2})},
      {"INVALID_ARGUMENT: SET_VRING_CALL: 0x102 came with 1 fds: must be 0",
       Sends(Request::kSetVringCall, uint64_t{0x102}, 1)},
      {"INVALID_ARGUMENT: SET_VRING_KICK: queue 2: must have an eventfd",
       Sends(Request::kSetVringKick, uint64_t{0x102})},
  };
  // Files that could block the device.
  for (const auto& [request, name] :
       {std::pair(Request::kSetVringKick, "SET_VRING_KICK"),
        std::pair(Request::kSetVringCall, "SET_VRING_CALL"),
        std::pair(Request::kSetVringErr, "SET_VRING_ERR")}) {
    static std::deque<std::string> texts;
    texts.push_back(absl::StrCat("INVALID_ARGUMENT: ", name,
                                 ": must come with an eventfd"));
    refusals.push_back(
        {texts.back(), [request = request](ScriptedFrontEnd& front) {
           const int fd = front.fd();
           front.Send(request, uint64_t{kReporting}, std::span(&fd, 1));
         }});
  }
  return refusals;
}

TEST_F(VhostUserSessionTest, EveryRefusalHasItsError) {
  HonestGuest other(Connect());
  ASSERT_NO_FATAL_FAILURE(other.Start());
  const size_t before = OpenFds();
  for (const Refusal& refusal : AllRefusals()) {
    {
      ScriptedFrontEnd front = Connect();
      front.ShakeHands();
      refusal.send(front);
      EXPECT_TRUE(front.AwaitClose());
      EXPECT_EQ(ends_.Next().second, refusal.text);
    }
    EXPECT_EQ(OpenFds(), before) << refusal.text;
  }
  EXPECT_TRUE(other.ReportOne());
  EXPECT_EQ(server_.counters().refused, AllRefusals().size());
}

}  // namespace
}  // namespace guestmm::refusals_test
