#ifndef GUESTMM_TESTS_TOOLS_VMM_TESTING_H_
#define GUESTMM_TESTS_TOOLS_VMM_TESTING_H_

// The guestmm command as a process, and guests of a VMM that runs in one.
// GUESTMM_COMMAND is the path of the program.

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "guestmm/base/random.h"
#include "guestmm/base/unique_fd.h"
#include "guestmm/machine/real/guest.h"
#include "guestmm/reporting/reporter.h"
#include "guestmm/reporting/v12_policy.h"
#include "tests/testing/await.h"

#ifndef SYS_pidfd_open
#define SYS_pidfd_open 434
#endif

namespace guestmm {

inline constexpr std::chrono::minutes kPatience(1);
inline constexpr Order kBlock = kPageblockOrder;

// A process that runs the guestmm command. Killed by the destructor if it is
// still running.
class Process {
 public:
  // Where its standard streams go.
  enum class Streams {
    kRead,    // output and errors: Line reads them
    kClosed,  // all three are closed
  };
  explicit Process(std::vector<std::string> arguments,
                   Streams streams = Streams::kRead) {
    arguments.insert(arguments.begin(), GUESTMM_COMMAND);
    std::vector<char*> argv;
    for (std::string& argument : arguments) argv.push_back(argument.data());
    argv.push_back(nullptr);
    std::array<int, 2> fds = {-1, -1};
    EXPECT_EQ(pipe2(fds.data(), O_CLOEXEC), 0);
    out_ = UniqueFd(fds[0]);
    const UniqueFd far(fds[1]);
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    if (streams == Streams::kRead) {
      posix_spawn_file_actions_adddup2(&actions, far.get(), STDOUT_FILENO);
      posix_spawn_file_actions_adddup2(&actions, far.get(), STDERR_FILENO);
    } else {
      for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; ++fd) {
        posix_spawn_file_actions_addclose(&actions, fd);
      }
    }
    EXPECT_EQ(posix_spawn(&pid_, GUESTMM_COMMAND, &actions, nullptr,
                          argv.data(), environ),
              0);
    posix_spawn_file_actions_destroy(&actions);
    pidfd_ = UniqueFd(static_cast<int>(syscall(SYS_pidfd_open, pid_, 0U)));
  }
  ~Process() {
    if (pid_ > 0) Kill();
  }
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;

  pid_t pid() const { return pid_; }
  void Signal(int signal) const { EXPECT_EQ(kill(pid_, signal), 0); }
  // The process is stopped when this returns.
  void Stop() const {
    Signal(SIGSTOP);
    int status = 0;
    EXPECT_EQ(waitpid(pid_, &status, WUNTRACED), pid_);
    EXPECT_TRUE(WIFSTOPPED(status));
  }
  // Its exit status; -1 if it was killed (signal()).
  int Await() {
    int status = 0;
    EXPECT_EQ(waitpid(pid_, &status, 0), pid_);
    pid_ = -1;
    signal_ = WIFSIGNALED(status) ? WTERMSIG(status) : 0;
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  }
  // The one that ended it; 0 for none.
  int signal() const { return signal_; }
  void Kill() {
    Signal(SIGKILL);
    Await();
  }
  // True if the process exits within `milliseconds`.
  bool EndsWithin(int milliseconds) const {
    pollfd polled = {.fd = pidfd_.get(), .events = POLLIN, .revents = 0};
    return poll(&polled, 1, milliseconds) == 1;
  }

  // The next line of its output; empty at the end.
  std::string Line() {
    std::string line;
    char c = 0;
    while (read(out_.get(), &c, 1) == 1 && c != '\n') line += c;
    return line;
  }

  // All further output.
  std::string Rest() {
    std::string text;
    std::array<char, 4096> piece;
    for (ssize_t got = 1; got > 0;) {
      got = read(out_.get(), piece.data(), piece.size());
      if (got > 0) text.append(piece.data(), static_cast<size_t>(got));
    }
    return text;
  }
  // Fills the pipe that it writes to.
  void FillOutput() {
    const UniqueFd far(open(absl::StrCat("/proc/self/fd/", out_.get()).c_str(),
                            O_WRONLY | O_NONBLOCK | O_CLOEXEC));
    const std::array<char, 4096> piece = {};
    while (write(far.get(), piece.data(), piece.size()) > 0) {
    }
    while (write(far.get(), piece.data(), 1) > 0) {
    }
  }
  // Nobody reads its output any more.
  void CloseOutput() { out_ = UniqueFd(); }

  size_t Fds() const {
    size_t count = 0;
    for ([[maybe_unused]] const auto& entry :
         std::filesystem::directory_iterator(
             absl::StrCat("/proc/", pid_, "/fd"))) {
      ++count;
    }
    return count;
  }
  // The number of mappings of guest memory.
  size_t Mappings() const {
    std::ifstream maps(absl::StrCat("/proc/", pid_, "/maps"));
    size_t count = 0;
    for (std::string line; std::getline(maps, line);) {
      if (line.find("guest-ram") != std::string::npos) ++count;
    }
    return count;
  }

 private:
  pid_t pid_ = -1;
  int signal_ = 0;
  UniqueFd pidfd_;
  UniqueFd out_;
};

// Allocates and frees blocks at random, and checks that blocks in use keep
// their contents.
class Churn {
 public:
  Churn(Guest& guest, uint64_t seed) : vcpu_(guest.vcpu(0)), random_(seed) {}

  void Step() {
    if (blocks_.size() < 20 && random_.OneIn(2)) {
      const std::optional<Pfn> pfn = vcpu_.Allocate(kBlock);
      if (!pfn) return;
      blocks_.push_back({*pfn, random_.Next()});
      vcpu_.Touch(*pfn, kBlock, blocks_.back().stamp);
    } else if (!blocks_.empty()) {
      const size_t i = random_.Below(blocks_.size());
      Check(blocks_[i]);
      vcpu_.Free(blocks_[i].pfn, kBlock);
      blocks_[i] = blocks_.back();
      blocks_.pop_back();
    }
  }
  void Steps(uint64_t count) {
    for (uint64_t i = 0; i < count; ++i) Step();
  }
  void CheckAll() const {
    for (const Held& block : blocks_) Check(block);
  }
  void FreeAll() {
    while (!blocks_.empty()) {
      Check(blocks_.back());
      vcpu_.Free(blocks_.back().pfn, kBlock);
      blocks_.pop_back();
    }
  }

 private:
  struct Held {
    Pfn pfn;
    uint64_t stamp;
  };
  void Check(const Held& block) const {
    EXPECT_EQ(vcpu_.FindCorrupted(block.pfn, kBlock, block.stamp),
              std::nullopt);
  }

  Vcpu& vcpu_;
  Random random_;
  std::vector<Held> blocks_;
};

// The fixture of tests with a VMM in a process.
class VmmProcessTest : public testing::Test {
 protected:
  VmmProcessTest()
      : folder_(std::filesystem::path(testing::TempDir()) /
                absl::StrCat("vmm_test_", getpid())),
        path_((folder_ / "socket").string()),
        control_((folder_ / "control").string()) {
    std::filesystem::create_directories(folder_);
    RecordProperty("seed", std::to_string(seed_));
  }
  ~VmmProcessTest() override { std::filesystem::remove_all(folder_); }

  // `more`: further arguments.
  std::unique_ptr<Process> StartVmm(
      const std::vector<std::string>& more = {}) const {
    std::vector<std::string> arguments = {"vmm", "--socket", path_};
    arguments.insert(arguments.end(), more.begin(), more.end());
    auto vmm = std::make_unique<Process>(arguments);
    EXPECT_EQ(vmm->Line(), "serving guests at " + path_ + ", until Ctrl-C");
    return vmm;
  }
  std::unique_ptr<Guest> StartGuest(
      Nanoseconds timeout = std::chrono::seconds(5)) const {
    GuestOptions options;
    options.memory = MemoryMap::Pc(64 * kMiB);
    options.memory_source = MemorySource::kSharedMemfd;
    options.make_policy = [] {
      return std::make_unique<V12Policy>(V12Options{.threshold = 1});
    };
    options.vmm_socket = path_;
    options.vmm.timeout = timeout;
    auto guest = Guest::Create(options);
    EXPECT_TRUE(guest.ok()) << guest.status();
    return guest.ok() ? *std::move(guest) : nullptr;
  }

  // Checks that freed memory is reported.
  static void ExpectReports(Guest& guest) {
    const uint64_t before = guest.reporter()->counters().reported_bytes;
    Churn churn(guest, 1);
    EXPECT_TRUE(guestmm::Await([&] {
      churn.Steps(40);
      return guest.reporter()->counters().reported_bytes > before;
    }));
    churn.FreeAll();
  }
  // Frees memory until a report is in flight. The VMM is stopped, so it cannot
  // be acknowledged; waits for acknowledgements sent before that.
  static void ExpectInFlight(Guest& guest, Churn& churn) {
    constexpr int kLooks = 100;
    int same = 0;
    uint64_t reports = 0;
    EXPECT_TRUE(guestmm::Await([&] {
      churn.Steps(20);
      const uint64_t now = guest.reporter()->counters().reports;
      const bool in_flight = guest.reporter()->in_flight_pages() > PageCount(0);
      same = in_flight && now == reports ? same + 1 : 0;
      reports = now;
      return same == kLooks;
    }));
  }
  static void ExpectNothingIsolated(Guest& guest) {
    EXPECT_TRUE(guest.WaitUntilAtRest(kPatience));
    EXPECT_EQ(guest.allocator().Counts().isolated, PageCount(0));
  }

  const uint64_t seed_ = std::random_device()();
  const std::filesystem::path folder_;
  const std::string path_;
  const std::string control_;
};

}  // namespace guestmm

#endif  // GUESTMM_TESTS_TOOLS_VMM_TESTING_H_
