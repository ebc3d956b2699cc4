// `guestmm vmm` as a server that others may harm: its log, its socket, its
// users and limits.

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <fstream>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "guestmm/base/unique_fd.h"
#include "guestmm/virtio/vhost_user/vhost_user.h"
#include "tests/testing/await.h"
#include "tests/testing/unix_socket.h"
#include "tests/tools/vmm_testing.h"

namespace guestmm::vmm_server_test {
namespace {

namespace fs = std::filesystem;

using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::StartsWith;

class VmmServerTest : public VmmProcessTest {
 protected:
  // A connection that says nothing; invalid if nobody listens.
  UniqueFd TryToConnect() const { return UnixSocketAfter(connect, path_); }
  UniqueFd Connect() const {
    UniqueFd fd = TryToConnect();
    EXPECT_TRUE(fd.valid());
    return fd;
  }
  // True if the connection is served: GET_FEATURES has a reply.
  static bool IsServed(const UniqueFd& fd) {
    const std::array<uint32_t, 3> request = {1, 1, 0};
    std::array<uint32_t, 5> reply = {};
    return send(fd.get(), request.data(), sizeof(request), MSG_NOSIGNAL) ==
               static_cast<ssize_t>(sizeof(request)) &&
           recv(fd.get(), reply.data(), sizeof(reply), MSG_WAITALL) ==
               static_cast<ssize_t>(sizeof(reply)) &&
           reply[0] == request[0];
  }
  // Connects and disconnects, until all was noticed.
  void ConnectOften(int times) const {
    for (int i = 0; i < times; ++i) Connect();
    // Refused as long as too many of them are there.
    while (!IsServed(Connect())) {
    }
  }
  // Waits until the other side closes the connection.
  static void AwaitEnd(const UniqueFd& fd) {
    char c = 0;
    EXPECT_LE(recv(fd.get(), &c, 1, 0), 0);
  }
  mode_t Mode() const {
    struct stat file = {};
    EXPECT_EQ(stat(path_.c_str(), &file), 0);
    return file.st_mode & 0777;
  }
};

TEST_F(VmmServerTest, ALogThatNobodyReadsStopsNothing) {
  const auto vmm = StartVmm();
  // Enough lines to fill a pipe, if there were no limit.
  ConnectOften(1500);
  const auto guest = StartGuest();
  ASSERT_NE(guest, nullptr);
  ExpectReports(*guest);
  vmm->Signal(SIGTERM);
  EXPECT_TRUE(vmm->EndsWithin(60'000));
  EXPECT_EQ(vmm->Await(), 0);
  EXPECT_FALSE(fs::exists(path_));
}

// A full pipe: the log's writer is stuck. That it is, cannot be told there.
TEST_F(VmmServerTest, ALogThatIsStuckStopsNothing) {
  const auto vmm = StartVmm();
  vmm->FillOutput();
  ConnectOften(50);
  {
    const auto guest = StartGuest();
    ASSERT_NE(guest, nullptr);
    ExpectReports(*guest);
  }
  vmm->Signal(SIGINT);
  EXPECT_TRUE(vmm->EndsWithin(60'000));
  EXPECT_EQ(vmm->Await(), 1);
  EXPECT_FALSE(fs::exists(path_));
}

TEST_F(VmmServerTest, ALogWhoseReaderIsGoneStopsNothing) {
  const auto vmm = StartVmm();
  vmm->CloseOutput();
  for (int i = 0; i < 3; ++i) {
    const auto guest = StartGuest();
    ASSERT_NE(guest, nullptr);
    ExpectReports(*guest);
  }
  vmm->Signal(SIGTERM);
  EXPECT_EQ(vmm->Await(), 1);
  EXPECT_FALSE(fs::exists(path_));
}

TEST_F(VmmServerTest, ConnectionsCannotFloodTheLog) {
  const auto vmm = StartVmm();
  ConnectOften(1000);
  EXPECT_NE(StartGuest(), nullptr);
  vmm->Signal(SIGTERM);
  const std::string log = vmm->Rest();
  EXPECT_THAT(log, HasSubstr(" lines left out)"));
  EXPECT_LT(std::count(log.begin(), log.end(), '\n'), 1000);
  EXPECT_EQ(vmm->Await(), 0);
}

TEST_F(VmmServerTest, WorksWithoutStandardStreams) {
  Process vmm({"vmm", "--socket", path_}, Process::Streams::kClosed);
  // It prints nothing when it listens.
  ASSERT_TRUE(guestmm::Await([&] { return TryToConnect().valid(); }));
  const auto guest = StartGuest();
  ASSERT_NE(guest, nullptr);
  ExpectReports(*guest);
  for (const char* const fd : {"0", "1", "2"}) {
    EXPECT_EQ(fs::read_symlink(absl::StrCat("/proc/", vmm.pid(), "/fd/", fd)),
              "/dev/null");
  }
  vmm.Signal(SIGTERM);
  // Its log is lost.
  EXPECT_EQ(vmm.Await(), 1);
  EXPECT_FALSE(fs::exists(path_));
}

TEST_F(VmmServerTest, ASilentConnectionEnds) {
  const auto vmm =
      StartVmm({"--handshake-timeout", "0.1", "--max-guests", "1"});
  const UniqueFd silent = Connect();
  AwaitEnd(silent);
  EXPECT_THAT(vmm->Line(), EndsWith(" came"));
  EXPECT_THAT(vmm->Line(), HasSubstr("left: 0 reports, 0 B handed back; "));
  const auto guest = StartGuest();
  EXPECT_NE(guest, nullptr);
}

TEST_F(VmmServerTest, RefusedConnectionsAreToldAndCounted) {
  const auto vmm = StartVmm({"--max-guests", "1"});
  const UniqueFd first = Connect();
  EXPECT_THAT(vmm->Line(), EndsWith(" came"));
  AwaitEnd(Connect());
  EXPECT_EQ(vmm->Line(), absl::StrCat("connection of process ", getpid(),
                                      " refused: 1 sessions: no more are "
                                      "allowed"));
  vmm->Signal(SIGTERM);
  EXPECT_THAT(vmm->Rest(), EndsWith(", 1 connections refused\n"));
  EXPECT_EQ(vmm->Await(), 0);
}

TEST_F(VmmServerTest, RefusalsAreToldOnceAndCountedByName) {
  const auto vmm = StartVmm();
  const UniqueFd guest = Connect();
  EXPECT_THAT(vmm->Line(), EndsWith(" came"));
  // SET_LOG_BASE, with NEED_REPLY (8) of version 1, without contents.
  const std::array<uint32_t, 3> header = {6, 9, 0};
  ASSERT_EQ(send(guest.get(), header.data(), sizeof(header), MSG_NOSIGNAL),
            static_cast<ssize_t>(sizeof(header)));
  EXPECT_THAT(vmm->Line(),
              EndsWith("guest 1: refused: SET_LOG_BASE: is not supported"));
  EXPECT_THAT(vmm->Line(),
              HasSubstr("left: 0 reports, 0 B handed back, 1 requests refused "
                        "(SET_LOG_BASE 1)"));
  vmm->Signal(SIGTERM);
  EXPECT_THAT(vmm->Rest(), HasSubstr("1 requests refused (SET_LOG_BASE 1)\n"));
  EXPECT_EQ(vmm->Await(), 0);
}

TEST_F(VmmServerTest, OnlyItsUserMayConnectByDefault) {
  const mode_t before = umask(0);
  const auto vmm = StartVmm();
  umask(before);
  EXPECT_EQ(Mode(), 0600u);
}

TEST_F(VmmServerTest, ModeGroupAndUsersCanBeChosen) {
  const std::string uid = std::to_string(getuid());
  {
    const auto vmm = StartVmm({"--mode", "0660", "--group",
                               std::to_string(getgid()), "--allow-uid", uid});
    EXPECT_EQ(Mode(), 0660u);
    EXPECT_NE(StartGuest(), nullptr);
  }
  const auto vmm =
      StartVmm({"--allow-uid", std::to_string(getuid() + 1), "--mode", "666"});
  AwaitEnd(Connect());
  EXPECT_EQ(vmm->Line(),
            absl::StrCat("connection of process ", getpid(), " refused: user ",
                         uid, ": is not allowed to connect"));
}

// Sockets that the parent process made are inherited without FD_CLOEXEC.
TEST_F(VmmServerTest, ServesAtASocketOfItsParent) {
  UniqueFd listener = UnixSocketAfter(bind, path_, /*flags=*/0);
  ASSERT_EQ(listen(listener.get(), 8), 0);
  const std::string fd = std::to_string(listener.get());
  Process vmm({"vmm", "--fd", fd});
  listener = UniqueFd();
  EXPECT_EQ(vmm.Line(), "serving guests at fd " + fd + ", until Ctrl-C");
  const auto guest = StartGuest();
  ASSERT_NE(guest, nullptr);
  ExpectReports(*guest);
  vmm.Signal(SIGTERM);
  EXPECT_EQ(vmm.Await(), 0);
  EXPECT_TRUE(fs::exists(path_));
}

TEST_F(VmmServerTest, ServesTheOneGuestThatIsConnected) {
  std::array<int, 2> fds = {-1, -1};
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, fds.data()), 0);
  UniqueFd near(fds[0]);
  UniqueFd far(fds[1]);
  ASSERT_EQ(fcntl(near.get(), F_SETFD, FD_CLOEXEC), 0);
  Process vmm({"vmm", "--fd", std::to_string(far.get())});
  far = UniqueFd();
  EXPECT_TRUE(IsServed(near));
  near = UniqueFd();
  EXPECT_EQ(vmm.Await(), 0);
}

// A front end that dies would keep its session, if the server had its end of
// the connection.
TEST_F(VmmServerTest, TheConnectionIsNoBackEndChannel) {
  const auto vmm = StartVmm();
  {
    const UniqueFd fd = Connect();
    EXPECT_THAT(vmm->Line(), EndsWith("came"));
    constexpr uint32_t kSetBackendReqFd = 21;
    const int own = fd.get();
    EXPECT_TRUE(VhostUserChannel(UniqueFd(dup(own)))
                    .Send(kSetBackendReqFd, 0, {}, std::span(&own, 1))
                    .ok());
  }
  EXPECT_THAT(vmm->Line(),
              EndsWith("refused: SET_BACKEND_REQ_FD: must not be the "
                       "connection itself"));
  EXPECT_THAT(vmm->Line(), HasSubstr(" left: "));
}

// The error cannot be told, but the status is there.
TEST_F(VmmServerTest, AFailedStartIsOneWithoutStandardStreams) {
  const auto other = StartVmm();
  Process vmm({"vmm", "--socket", path_}, Process::Streams::kClosed);
  EXPECT_EQ(vmm.Await(), 2);
}

TEST_F(VmmServerTest, PrintsWhatItServes) {
  Process vmm({"vmm", "--print-capabilities"});
  EXPECT_EQ(vmm.Rest(), "{\"type\": \"balloon\"}\n");
  EXPECT_EQ(vmm.Await(), 0);
}

TEST_F(VmmServerTest, CannotGainPrivileges) {
  const auto vmm = StartVmm();
  std::ifstream status(absl::StrCat("/proc/", vmm->pid(), "/status"));
  std::string value;
  for (std::string line; std::getline(status, line);) {
    if (absl::StartsWith(line, "NoNewPrivs:")) value = line;
  }
  EXPECT_EQ(value, "NoNewPrivs:\t1");
}

TEST_F(VmmServerTest, NamesWhatIsWrong) {
  const auto error = [&](std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), {"vmm", "--socket", path_});
    Process process(arguments);
    // A line of the log may come first: to see whether a socket is in use, a
    // server connects to it.
    std::string text = process.Rest();
    EXPECT_EQ(process.Await(), 2) << text;
    const size_t start = text.find("guestmm vmm: --");
    if (start == std::string::npos) return text;
    text.erase(0, text.find("--", start));
    return text.substr(0, text.find('\n'));
  };
  EXPECT_EQ(error({"--offer", "reporting,more"}),
            "--offer=reporting,more: must be one or several of reporting, "
            "hinting, balloon, statistics, poison");
  EXPECT_EQ(error({"--fd", "0"}), "--socket, --fd: exactly one is required");
  EXPECT_EQ(error({"--mode", "08"}), "--mode=08: must be octal, 0 to 777");
  EXPECT_EQ(error({"--mode", "1000"}), "--mode=1000: must be octal, 0 to 777");
  EXPECT_EQ(error({"--group", "no such group"}),
            "--group=no such group: must be a group or its number");
  EXPECT_EQ(error({"--allow-uid", "0,no such user"}),
            "--allow-uid=0,no such user: must be users or their numbers");
  EXPECT_THAT(error({"--max-guests", "0"}),
              StartsWith("--max-guests=0: must be "));
  EXPECT_THAT(error({"--max-rate", "fast"}),
              StartsWith("--max-rate=fast: must be "));
  EXPECT_THAT(error({"--seccomp", "maybe"}),
              StartsWith("--seccomp=maybe: must be "));
  EXPECT_THAT(error({"--control", ""}), StartsWith("--control="));
  EXPECT_THAT(error({"--control", path_}),
              HasSubstr(": must not be in use by another server"));
}

}  // namespace
}  // namespace guestmm::vmm_server_test
