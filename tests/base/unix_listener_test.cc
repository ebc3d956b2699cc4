#include "guestmm/base/unix_listener.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <optional>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "guestmm/base/unique_fd.h"
#include "tests/testing/unix_socket.h"

namespace guestmm::unix_listener_test {
namespace {

namespace fs = std::filesystem;
using ::testing::StartsWith;

class UnixListenerTest : public testing::Test {
 protected:
  UnixListenerTest()
      : folder_(fs::path(testing::TempDir()) /
                absl::StrCat("unix_listener_test_", getpid())),
        path_((folder_ / "socket").string()) {
    fs::create_directories(folder_);
  }
  ~UnixListenerTest() override { fs::remove_all(folder_); }

  UniqueFd Connect() const { return UnixSocketAfter(connect, path_); }
  std::string Error() const {
    return std::string(UnixListener::Listen(path_).status().message());
  }
  mode_t Mode() const {
    struct stat file = {};
    EXPECT_EQ(lstat(path_.c_str(), &file), 0);
    return file.st_mode & 07777;
  }

  const fs::path folder_;
  const std::string path_;
};

TEST_F(UnixListenerTest, ListensWhileItLives) {
  {
    const UnixListener listener = UnixListener::Listen(path_).value();
    const UniqueFd near = Connect();
    EXPECT_TRUE(near.valid());
    const UniqueFd far(accept4(listener.fd(), nullptr, nullptr, SOCK_CLOEXEC));
    const UnixPeer peer = PeerOf(far.get());
    EXPECT_EQ(peer.pid, getpid());
    EXPECT_EQ(peer.uid, geteuid());
    EXPECT_EQ(peer.gid, getegid());
  }
  EXPECT_FALSE(fs::exists(path_));
  EXPECT_FALSE(Connect().valid());
}

TEST_F(UnixListenerTest, NoPeerIsUnknown) {
  EXPECT_EQ(PeerOf(-1).pid, 0);
  EXPECT_EQ(PeerOf(-1).uid, static_cast<uid_t>(-1));
}

TEST_F(UnixListenerTest, PermissionsDoNotDependOnTheUmask) {
  for (const mode_t mask : {mode_t{0}, mode_t{022}, mode_t{0777}}) {
    const mode_t before = umask(mask);
    {
      const UnixListener listener = UnixListener::Listen(path_).value();
      EXPECT_EQ(Mode(), 0600u);
    }
    {
      const UnixListener listener =
          UnixListener::Listen(path_, {.mode = 0660, .group = getegid()})
              .value();
      EXPECT_EQ(Mode(), 0660u);
    }
    umask(before);
  }
}

TEST_F(UnixListenerTest, OneProcessListens) {
  const UnixListener listener = UnixListener::Listen(path_).value();
  EXPECT_EQ(Error(), absl::StrCat(path_,
                                  ": must not be in use by another "
                                  "server"));
  EXPECT_TRUE(Connect().valid());
}

TEST_F(UnixListenerTest, ReplacesASocketThatWasLeftThere) {
  ASSERT_TRUE(UnixSocketAfter(bind, path_).valid());
  ASSERT_TRUE(fs::exists(path_));
  const UnixListener listener = UnixListener::Listen(path_).value();
  EXPECT_TRUE(Connect().valid());
}

TEST_F(UnixListenerTest, LeavesAFileAlone) {
  std::ofstream(path_) << "text";
  EXPECT_EQ(Error(), absl::StrCat(path_, ": must be a socket or not exist"));
  EXPECT_EQ(fs::file_size(path_), 4u);
}

TEST_F(UnixListenerTest, LeavesTheSocketOfItsSuccessorAlone) {
  std::optional<UnixListener> old = UnixListener::Listen(path_).value();
  fs::remove(path_);
  const UnixListener next = UnixListener::Listen(path_).value();
  old.reset();
  EXPECT_TRUE(Connect().valid());
}

TEST_F(UnixListenerTest, MovesTakeTheSocketAlong) {
  UnixListener listener;
  EXPECT_EQ(listener.fd(), -1);
  {
    UnixListener first = UnixListener::Listen(path_).value();
    UnixListener second(std::move(first));
    listener = std::move(second);
  }
  EXPECT_TRUE(Connect().valid());
  listener = UnixListener();
  EXPECT_FALSE(fs::exists(path_));
}

TEST_F(UnixListenerTest, AdoptsASocketThatListens) {
  {
    UniqueFd socket = UnixSocketAfter(bind, path_);
    EXPECT_FALSE(IsUnixStream(socket.get(), /*listens=*/true));
    EXPECT_TRUE(IsUnixStream(socket.get(), /*listens=*/false));
    ASSERT_EQ(listen(socket.get(), 1), 0);
    const auto listener = UnixListener::Adopt(std::move(socket));
    ASSERT_TRUE(listener.ok()) << listener.status();
    EXPECT_TRUE(Connect().valid());
  }
  EXPECT_FALSE(Connect().valid());
  EXPECT_TRUE(fs::exists(path_));
}

TEST_F(UnixListenerTest, AdoptsNothingElse) {
  EXPECT_FALSE(IsUnixStream(-1, /*listens=*/false));
  EXPECT_EQ(std::string(UnixListener::Adopt(UniqueFd()).status().message()),
            "fd -1: must be a Unix stream socket that listens");
  EXPECT_FALSE(UnixListener::Adopt(
                   UniqueFd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)))
                   .ok());
  EXPECT_FALSE(UnixListener::Adopt(
                   UniqueFd(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0)))
                   .ok());
}

TEST_F(UnixListenerTest, NamesWhatFails) {
  EXPECT_THAT(std::string(UnixListener::Listen("").status().message()),
              StartsWith("\"\": must be 1 to 107 bytes long"));
  EXPECT_THAT(
      std::string(
          UnixListener::Listen(std::string(200, 'x')).status().message()),
      StartsWith("xxx"));
  fs::remove_all(folder_);
  EXPECT_EQ(Error(),
            absl::StrCat(path_, ": bind failed: No such file or directory"));
}

}  // namespace
}  // namespace guestmm::unix_listener_test
