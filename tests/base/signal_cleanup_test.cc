#include "guestmm/base/signal_cleanup.h"

#include <gtest/gtest.h>
#include <spawn.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <fstream>
#include <string>

namespace guestmm::signal_cleanup_test {
namespace {

using ::testing::ExitedWithCode;
using ::testing::KilledBySignal;

// A process that lives until it is ended.
pid_t Spawn(const SignalHold& hold) {
  std::string name = "sleep";
  std::string forever = "infinity";
  char* argv[] = {name.data(), forever.data(), nullptr};
  posix_spawnattr_t attributes;
  posix_spawnattr_init(&attributes);
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK);
  posix_spawnattr_setsigmask(&attributes, &hold.outer_mask());
  pid_t pid = 0;
  const int error =
      posix_spawnp(&pid, name.c_str(), nullptr, &attributes, argv, environ);
  posix_spawnattr_destroy(&attributes);
  return error == 0 ? pid : 0;
}

// Each signal comes to a process of its own.
class SignalCleanupTest : public testing::Test {
 protected:
  SignalCleanupTest() {
    ::testing::FLAGS_gtest_death_test_style = "threadsafe";
    folder_ = testing::TempDir() + "signal_cleanup_" +
              testing::UnitTest::GetInstance()->current_test_info()->name();
    file_ = folder_ + "/file";
    unlink(file_.c_str());
    rmdir(folder_.c_str());
    mkdir(folder_.c_str(), 0700);
    std::ofstream(file_) << "text";
  }
  ~SignalCleanupTest() override {
    unlink(file_.c_str());
    rmdir(folder_.c_str());
  }

  static bool Exists(const std::string& path) {
    return access(path.c_str(), F_OK) == 0;
  }

  std::string folder_;
  std::string file_;
};

TEST_F(SignalCleanupTest, RemovesTheFilesOfAFolderBeforeIt) {
  EXPECT_EXIT(
      {
        CleanUpAtSignals();
        SignalCleanup folder;
        SignalCleanup file;
        {
          const SignalHold hold;
          folder = SignalCleanup::Folder(hold, folder_);
          file = SignalCleanup::File(hold, file_);
        }
        raise(SIGTERM);
      },
      KilledBySignal(SIGTERM), "");
  EXPECT_FALSE(Exists(folder_));
}

TEST_F(SignalCleanupTest, ForgetsWhatIsDestroyed) {
  EXPECT_EXIT(
      {
        CleanUpAtSignals();
        {
          SignalCleanup file;
          {
            const SignalHold hold;
            file = SignalCleanup::File(hold, file_);
          }
        }
        raise(SIGTERM);
      },
      KilledBySignal(SIGTERM), "");
  EXPECT_TRUE(Exists(file_));
}

TEST_F(SignalCleanupTest, WaitsUntilWhatIsMadeIsNoted) {
  EXPECT_EXIT(
      {
        CleanUpAtSignals();
        SignalCleanup file;
        {
          const SignalHold hold;
          raise(SIGTERM);
          file = SignalCleanup::File(hold, file_);
        }
        exit(0);
      },
      KilledBySignal(SIGTERM), "");
  EXPECT_FALSE(Exists(file_));
}

TEST_F(SignalCleanupTest, EndsAProcess) {
  // At its end when nobody holds the other end any more.
  int pipe_ends[2] = {};
  ASSERT_EQ(pipe(pipe_ends), 0);
  const pid_t pid = fork();
  if (pid == 0) {
    CleanUpAtSignals();
    SignalCleanup process;
    {
      const SignalHold hold;
      process = SignalCleanup::Process(hold, Spawn(hold));
    }
    raise(SIGHUP);
  }
  close(pipe_ends[1]);
  int status = 0;
  EXPECT_EQ(waitpid(pid, &status, 0), pid);
  EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGHUP);
  char byte = 0;
  EXPECT_EQ(read(pipe_ends[0], &byte, 1), 0);
  close(pipe_ends[0]);
}

TEST_F(SignalCleanupTest, AnIgnoredSignalStaysIgnored) {
  EXPECT_EXIT(
      {
        std::signal(SIGINT, SIG_IGN);
        CleanUpAtSignals();
        raise(SIGINT);
        exit(3);
      },
      ExitedWithCode(3), "");
}

// Two processes, one started before the interrupt and one after. Returns an
// exit status.
int WatchAnInterrupt() {
  CleanUpAtSignals();
  const InterruptWatch watch;
  SignalCleanup processes[2];
  pid_t pids[2] = {};
  if (watch.interrupted()) return 1;
  for (int i = 0; i < 2; ++i) {
    {
      const SignalHold hold;
      pids[i] = Spawn(hold);
      processes[i] = SignalCleanup::Process(hold, pids[i]);
    }
    if (i == 0) raise(SIGINT);
    if (!watch.interrupted()) return 2;
  }
  for (int i = 0; i < 2; ++i) {
    processes[i] = SignalCleanup();
    int status = 0;
    waitpid(pids[i], &status, 0);
    if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGTERM) return 3;
  }
  raise(SIGINT);
  return 4;
}

TEST_F(SignalCleanupTest, AWatchedInterruptEndsTheProcessesFirst) {
  EXPECT_EXIT(exit(WatchAnInterrupt()), KilledBySignal(SIGINT), "");
}

}  // namespace
}  // namespace guestmm::signal_cleanup_test
