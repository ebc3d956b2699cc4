// A VhostUserServer and front ends that obey nothing.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <condition_variable>
#include <deque>
#include <functional>
#include <limits>
#include <mutex>
#include <thread>

#include "guestmm/base/random.h"
#include "guestmm/virtio/device/balloon_device.h"
#include "guestmm/virtio/vhost_user/back_end/server.h"
#include "tests/virtio/vhost_user/vhost_user_testing.h"
#include "tests/virtio/virtio_testing.h"

namespace guestmm::session_test {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

using Request = VhostUserRequest;

constexpr uint16_t kReporting = 2;
constexpr uint64_t kRamBytes = 4 * kMiB;
// Where front ends say that they have guest RAM.
constexpr uint64_t kUserBase = 0x7f00'0000'0000;

VhostUserSingleRegion RegionAt(uint64_t gpa, uint64_t bytes,
                               uint64_t offset = 0) {
  return {.padding = 0,
          .region = {.guest_phys_addr = gpa,
                     .size = bytes,
                     .userspace_addr = kUserBase + gpa,
                     .mmap_offset = offset}};
}

// How sessions ended. The reason as text: who copies a Status shares it with
// the server's thread, by means that ThreadSanitizer does not see through.
class Ends {
 public:
  void Add(const VhostUserSessionInfo& info, const absl::Status& why) {
    std::lock_guard hold(mutex_);
    ends_.emplace_back(info, why.ToString());
    changed_.notify_all();
  }
  std::pair<VhostUserSessionInfo, std::string> Next() {
    std::unique_lock hold(mutex_);
    changed_.wait(hold, [&] { return !ends_.empty(); });
    auto end = ends_.front();
    ends_.pop_front();
    return end;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::pair<VhostUserSessionInfo, std::string>> ends_;
};

class VhostUserSessionTest : public ::testing::Test {
 protected:
  ScriptedFrontEnd Connect() {
    auto [near, far] = MakeSocketPair();
    EXPECT_TRUE(server_.Serve(std::move(far)).ok());
    return ScriptedFrontEnd(std::move(near));
  }

  Ends ends_;
  VhostUserServer server_{
      [](const GuestRam& ram, Hypervisor& hypervisor, Workqueue& workqueue) {
        return std::make_unique<BalloonDevice>(ram, hypervisor, workqueue);
      },
      {.max_sessions = 4,
       .max_regions = 3,
       .max_guest_bytes = 64 * kMiB,
       .on_end = [this](const auto& info, const auto& why) {
         ends_.Add(info, why);
       }}};
};

// A guest that does everything right, message by message.
class HonestGuest {
 public:
  explicit HonestGuest(ScriptedFrontEnd front) : front_(std::move(front)) {
    front_.ShakeHands();
  }

  static VirtqueueLayout Layout() { return LayOutVirtqueue(Gpa(0), 8); }

  void Share() {
    const int memfd = ram_->memfd();
    ASSERT_EQ(front_.Tell(Request::kAddMemReg, RegionAt(0, kRamBytes),
                          std::span(&memfd, 1)),
              absl::StatusCode::kOk);
  }
  void AgreeOnFeatures(uint64_t features = kVirtioFVersion1 |
                                           kBalloonFPageReporting) {
    ASSERT_EQ(front_.Tell(Request::kSetStatus, uint64_t{3}),
              absl::StatusCode::kOk);
    ASSERT_EQ(front_.Tell(Request::kSetFeatures,
                          features | kVhostUserFProtocolFeatures),
              absl::StatusCode::kOk);
    ASSERT_EQ(front_.Tell(Request::kSetStatus, uint64_t{11}),
              absl::StatusCode::kOk);
  }
  void DescribeQueue() {
    const VhostUserVringState num = {.index = kReporting, .num = 8};
    ASSERT_EQ(front_.Tell(Request::kSetVringNum, num), absl::StatusCode::kOk);
    const VhostUserVringAddr addresses = {
        .index = kReporting,
        .flags = 0,
        .descriptors = kUserBase + Layout().descriptors.value(),
        .used = kUserBase + Layout().used.value(),
        .available = kUserBase + Layout().available.value(),
        .log = 0};
    ASSERT_EQ(front_.Tell(Request::kSetVringAddr, addresses),
              absl::StatusCode::kOk);
    const int call = call_.get();
    ASSERT_EQ(front_.Tell(Request::kSetVringCall, uint64_t{kReporting},
                          std::span(&call, 1)),
              absl::StatusCode::kOk);
    const int kick = kick_.get();
    ASSERT_EQ(front_.Tell(Request::kSetVringKick, uint64_t{kReporting},
                          std::span(&kick, 1)),
              absl::StatusCode::kOk);
  }
  std::optional<absl::StatusCode> Enable(uint32_t number = 1) {
    return front_.Tell(Request::kSetVringEnable,
                       VhostUserVringState{.index = kReporting, .num = number});
  }
  void Start() {
    Share();
    AgreeOnFeatures();
    DescribeQueue();
    ASSERT_EQ(Enable(), absl::StatusCode::kOk);
    ASSERT_EQ(front_.Tell(Request::kSetStatus, uint64_t{15}),
              absl::StatusCode::kOk);
  }

  // Reports a page and waits for the call. Whether it is gone.
  bool ReportOne() {
    const GpaRange page = {Gpa(kMiB), kPageSize};
    std::byte* const at = ram_->Translate(page)->bytes().data();
    *at = std::byte{0x5a};
    driver_.OfferChain({{page.gpa.value(), kPageSize, kVirtqDescWrite, 0}});
    const uint64_t one = 1;
    EXPECT_EQ(write(kick_.get(), &one, sizeof(one)), 8);
    if (!AwaitEvents(call_.get(), POLLIN)) return false;
    uint64_t calls = 0;
    EXPECT_EQ(read(call_.get(), &calls, sizeof(calls)), 8);
    return *at == std::byte{0};
  }

  ScriptedFrontEnd& front() { return front_; }
  HostileDriver& driver() { return driver_; }
  GuestRam& ram() { return *ram_; }
  int kick() const { return kick_.get(); }
  int call() const { return call_.get(); }

 private:
  ScriptedFrontEnd front_;
  const std::unique_ptr<GuestRam> ram_ =
      GuestRam::Create({.regions = {{Gpa(0), kRamBytes}},
                        .source = MemorySource::kSharedMemfd})
          .value();
  const UniqueFd kick_ = MakeEventFd();
  const UniqueFd call_ = MakeEventFd();
  HostileDriver driver_{*ram_, Layout()};
};

// A table of a region that is too large.
struct OneRegion {
  VhostUserMemTableHeader header = {1, 0};
  VhostUserRegion region = RegionAt(0, kGiB).region;
};

TEST_F(VhostUserSessionTest, AnHonestGuestIsServed) {
  HonestGuest guest(Connect());
  EXPECT_EQ(guest.front().Ask(Request::kGetQueueNum), 3u);
  EXPECT_EQ(guest.front().Ask(Request::kGetMaxMemSlots), 3u);
  EXPECT_EQ(guest.front().Ask(Request::kGetProtocolFeatures),
            kVhostUserProtocolFeatures);
  ASSERT_NO_FATAL_FAILURE(guest.Start());
  EXPECT_EQ(guest.front().Ask(Request::kGetStatus), 15u);
  for (int i = 0; i < 20; ++i) EXPECT_TRUE(guest.ReportOne());
  const auto sessions = server_.sessions();
  ASSERT_EQ(sessions.size(), 1u);
  EXPECT_EQ(sessions[0].pid, getpid());
  EXPECT_EQ(server_.counters().reports, 20u);
  EXPECT_EQ(server_.counters().bytes, 20 * kPageSize);
  guest.front() = ScriptedFrontEnd();
  const auto [info, why] = ends_.Next();
  EXPECT_EQ(info.counters.reports, 20u);
  EXPECT_EQ(info.counters.refused, 0u);
  EXPECT_EQ(why, "UNAVAILABLE: the other side closed the connection");
  EXPECT_EQ(server_.counters().reports, 20u);
}

// A message that is refused, and with what words.
struct Refusal {
  std::string_view text;
  std::function<void(ScriptedFrontEnd&)> send;
};

// Sends a payload and as many eventfds.
template <typename T>
std::function<void(ScriptedFrontEnd&)> Sends(Request request, T payload,
                                             int event_fds = 0) {
  return [=](ScriptedFrontEnd& front) {
    const UniqueFd event_fd = MakeEventFd();
    const std::vector<int> fds(static_cast<size_t>(event_fds), event_fd.get());
    front.Send(request, payload, fds);
  };
}

// A region of a memfd.
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
      {"UNIMPLEMENTED: request 99: is not known",
       Sends(static_cast<Request>(99), uint64_t{0})},
      {"UNIMPLEMENTED: request 4: is not known",
       Sends(static_cast<Request>(4), uint64_t{0}, 3)},
      {"INVALID_ARGUMENT: SET_FEATURES: payload of 4 bytes: must be 8",
       Sends(Request::kSetFeatures, uint32_t{0})},
      {"INVALID_ARGUMENT: SET_FEATURES: 0x100000000 is without "
       "PROTOCOL_FEATURES, 0x40000000",
       Sends(Request::kSetFeatures, kVirtioFVersion1)},
      {"INVALID_ARGUMENT: features 0x80 accepted, which were not offered",
       Sends(Request::kSetFeatures, kVhostUserFProtocolFeatures | 0x80)},
      {"INVALID_ARGUMENT: SET_PROTOCOL_FEATURES: 0x10002: must be among "
       "0x1a229, with 0x10000",
       Sends(Request::kSetProtocolFeatures, uint64_t{0x10002})},
      {"INVALID_ARGUMENT: SET_PROTOCOL_FEATURES: 0x8: must be among 0x1a229, "
       "with 0x10000",
       Sends(Request::kSetProtocolFeatures, uint64_t{8})},
      {"INVALID_ARGUMENT: SET_STATUS: 0x100: the most is 0xff",
       Sends(Request::kSetStatus, uint64_t{0x100})},
      {"INVALID_ARGUMENT: SET_BACKEND_REQ_FD: came with 0 fds: must be 1",
       Sends(Request::kSetBackendReqFd, uint64_t{0})},
      {"INVALID_ARGUMENT: SET_BACKEND_REQ_FD: came with an fd that is not a "
       "Unix socket",
       Sends(Request::kSetBackendReqFd, uint64_t{0}, 1)},
      {"INVALID_ARGUMENT: SET_CONFIG: payload of 8 bytes: must be 12",
       Sends(Request::kSetConfig, uint64_t{0})},
      {"OUT_OF_RANGE: SET_CONFIG: of 300 bytes: the most is 256",
       Sends(Request::kSetConfig, VhostUserConfigHeader{0, 300, 0})},
      {"INVALID_ARGUMENT: SET_CONFIG: payload of 12 bytes: must be 16",
       Sends(Request::kSetConfig, VhostUserConfigHeader{0, 4, 0})},

      {"INVALID_ARGUMENT: SET_MEM_TABLE: payload of 4 bytes: must be 8",
       Sends(Request::kSetMemTable, uint32_t{0})},
      {"INVALID_ARGUMENT: SET_MEM_TABLE: 2 regions with 1 fds: must be as "
       "many, at most 8",
       Sends(Request::kSetMemTable, VhostUserMemTableHeader{2, 0}, 1)},
      {"INVALID_ARGUMENT: SET_MEM_TABLE: 4294967295 regions with 8 fds: must "
       "be as many, at most 8",
       Sends(Request::kSetMemTable, VhostUserMemTableHeader{0xffffffff, 0}, 8)},
      {"INVALID_ARGUMENT: SET_MEM_TABLE: payload of 8 bytes: must be 40",
       Sends(Request::kSetMemTable, VhostUserMemTableHeader{1, 0}, 1)},
      {"INVALID_ARGUMENT: ADD_MEM_REG: came with 0 fds: must be 1",
       Sends(Request::kAddMemReg, RegionAt(0, kPageSize))},
      {"INVALID_ARGUMENT: ADD_MEM_REG: payload of 8 bytes: must be 40",
       Sends(Request::kAddMemReg, uint64_t{0}, 1)},
      {"RESOURCE_EXHAUSTED: ADD_MEM_REG: 1.00 GiB more than 0 B: the most is "
       "64.00 MiB",
       Shares(RegionAt(0, kGiB), kGiB)},
      {"RESOURCE_EXHAUSTED: SET_MEM_TABLE: 1.00 GiB more than 0 B: the most "
       "is 64.00 MiB",
       Sends(Request::kSetMemTable, OneRegion(), 1)},
      {"INVALID_ARGUMENT: ADD_MEM_REG: user address 0xfffffffffffff000 + "
       "4.00 KiB runs past the end of the address space",
       Shares({0, {0, kPageSize, 0xfffffffffffff000, 0}}, kPageSize)},
      {"INVALID_ARGUMENT: memory from another process: takes no seals: must "
       "be a memfd",
       Sends(Request::kAddMemReg, RegionAt(0, kPageSize), 1)},
      {"INVALID_ARGUMENT: memory from another process: not sealed with "
       "F_SEAL_SHRINK: it could get shorter while it is used",
       Shares(RegionAt(0, kPageSize), kPageSize, 0)},
      {"INVALID_ARGUMENT: memory from another process: sealed against writing",
       Shares(RegionAt(0, kPageSize), kPageSize, F_SEAL_SHRINK | F_SEAL_WRITE)},
      {"INVALID_ARGUMENT: region 0x0 + 0 B: start and size must be multiples "
       "of 4.00 KiB, and the size not zero",
       Shares(RegionAt(0, 0), kPageSize)},
      {"INVALID_ARGUMENT: region 0x200 + 4.00 KiB: start and size must be "
       "multiples of 4.00 KiB, and the size not zero",
       Shares(RegionAt(512, kPageSize), kPageSize)},
      {"INVALID_ARGUMENT: region 0xfffffffffffff000 + 4.00 KiB: runs past the "
       "end of the address space",
       Shares({0, {kHigh, kPageSize, 0, 0}}, kPageSize)},
      {"INVALID_ARGUMENT: region 0x0 + 4.00 KiB: offset 0x200 must be a "
       "multiple of 4.00 KiB",
       Shares(RegionAt(0, kPageSize, 512), 2 * kPageSize)},
      {"INVALID_ARGUMENT: region 0x0 + 8.00 KiB: at offset 0x0 of a memfd of "
       "4.00 KiB, does not lie within it",
       Shares(RegionAt(0, 2 * kPageSize), kPageSize)},
      {"INVALID_ARGUMENT: region 0x0 + 4.00 KiB: at offset 0xfffffffffffff000 "
       "of a memfd of 4.00 KiB, does not lie within it",
       Shares(RegionAt(0, kPageSize, kHigh), kPageSize)},
      {"NOT_FOUND: REM_MEM_REG: no region at 0x0 of 4.00 KiB",
       Sends(Request::kRemMemReg, RegionAt(0, kPageSize))},

      {"NOT_FOUND: queue 3: the device has 3",
       Sends(Request::kSetVringNum, State(3, 8))},
      {"NOT_FOUND: queue 4294967295: the device has 3",
       Sends(Request::kSetVringBase, State(0xffffffff, 8))},
      {"NOT_FOUND: queue 9: the device has 3",
       Sends(Request::kGetVringBase, State(9, 0))},
      {"NOT_FOUND: queue 3: the device has 3",
       Sends(Request::kSetVringEnable, State(3, 1))},
      {"NOT_FOUND: queue 255: the device has 3",
       Sends(Request::kSetVringKick, uint64_t{255}, 1)},
      {"NOT_FOUND: queue 7: the device has 3",
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
      {"INVALID_ARGUMENT: SET_VRING_BASE: queue 2 from entry 1 on: a queue "
       "starts at 0",
       Sends(Request::kSetVringBase, State(kReporting, 1))},
      {"INVALID_ARGUMENT: SET_VRING_ADDR: flags 0x1: logging was not offered",
       Sends(Request::kSetVringAddr,
             VhostUserVringAddr{kReporting, 1, 0, 0, 0, 0})},
      {"INVALID_ARGUMENT: SET_VRING_ENABLE: queue 2: 2 is neither 0 nor 1",
       Sends(Request::kSetVringEnable, State(kReporting, 2))},
      {"FAILED_PRECONDITION: SET_VRING_ENABLE: queue 2 has no size "
       "(SET_VRING_NUM)",
       Sends(Request::kSetVringEnable, State(kReporting, 1))},
      {"INVALID_ARGUMENT: SET_VRING_KICK: 0x2 came with 0 fds: must be 1",
       Sends(Request::kSetVringKick, uint64_t{2})},
      {"INVALID_ARGUMENT: SET_VRING_CALL: 0x102 came with 1 fds: must be 0",
       Sends(Request::kSetVringCall, uint64_t{0x102}, 1)},
      {"FAILED_PRECONDITION: SET_VRING_KICK: queue 2: must have an eventfd",
       Sends(Request::kSetVringKick, uint64_t{0x102})},
  };
  // Files that would make the device wait.
  for (const auto& [request, name] :
       {std::pair(Request::kSetVringKick, "SET_VRING_KICK"),
        std::pair(Request::kSetVringCall, "SET_VRING_CALL")}) {
    static std::deque<std::string> texts;
    texts.push_back(absl::StrCat("INVALID_ARGUMENT: ", name,
                                 ": came with an fd that is not an eventfd"));
    refusals.push_back(
        {texts.back(), [request = request](ScriptedFrontEnd& front) {
           const int fd = front.fd();
           front.Send(request, uint64_t{kReporting}, std::span(&fd, 1));
         }});
  }
  return refusals;
}

// Each ends a session that asked for no answer, with the reason, and leaves
// nothing; others go on.
TEST_F(VhostUserSessionTest, EveryRefusalIsNamed) {
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

TEST_F(VhostUserSessionTest, WhoAsksForAnAnswerGoesOnAfterAnError) {
  HonestGuest guest(Connect());
  EXPECT_EQ(guest.front().Tell(Request::kSetStatus, uint64_t{1000}),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(guest.front().Tell(static_cast<Request>(77), uint64_t{0}),
            absl::StatusCode::kUnimplemented);
  ASSERT_NO_FATAL_FAILURE(guest.Start());
  EXPECT_TRUE(guest.ReportOne());
  EXPECT_EQ(server_.counters().refused, 2u);
}

// Before REPLY_ACK is agreed on nothing is acknowledged.
TEST_F(VhostUserSessionTest, NoAnswerWithoutReplyAck) {
  ScriptedFrontEnd front = Connect();
  front.SendBytes(Request::kSetOwner, {}, {}, kVhostUserNeedReply);
  EXPECT_TRUE(front.Ask(Request::kGetFeatures).has_value());
  EXPECT_EQ(front.Tell(Request::kSetStatus, uint64_t{256}), std::nullopt);
  EXPECT_THAT(ends_.Next().second, HasSubstr("SET_STATUS"));
}

TEST_F(VhostUserSessionTest, ConfigThatIsNotThereIsAnEmptyAnswer) {
  ScriptedFrontEnd front = Connect();
  for (const VhostUserConfigHeader header :
       {VhostUserConfigHeader{0, 0, 0}, VhostUserConfigHeader{0, 257, 0},
        VhostUserConfigHeader{0xffffffff, 1, 0},
        VhostUserConfigHeader{1000, 8, 0}}) {
    std::vector<std::byte> payload(sizeof(header) +
                                   std::min(header.size, 256u));
    std::memcpy(payload.data(), &header, sizeof(header));
    front.SendBytes(Request::kGetConfig, payload);
    const std::optional<VhostUserMessage> reply = front.Receive();
    ASSERT_TRUE(reply.has_value());
    EXPECT_TRUE(header.size == 0 || reply->payload.empty());
  }
  front.SendBytes(Request::kGetConfig, {});
  EXPECT_TRUE(front.Receive().value().payload.empty());
}

// In whatever order the messages of set-up come, at most an error comes of it.
TEST_F(VhostUserSessionTest, OutOfOrder) {
  HonestGuest guest(Connect());
  ASSERT_NO_FATAL_FAILURE(guest.DescribeQueue());
  // The addresses are in no region yet.
  EXPECT_EQ(guest.Enable(), absl::StatusCode::kInvalidArgument);
  ASSERT_NO_FATAL_FAILURE(guest.Share());
  // Features are not agreed on.
  EXPECT_EQ(guest.Enable(), absl::StatusCode::kFailedPrecondition);
  ASSERT_NO_FATAL_FAILURE(guest.AgreeOnFeatures());
  EXPECT_EQ(guest.front().Tell(Request::kSetFeatures,
                               kVirtioFVersion1 | kVhostUserFProtocolFeatures),
            absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(guest.Enable(), absl::StatusCode::kOk);
  EXPECT_EQ(guest.Enable(), absl::StatusCode::kOk);
  const int kick = guest.kick();
  EXPECT_EQ(guest.front().Tell(Request::kSetVringKick, uint64_t{kReporting},
                               std::span(&kick, 1)),
            absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(
      guest.front().Tell(Request::kSetMemTable, VhostUserMemTableHeader{0, 0}),
      absl::StatusCode::kFailedPrecondition);
  // The ring's memory is pinned.
  EXPECT_EQ(guest.front().Tell(Request::kRemMemReg, RegionAt(0, kRamBytes)),
            absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(guest.front().Tell(Request::kSetStatus, uint64_t{15}),
            absl::StatusCode::kOk);
  EXPECT_TRUE(guest.ReportOne());
}

TEST_F(VhostUserSessionTest, ARingWhereNoRamIs) {
  for (const uint64_t address :
       {kUserBase + kRamBytes, kUserBase - 1, ~uint64_t{0},
        kUserBase + kRamBytes - 16, kUserBase + 1}) {
    HonestGuest guest(Connect());
    ASSERT_NO_FATAL_FAILURE(guest.Share());
    ASSERT_NO_FATAL_FAILURE(guest.AgreeOnFeatures());
    ASSERT_NO_FATAL_FAILURE(guest.DescribeQueue());
    const VhostUserVringAddr addresses = {kReporting,       0,       kUserBase,
                                          kUserBase + 1024, address, 0};
    EXPECT_EQ(guest.front().Tell(Request::kSetVringAddr, addresses),
              absl::StatusCode::kOk);
    EXPECT_EQ(guest.Enable(), absl::StatusCode::kInvalidArgument);
    guest.front() = ScriptedFrontEnd();
    ends_.Next();
  }
}

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
  // It is by address and size that they are named.
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

TEST_F(VhostUserSessionTest, SessionsAreBounded) {
  std::vector<ScriptedFrontEnd> fronts;
  for (int i = 0; i < 4; ++i) fronts.push_back(Connect());
  auto [near, far] = MakeSocketPair();
  EXPECT_EQ(Message(server_.Serve(std::move(far))),
            "4 sessions are there, the most");
  EXPECT_TRUE(ScriptedFrontEnd(std::move(near)).AwaitClose());
  EXPECT_EQ(server_.refused_sessions(), 1u);
  fronts.pop_back();
  ends_.Next();
  // The thread is joined a moment after the end was told.
  absl::Status status;
  do {
    std::tie(near, far) = MakeSocketPair();
    status = server_.Serve(std::move(far));
  } while (absl::IsResourceExhausted(status));
  EXPECT_TRUE(status.ok());
}

TEST_F(VhostUserSessionTest, AResetForgetsTheQueue) {
  HonestGuest guest(Connect());
  ASSERT_NO_FATAL_FAILURE(guest.Start());
  EXPECT_TRUE(guest.ReportOne());
  for (const auto& reset : std::vector<std::function<void()>>{
           [&] { guest.front().Tell(Request::kSetStatus, uint64_t{0}); },
           [&] { guest.front().TellBytes(Request::kResetDevice, {}); },
           [&] { guest.Enable(0); },
           [&] {
             guest.front().Send(Request::kGetVringBase, State(kReporting, 0));
             const auto reply = guest.front().Receive().value();
             EXPECT_EQ(reply.As<VhostUserVringState>()->num,
                       guest.driver().used_idx());
           }}) {
    reset();
    EXPECT_EQ(guest.front().Ask(Request::kGetStatus), 0u);
    EXPECT_EQ(guest.Enable(), absl::StatusCode::kFailedPrecondition);
    // Nothing is pinned any more.
    EXPECT_EQ(guest.front().Tell(Request::kRemMemReg, RegionAt(0, kRamBytes)),
              absl::StatusCode::kOk);
    guest.driver().memory().Clear();
    guest.driver().JumpTo(0);
    ASSERT_NO_FATAL_FAILURE(guest.Start());
    EXPECT_TRUE(guest.ReportOne());
  }
}

// A broken ring shows in the status, and is told on the backend's channel.
TEST_F(VhostUserSessionTest, ABrokenRing) {
  HonestGuest guest(Connect());
  auto [near, far] = MakeSocketPair();
  const int fd = far.get();
  ASSERT_EQ(
      guest.front().TellBytes(Request::kSetBackendReqFd, {}, std::span(&fd, 1)),
      absl::StatusCode::kOk);
  ASSERT_NO_FATAL_FAILURE(guest.Start());
  guest.driver().JumpTo(9);
  const uint64_t one = 1;
  ASSERT_EQ(write(guest.kick(), &one, sizeof(one)), 8);
  ScriptedFrontEnd backend(std::move(near));
  const std::optional<VhostUserMessage> change = backend.Receive();
  ASSERT_TRUE(change.has_value());
  EXPECT_EQ(change->header.request, kVhostUserBackendConfigChange);
  EXPECT_EQ(guest.front().Ask(Request::kGetStatus), 15u | kVirtioNeedsReset);
}

// The guest shares its eventfds, and can fill them, whose writers then wait.
TEST_F(VhostUserSessionTest, AFullCallMakesNoOneWait) {
  HonestGuest guest(Connect());
  ASSERT_NO_FATAL_FAILURE(guest.Start());
  const uint64_t full = std::numeric_limits<uint64_t>::max() - 1;
  ASSERT_EQ(write(guest.call(), &full, sizeof(full)), 8);
  ASSERT_EQ(fcntl(guest.call(), F_SETFL, 0), 0);
  ASSERT_EQ(write(guest.kick(), &full, sizeof(full)), 8);
  guest.driver().OfferChain({{kMiB, kPageSize, kVirtqDescWrite, 0}});
  // Wherever the device is, it comes to its end.
  EXPECT_EQ(guest.front().Tell(Request::kSetStatus, uint64_t{0}),
            absl::StatusCode::kOk);
}

// Messages of random kinds and contents, with random files.
TEST_F(VhostUserSessionTest, RandomMessages) {
  HonestGuest other(Connect());
  ASSERT_NO_FATAL_FAILURE(other.Start());
  const size_t before = OpenFds();
  const UniqueFd memfd = MakeMemfd(4 * kMiB);
  const UniqueFd event_fd = MakeEventFd();
  for (uint64_t seed = 0; seed < 200; ++seed) {
    SCOPED_TRACE(absl::StrCat("seed ", seed));
    Random random(seed);
    {
      ScriptedFrontEnd front = Connect();
      front.ShakeHands();
      for (int i = 0; i < 40; ++i) {
        std::vector<std::byte> payload(random.OneIn(2) ? 8 : random.Below(64));
        for (std::byte& byte : payload) {
          // Small numbers get further.
          byte = static_cast<std::byte>(
              !random.OneIn(4) ? random.Below(4) * (random.OneIn(8) ? 1 : 0)
                               : random.Below(256));
        }
        std::vector<int> fds;
        while (random.OneIn(2) && fds.size() < kVhostUserMaxFds) {
          fds.push_back(random.OneIn(2) ? memfd.get() : event_fd.get());
        }
        front.SendBytes(static_cast<Request>(random.Below(42)), payload, fds,
                        random.OneIn(8) ? 0 : kVhostUserNeedReply);
      }
    }
    ends_.Next();
  }
  EXPECT_EQ(OpenFds(), before + 2);
  EXPECT_TRUE(other.ReportOne());
}

TEST(VhostUserServerTest, EndsItsSessions) {
  const size_t before = OpenFds();
  Ends ends;
  ScriptedFrontEnd front;
  {
    VhostUserServer server(
        [](const GuestRam& ram, Hypervisor& hypervisor, Workqueue& workqueue) {
          return std::make_unique<BalloonDevice>(ram, hypervisor, workqueue);
        },
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
}  // namespace guestmm::session_test
