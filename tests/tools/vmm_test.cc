// Guests and their VMM in separate processes, which are stopped and killed at
// random times. GUESTMM_COMMAND is the path of the program.

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <functional>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "guestmm/base/clock.h"
#include "guestmm/base/random.h"
#include "guestmm/base/unique_fd.h"
#include "guestmm/machine/real/guest.h"
#include "guestmm/reporting/reporter.h"
#include "guestmm/reporting/v12_policy.h"
#include "guestmm/virtio/driver/balloon_driver.h"
#include "tests/testing/await.h"

#ifndef SYS_pidfd_open
#define SYS_pidfd_open 434
#endif

namespace guestmm::vmm_test {
namespace {

namespace fs = std::filesystem;

using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::StartsWith;

constexpr std::chrono::minutes kPatience(1);
constexpr Order kBlock = kPageblockOrder;

// A process that runs the guestmm command. Killed by the destructor if it is
// still running.
class Process {
 public:
  explicit Process(std::vector<std::string> arguments) {
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
    posix_spawn_file_actions_adddup2(&actions, far.get(), STDOUT_FILENO);
    posix_spawn_file_actions_adddup2(&actions, far.get(), STDERR_FILENO);
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
  // Its exit status; -1 if it was killed.
  int Await() {
    int status = 0;
    EXPECT_EQ(waitpid(pid_, &status, 0), pid_);
    pid_ = -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  }
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

  size_t Fds() const {
    size_t count = 0;
    for ([[maybe_unused]] const auto& entry :
         fs::directory_iterator(absl::StrCat("/proc/", pid_, "/fd"))) {
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

class VmmTest : public testing::Test {
 protected:
  VmmTest()
      : folder_(fs::path(testing::TempDir()) /
                absl::StrCat("vmm_test_", getpid())),
        path_((folder_ / "socket").string()) {
    fs::create_directories(folder_);
    RecordProperty("seed", std::to_string(seed_));
  }
  ~VmmTest() override { fs::remove_all(folder_); }

  std::unique_ptr<Process> StartVmm() const {
    auto vmm = std::make_unique<Process>(
        std::vector<std::string>{"vmm", "--socket", path_});
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
  const fs::path folder_;
  const std::string path_;
};

// Blocks in use keep their contents; pages in flight return to the guest once
// the VMM is gone; and a new VMM can take over.
TEST_F(VmmTest, IsKilledAtAnyMoment) {
  SCOPED_TRACE(absl::StrCat("seed ", seed_));
  Random random(seed_);
  std::unique_ptr<Process> vmm = StartVmm();
  const auto guest = StartGuest();
  ASSERT_NE(guest, nullptr);
  Churn churn(*guest, random.Next());
  for (int round = 0; round < 40; ++round) {
    churn.Steps(random.Below(random.OneIn(2) ? 20 : 400));
    if (random.OneIn(3)) vmm->Stop();
    vmm->Signal(SIGKILL);
    churn.Steps(random.Below(100));
    ASSERT_TRUE(guestmm::Await([&] { return guest->driver()->is_down(); }));
    vmm->Await();
    churn.Steps(20);
    churn.CheckAll();
    ExpectNothingIsolated(*guest);
    const uint64_t reported = guest->reporter()->counters().reported_bytes;
    churn.Steps(20);
    EXPECT_EQ(guest->reporter()->counters().reported_bytes, reported);
    EXPECT_THAT(guest->ReconnectVmm().ToString(), StartsWith("UNAVAILABLE: "));

    vmm = StartVmm();
    const absl::Status status = guest->ReconnectVmm();
    ASSERT_TRUE(status.ok()) << status;
    churn.CheckAll();
    ExpectReports(*guest);
  }
  churn.FreeAll();
  ExpectNothingIsolated(*guest);
  EXPECT_EQ(guest->CheckInvariants(), absl::OkStatus());
}

// The VMM may die before the guest has set the device up.
TEST_F(VmmTest, IsKilledDuringSetUp) {
  SCOPED_TRACE(absl::StrCat("seed ", seed_));
  Random random(seed_);
  std::unique_ptr<Process> vmm = StartVmm();
  const auto guest = StartGuest();
  ASSERT_NE(guest, nullptr);
  for (int round = 0; round < 40; ++round) {
    vmm->Kill();
    ASSERT_TRUE(guestmm::Await([&] { return guest->driver()->is_down(); }));
    vmm = StartVmm();
    std::thread killer([&, after = random.Below(2000)] {
      const MonotonicClock clock;
      while (clock.Now() < std::chrono::microseconds(after)) {
      }
      vmm->Signal(SIGKILL);
    });
    // May succeed; the connection may be lost right after that.
    [[maybe_unused]] const absl::Status status = guest->ReconnectVmm();
    killer.join();
    vmm->Await();
    ASSERT_TRUE(guestmm::Await([&] { return guest->driver()->is_down(); }));
    vmm = StartVmm();
    const absl::Status again = guest->ReconnectVmm();
    ASSERT_TRUE(again.ok()) << again;
    ExpectReports(*guest);
  }
}

TEST_F(VmmTest, IsStoppedAndContinued) {
  const auto vmm = StartVmm();
  const auto guest = StartGuest();
  ASSERT_NE(guest, nullptr);
  Churn churn(*guest, 1);
  ExpectReports(*guest);  // nothing else is sent to the VMM
  for (int round = 0; round < 5; ++round) {
    vmm->Stop();
    ExpectInFlight(*guest, churn);
    const PageCount isolated = guest->allocator().Counts().isolated;
    EXPECT_GT(isolated, PageCount(0));
    // The guest continues with the rest of its memory.
    churn.Steps(1000);
    EXPECT_EQ(guest->allocator().Counts().isolated, isolated);
    vmm->Signal(SIGCONT);
    ExpectNothingIsolated(*guest);
    ExpectReports(*guest);
  }
  churn.FreeAll();
  EXPECT_TRUE(guest->vmm()->connection().ok());
}

// The guest gives the connection up, and the VMM is continued later. The guest
// does not reuse pages that the VMM may still discard until the process is
// gone.
TEST_F(VmmTest, PagesWithAStoppedVmmStayIsolatedAfterItsSocketIsClosed) {
  const auto vmm = StartVmm();
  const auto guest = StartGuest(std::chrono::milliseconds(500));
  ASSERT_NE(guest, nullptr);
  EXPECT_THAT(vmm->Line(), EndsWith(" came"));
  Churn churn(*guest, 1);
  ExpectReports(*guest);
  vmm->Stop();
  ExpectInFlight(*guest, churn);
  const PageCount isolated = guest->allocator().Counts().isolated;
  EXPECT_NE(guest->vmm()->status() & kVirtioNeedsReset, 0);
  EXPECT_THAT(std::string(guest->vmm()->connection().message()),
              HasSubstr("GET_STATUS: no reply in 500 ms"));
  churn.Steps(1000);
  EXPECT_FALSE(guest->driver()->is_down());
  EXPECT_EQ(guest->allocator().Counts().isolated, isolated);
  EXPECT_EQ(guest->ReconnectVmm().code(),
            absl::StatusCode::kFailedPrecondition);
  // The VMM discards what was reported, and sees that the guest has left.
  vmm->Signal(SIGCONT);
  EXPECT_THAT(vmm->Line(), HasSubstr(" left: "));
  churn.Steps(1000);
  EXPECT_FALSE(guest->driver()->is_down());
  EXPECT_EQ(guest->allocator().Counts().isolated, isolated);
  vmm->Signal(SIGKILL);
  EXPECT_TRUE(guestmm::Await([&] { return guest->driver()->is_down(); }));
  ExpectNothingIsolated(*guest);
  churn.FreeAll();
}

TEST_F(VmmTest, AGuestEndsAlthoughItsVmmIsStopped) {
  const auto vmm = StartVmm();
  auto guest = StartGuest(std::chrono::milliseconds(500));
  ASSERT_NE(guest, nullptr);
  Churn churn(*guest, 1);
  ExpectReports(*guest);
  vmm->Stop();
  ExpectInFlight(*guest, churn);
  guest.reset();
  vmm->Signal(SIGCONT);
  // The VMM can serve another guest.
  guest = StartGuest();
  ASSERT_NE(guest, nullptr);
  ExpectReports(*guest);
}

TEST_F(VmmTest, GuestsAreKilledAtAnyMoment) {
  SCOPED_TRACE(absl::StrCat("seed ", seed_));
  Random random(seed_);
  const auto vmm = StartVmm();
  auto guest = StartGuest();
  ASSERT_NE(guest, nullptr);
  ExpectReports(*guest);
  const size_t fds = vmm->Fds();
  const size_t mappings = vmm->Mappings();
  EXPECT_EQ(mappings, 1u);
  for (int round = 0; round < 25; ++round) {
    Process other({"density", "--vmm", path_, "--scale", "0.02", "--policies",
                   "v12", "--settle", "0.1"});
    // Long enough for a guest to boot. On a slow machine less will happen.
    EXPECT_FALSE(other.EndsWithin(static_cast<int>(random.Below(200))));
    other.Kill();
    ExpectReports(*guest);
  }
  EXPECT_TRUE(guestmm::Await([&] { return vmm->Fds() == fds; }));
  EXPECT_EQ(vmm->Mappings(), mappings);
  guest.reset();
  EXPECT_TRUE(guestmm::Await([&] { return vmm->Mappings() == 0; }));
}

TEST_F(VmmTest, EndsOnASignalAndPrintsASummary) {
  auto vmm = StartVmm();
  {
    const auto guest = StartGuest();
    ASSERT_NE(guest, nullptr);
    EXPECT_EQ(vmm->Line(),
              absl::StrCat("guest 1 (process ", getpid(), ") came"));
    ExpectReports(*guest);
    guest->WaitUntilAtRest(kPatience);
  }
  EXPECT_THAT(vmm->Line(),
              testing::MatchesRegex(absl::StrCat(
                  "guest 1 \\(process ", getpid(),
                  "\\) left: [0-9]+ reports, .* MiB handed back")));
  vmm->Signal(SIGTERM);
  EXPECT_THAT(vmm->Line(),
              testing::MatchesRegex("in all [0-9]+ reports, .* handed back"));
  EXPECT_EQ(vmm->Await(), 0);
  EXPECT_FALSE(fs::exists(path_));
}

TEST_F(VmmTest, RefusesASocketThatIsInUse) {
  auto vmm = StartVmm();
  Process second({"vmm", "--socket", path_});
  EXPECT_EQ(second.Line(), "guestmm vmm: --socket=" + path_ +
                               ": must not be in use by another server");
  EXPECT_EQ(second.Await(), 2);
  Process none({"vmm"});
  EXPECT_EQ(none.Line(), "guestmm vmm: --socket is required");
  EXPECT_EQ(none.Await(), 2);
  // A new VMM replaces the socket that a killed one leaves.
  vmm->Kill();
  EXPECT_TRUE(fs::exists(path_));
  vmm = StartVmm();
}

TEST_F(VmmTest, QuietPrintsNothing) {
  Process vmm({"vmm", "--socket", path_, "--quiet"});
  EXPECT_TRUE(guestmm::Await([&] { return fs::exists(path_); }));
  vmm.Signal(SIGINT);
  EXPECT_EQ(vmm.Line(), "");
  EXPECT_EQ(vmm.Await(), 0);
}

}  // namespace
}  // namespace guestmm::vmm_test
