// A server whose system calls are interrupted, or fail for want of file
// descriptors.

#include <gtest/gtest.h>
#include <poll.h>
#include <pthread.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "guestmm/virtio/vhost_user/back_end/server.h"
#include "guestmm/vmm/balloon_factory.h"
#include "src/base/unix_socket.h"
#include "tests/virtio/vhost_user/back_end/front_end_testing.h"
#include "tests/virtio/vhost_user/back_end/guest_testing.h"
#include "tests/virtio/vhost_user/vhost_user_testing.h"
#ifdef __x86_64__
#include "tests/testing/system_call_trap.h"
#endif

namespace guestmm::system_calls_test {
namespace {

class SystemCallsTest : public ::testing::Test {
 protected:
  SystemCallsTest() {
    sigaction(SIGSYS, nullptr, &old_sigsys_);
    std::filesystem::create_directories(folder_);
  }
  ~SystemCallsTest() override {
    server_.reset();
    sigaction(SIGSYS, &old_sigsys_, nullptr);
    std::filesystem::remove_all(folder_);
  }

#ifdef __x86_64__
  // Listens with threads whose calls are trapped. False if that is not
  // permitted.
  bool Listen(std::initializer_list<int> calls, SystemCallTrap::Answer answer) {
    bool is_trapped = false;
    std::thread([&] {
      is_trapped = SystemCallTrap::Install(calls, answer);
      if (is_trapped) Listen();
    }).join();
    return is_trapped;
  }
#endif
  void Listen() {
    server_ = std::make_unique<VhostUserServer>(balloons_.maker());
    EXPECT_TRUE(server_->Listen(path_).ok());
  }
  UniqueFd Connect() const {
    UniqueFd connection(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    const sockaddr_un address = UnixAddress(path_).value();
    EXPECT_EQ(
        connect(connection.get(), reinterpret_cast<const sockaddr*>(&address),
                sizeof(address)),
        0);
    return connection;
  }
  // A guest that starts, reports, is paused and resumed, and reports again.
  void RunGuest(FrontEndKind kind) {
    const uint64_t before = balloons_.discards().reports;
    ReportingGuest guest(memory_);
    FrontEnd front(kind, memory_, guest, Connect());
    front.Connect();
    front.Start();
    constexpr uint64_t kReports = 3 * ReportingGuest::kSize;
    for (uint64_t i = 0; i < kReports; ++i) {
      ASSERT_TRUE(guest.Report(memory_.unit_at(i)));
      memory_.Use(memory_.unit_at(i));
      if (i % 5 != 0) continue;
      front.Pause();
      front.Resume();
    }
    front.Sync();
    EXPECT_EQ(front.refused(), std::vector<std::string>());
    EXPECT_EQ(balloons_.discards().reports, before + kReports);
    memory_.Check();
  }

  struct sigaction old_sigsys_ = {};
  const std::filesystem::path folder_ =
      std::filesystem::path(::testing::TempDir()) /
      absl::StrCat("system_calls_", getpid());
  const std::string path_ = (folder_ / "socket").string();
  GuestMemory memory_{GuestMemory::Kind::kTwoMemfds};
  BalloonFactory balloons_{
      {.features = kBalloonFPageReporting | kBalloonFPagePoison}};
  std::unique_ptr<VhostUserServer> server_;
};

// Signals without SA_RESTART arrive all the time, on all threads but this one.
TEST_F(SystemCallsTest, SignalsArriveAllTheTime) {
  struct sigaction old = {};
  struct sigaction action = {};
  action.sa_handler = [](int) {};
  ASSERT_EQ(sigaction(SIGUSR1, &action, &old), 0);
  const pid_t self = gettid();
  Listen();
  std::atomic<bool> stop = false;
  std::thread storm([&] {
    while (!stop) {
      for (const auto& task :
           std::filesystem::directory_iterator("/proc/self/task")) {
        const pid_t thread = std::atoi(task.path().filename().c_str());
        if (thread == self || thread == gettid()) continue;
        syscall(SYS_tgkill, getpid(), thread, SIGUSR1);
      }
    }
  });
  for (const FrontEndKind kind : kFrontEndKinds) {
    SCOPED_TRACE(Name(kind));
    RunGuest(kind);
  }
  stop = true;
  storm.join();
  server_.reset();
  sigaction(SIGUSR1, &old, nullptr);
}

#ifdef __x86_64__

// Interrupts each call that may wait, the first time.
std::optional<long> InterruptOnce(const SystemCallTrap::Call& call) {
  // A poll that does not wait is not interrupted.
  if (call.number == SYS_poll && call.arguments[2] == 0) return std::nullopt;
  // By thread and call: each is tried again.
  static thread_local std::array<bool, 512> interrupted = {};
  bool& was_interrupted = interrupted.at(static_cast<size_t>(call.number));
  was_interrupted = !was_interrupted;
  return was_interrupted ? std::optional<long>(-EINTR) : std::nullopt;
}

TEST_F(SystemCallsTest, EachIsInterruptedOnce) {
  if (!Listen({SYS_poll, SYS_accept4, SYS_epoll_wait, SYS_recvmsg, SYS_sendmsg,
               SYS_fallocate},
              InterruptOnce)) {
    GTEST_SKIP() << "no seccomp filter";
  }
  for (const FrontEndKind kind : kFrontEndKinds) {
    SCOPED_TRACE(Name(kind));
    ASSERT_NO_FATAL_FAILURE(RunGuest(kind));
  }
}

// What the server did while no file descriptor was left.
std::atomic<int> refused_accepts;
std::atomic<int> pauses;
std::atomic<bool> polled_without_pause;

// accept4 finds no file descriptor left, five times. The pause after that is
// over at once.
std::optional<long> LeaveNoFileDescriptor(const SystemCallTrap::Call& call) {
  static constexpr int kTimes = 5;
  if (call.number == SYS_accept4) {
    if (refused_accepts == kTimes) return std::nullopt;
    ++refused_accepts;
    return -EMFILE;
  }
  if (refused_accepts == pauses) return std::nullopt;
  ++pauses;
  const auto* const polled = reinterpret_cast<const pollfd*>(call.arguments[0]);
  const auto timeout = static_cast<int>(call.arguments[2]);
  // The connection still waits: with its listener, poll returns at once.
  if (timeout <= 0 || polled[1].fd >= 0) polled_without_pause = true;
  return 0;
}

TEST_F(SystemCallsTest, AcceptPausesWithoutFileDescriptors) {
  refused_accepts = 0;
  pauses = 0;
  polled_without_pause = false;
  if (!Listen({SYS_poll, SYS_accept4}, LeaveNoFileDescriptor)) {
    GTEST_SKIP() << "no seccomp filter";
  }
  ASSERT_NO_FATAL_FAILURE(RunGuest(FrontEndKind::kQemu));
  EXPECT_EQ(refused_accepts, 5);
  EXPECT_EQ(pauses, 5);
  EXPECT_FALSE(polled_without_pause);
}

#endif

}  // namespace
}  // namespace guestmm::system_calls_test
