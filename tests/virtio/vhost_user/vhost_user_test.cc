// The layout of vhost-user messages, and their transport.

#include "guestmm/virtio/vhost_user/vhost_user.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/virtio/vhost_user/vhost_user_testing.h"
#include "tests/virtio/virtio_testing.h"

namespace guestmm::vhost_user_test {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::StartsWith;

class VhostUserTest : public ::testing::Test {
 protected:
  VhostUserTest() {
    auto [near, far] = MakeSocketPair();
    raw_ = near.get();
    near_ = VhostUserChannel(std::move(near));
    far_ = VhostUserChannel(std::move(far));
  }
  void SendRaw(std::span<const std::byte> bytes) const {
    ASSERT_EQ(write(raw_, bytes.data(), bytes.size()),
              static_cast<ssize_t>(bytes.size()));
  }
  // The error of the next message.
  std::string Error() {
    const auto message = far_.Receive();
    return message.ok() ? "OK" : message.status().ToString();
  }
  bool NothingYet() {
    const auto message = far_.Receive();
    return message.ok() && !message->has_value();
  }

  VhostUserChannel near_;
  VhostUserChannel far_;
  int raw_ = -1;
};

constexpr auto kSetOwner = static_cast<uint32_t>(VhostUserRequest::kSetOwner);

TEST_F(VhostUserTest, TheWireIsLittleEndianAndUnpadded) {
  const VhostUserVringState state = {.index = 0x01020304, .num = 5};
  ASSERT_TRUE(near_
                  .Send(static_cast<uint32_t>(VhostUserRequest::kSetVringNum),
                        kVhostUserNeedReply, BytesOf(state))
                  .ok());
  std::array<unsigned char, 64> bytes;
  const ssize_t got = read(far_.fd(), bytes.data(), bytes.size());
  EXPECT_THAT(std::span(bytes.data(), static_cast<size_t>(got)),
              ElementsAre(8, 0, 0, 0,    // request
                          9, 0, 0, 0,    // version 1, need_reply
                          8, 0, 0, 0,    // size
                          4, 3, 2, 1,    // index
                          5, 0, 0, 0));  // num
}

TEST_F(VhostUserTest, AMessageArrivesAsSent) {
  const uint64_t number = 0x123456789;
  const UniqueFd event_fd = MakeEventFd();
  const std::array fds = {event_fd.get(), event_fd.get()};
  ASSERT_TRUE(near_.Send(kSetOwner, 0, BytesOf(number), fds).ok());
  auto message = far_.Receive();
  ASSERT_TRUE(message.ok() && message->has_value());
  EXPECT_EQ((*message)->request(), VhostUserRequest::kSetOwner);
  EXPECT_EQ((*message)->As<uint64_t>().value(), number);
  EXPECT_FALSE((*message)->needs_reply());
  ASSERT_EQ((*message)->fds.size(), 2u);
  // They are new fds of this process, closed on exec.
  EXPECT_NE((*message)->fds[0].get(), event_fd.get());
  EXPECT_EQ(fcntl((*message)->fds[0].get(), F_GETFD), FD_CLOEXEC);
  EXPECT_TRUE(NothingYet());
}

TEST_F(VhostUserTest, BytesMayArriveOneByOne) {
  const VhostUserHeader header = {
      .request = kSetOwner, .flags = kVhostUserVersion, .size = 8};
  const uint64_t number = 7;
  std::vector<std::byte> bytes(sizeof(header) + sizeof(number));
  std::memcpy(bytes.data(), &header, sizeof(header));
  std::memcpy(bytes.data() + sizeof(header), &number, sizeof(number));
  for (const std::byte byte : bytes) {
    EXPECT_TRUE(NothingYet());
    SendRaw({&byte, 1});
  }
  const auto message = far_.Receive();
  ASSERT_TRUE(message.ok() && message->has_value());
  EXPECT_EQ((*message)->As<uint64_t>().value(), number);
}

TEST_F(VhostUserTest, MessagesDoNotMix) {
  const UniqueFd event_fd = MakeEventFd();
  const int fd = event_fd.get();
  for (uint64_t i = 0; i < 3; ++i) {
    ASSERT_TRUE(near_
                    .Send(kSetOwner, 0, BytesOf(i),
                          i == 1 ? std::span(&fd, 1) : std::span<const int>())
                    .ok());
  }
  for (uint64_t i = 0; i < 3; ++i) {
    const auto message = far_.Receive();
    ASSERT_TRUE(message.ok() && message->has_value());
    EXPECT_EQ((*message)->As<uint64_t>().value(), i);
    EXPECT_EQ((*message)->fds.size(), i == 1 ? 1u : 0u);
  }
}

TEST_F(VhostUserTest, UnusedFdsAreClosed) {
  const size_t before = OpenFds();
  {
    const UniqueFd event_fd = MakeEventFd();
    const std::vector<int> fds(kVhostUserMaxFds, event_fd.get());
    ASSERT_TRUE(near_.Send(kSetOwner, 0, {}, fds).ok());
    const auto message = far_.Receive();
    ASSERT_TRUE(message.ok() && message->has_value());
    EXPECT_EQ(OpenFds(), before + 1 + kVhostUserMaxFds);
  }
  EXPECT_EQ(OpenFds(), before);
}

TEST_F(VhostUserTest, TooManyFds) {
  const UniqueFd event_fd = MakeEventFd();
  const std::vector<int> fds(kVhostUserMaxFds, event_fd.get());
  // Twice as many fds, sent with one message in two parts.
  const VhostUserHeader header = {
      .request = kSetOwner, .flags = kVhostUserVersion, .size = 4096};
  const std::span<const std::byte> bytes = BytesOf(header);
  for (const auto& half : {bytes.first(6), bytes.subspan(6)}) {
    iovec part = {const_cast<std::byte*>(half.data()), half.size()};
    alignas(cmsghdr) std::array<char, CMSG_SPACE(8 * sizeof(int))> control = {};
    msghdr message = {};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    message.msg_control = control.data();
    message.msg_controllen = control.size();
    cmsghdr* const rights = CMSG_FIRSTHDR(&message);
    rights->cmsg_level = SOL_SOCKET;
    rights->cmsg_type = SCM_RIGHTS;
    rights->cmsg_len = CMSG_LEN(8 * sizeof(int));
    std::memcpy(CMSG_DATA(rights), fds.data(), 8 * sizeof(int));
    ASSERT_EQ(sendmsg(raw_, &message, 0), 6);
  }
  EXPECT_EQ(Error(),
            "INVALID_ARGUMENT: a message came with more than 8 fds, or with "
            "more than this process may open");
}

// The kernel drops the fds for which the receiver's buffer has no room.
TEST_F(VhostUserTest, MoreFdsThanTheBufferHolds) {
  const size_t before = OpenFds();
  const UniqueFd event_fd = MakeEventFd();
  const std::vector<int> fds(20, event_fd.get());
  const VhostUserHeader header = {
      .request = kSetOwner, .flags = kVhostUserVersion, .size = 0};
  iovec part = {const_cast<VhostUserHeader*>(&header), sizeof(header)};
  alignas(cmsghdr) std::array<char, CMSG_SPACE(20 * sizeof(int))> control = {};
  msghdr message = {};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control.data();
  message.msg_controllen = control.size();
  cmsghdr* const rights = CMSG_FIRSTHDR(&message);
  rights->cmsg_level = SOL_SOCKET;
  rights->cmsg_type = SCM_RIGHTS;
  rights->cmsg_len = CMSG_LEN(20 * sizeof(int));
  std::memcpy(CMSG_DATA(rights), fds.data(), 20 * sizeof(int));
  ASSERT_EQ(sendmsg(raw_, &message, 0), static_cast<ssize_t>(sizeof(header)));
  EXPECT_THAT(
      Error(),
      StartsWith("INVALID_ARGUMENT: a message came with more than 8 fds"));
  far_ = VhostUserChannel();
  EXPECT_EQ(OpenFds(), before);  // plus the eventfd, minus the socket
}

TEST_F(VhostUserTest, APayloadTooLarge) {
  SendRaw(BytesOf(VhostUserHeader{
      .request = 5, .flags = kVhostUserVersion, .size = 0xffffffff}));
  EXPECT_EQ(Error(),
            "INVALID_ARGUMENT: SET_MEM_TABLE: payload of 4294967295 bytes: "
            "must be at most 4096");
}

TEST_F(VhostUserTest, AnotherVersion) {
  SendRaw(BytesOf(VhostUserHeader{.request = 99, .flags = 2, .size = 0}));
  EXPECT_EQ(Error(), "INVALID_ARGUMENT: request 99: version 2: must be 1");
}

TEST_F(VhostUserTest, TheEndBetweenMessagesAndWithinOne) {
  ASSERT_TRUE(near_.Send(kSetOwner, 0, {}).ok());
  SendRaw(BytesOf(uint64_t{5}));
  near_ = VhostUserChannel();
  EXPECT_TRUE(far_.Receive().value().has_value());
  EXPECT_EQ(Error(),
            "DATA_LOSS: the connection was closed 8 bytes into a message of 12 "
            "or more");

  auto [one, other] = MakeSocketPair();
  VhostUserChannel channel(std::move(one));
  other = UniqueFd();
  EXPECT_EQ(channel.Receive().status().ToString(),
            "UNAVAILABLE: the other end closed the connection");
  EXPECT_EQ(channel.Send(kSetOwner, 0, {}).ToString(),
            "UNAVAILABLE: SET_OWNER: could not be sent: Broken pipe");
}

TEST_F(VhostUserTest, SendDoesNotBlock) {
  const std::vector<std::byte> payload(kVhostUserMaxPayload);
  absl::Status status;
  for (int i = 0; i < 100'000 && status.ok(); ++i) {
    status = near_.Send(kSetOwner, 0, payload);
  }
  EXPECT_EQ(
      status.ToString(),
      "UNAVAILABLE: SET_OWNER: could not be sent: the other end does not read");
}

TEST_F(VhostUserTest, APayloadOfAnotherSize) {
  ASSERT_TRUE(near_.Send(kSetOwner, 0, BytesOf(uint32_t{1})).ok());
  const auto message = far_.Receive();
  EXPECT_EQ(Message((*message)->As<uint64_t>().status()),
            "payload of 4 bytes: must be 8");
}

TEST_F(VhostUserTest, Names) {
  EXPECT_EQ(Name(VhostUserRequest::kGetMaxMemSlots), "GET_MAX_MEM_SLOTS");
  EXPECT_EQ(Name(static_cast<VhostUserRequest>(7)), "SET_LOG_FD");
}

}  // namespace
}  // namespace guestmm::vhost_user_test
