#include "guestmm/base/signal_cleanup.h"

#include <sched.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <utility>

#include "src/base/uninterrupted.h"

namespace guestmm {
namespace {

constexpr int kSignals[] = {SIGHUP, SIGINT, SIGTERM};

sigset_t SignalSet() {
  sigset_t set;
  sigemptyset(&set);
  for (const int signal : kSignals) sigaddset(&set, signal);
  return set;
}

// The lock of the entries. A spinlock, since a handler takes it too: whatever
// thread holds it has the signals blocked, so no handler waits for its own
// thread.
std::atomic_flag locked = ATOMIC_FLAG_INIT;
std::atomic<bool> is_watched{false};
std::atomic<bool> was_interrupted{false};
static_assert(std::atomic<bool>::is_always_lock_free);

void Lock() {
  while (locked.test_and_set(std::memory_order_acquire)) sched_yield();
}
void Unlock() { locked.clear(std::memory_order_release); }

}  // namespace

// All that runs in a handler is async-signal-safe: system calls, and reads of
// the entries under their lock.
class SignalHandler {
 public:
  using Entry = SignalCleanup::Entry;
  using Kind = SignalCleanup::Kind;

  // Never destroyed: a signal may come while the process exits.
  static std::list<Entry>& Entries() {
    static auto& entries = *new std::list<Entry>();
    return entries;
  }

  static void Handle(int signal) {
    const int error = errno;
    Lock();
    if (signal == SIGINT && is_watched && !was_interrupted.exchange(true)) {
      for (const Entry& entry : Entries()) End(entry);
      Unlock();
      errno = error;
      return;
    }
    // The lock is kept, so that no thread makes anything more.
    for (auto entry = Entries().rbegin(); entry != Entries().rend(); ++entry) {
      Undo(*entry);
    }
    std::signal(signal, SIG_DFL);
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, signal);
    pthread_sigmask(SIG_UNBLOCK, &set, nullptr);
    raise(signal);
  }

  static void End(const Entry& entry) {
    if (entry.kind == Kind::kProcess) kill(entry.pid, SIGTERM);
  }

 private:
  static void Undo(const Entry& entry) {
    switch (entry.kind) {
      case Kind::kFile:
        unlink(entry.path.c_str());
        return;
      case Kind::kFolder:
        rmdir(entry.path.c_str());
        return;
      case Kind::kProcess:
        End(entry);
        Uninterrupted([&] { return waitpid(entry.pid, nullptr, 0); });
        return;
    }
  }
};

void CleanUpAtSignals() {
  SignalHandler::Entries();  // made here, since a handler must not allocate
  struct sigaction action = {};
  action.sa_handler = SignalHandler::Handle;
  action.sa_mask = SignalSet();
  action.sa_flags = SA_RESTART;
  for (const int signal : kSignals) {
    struct sigaction old = {};
    sigaction(signal, nullptr, &old);
    if (old.sa_handler != SIG_IGN) sigaction(signal, &action, nullptr);
  }
}

SignalHold::SignalHold() {
  const sigset_t set = SignalSet();
  pthread_sigmask(SIG_BLOCK, &set, &outer_mask_);
  Lock();
}

SignalHold::~SignalHold() {
  Unlock();
  pthread_sigmask(SIG_SETMASK, &outer_mask_, nullptr);
}

SignalCleanup SignalCleanup::Note(Entry entry) {
  std::list<Entry>& entries = SignalHandler::Entries();
  SignalCleanup cleanup;
  cleanup.entry_ = entries.insert(entries.end(), std::move(entry));
  return cleanup;
}

SignalCleanup SignalCleanup::File(const SignalHold& /*hold*/,
                                  std::string path) {
  return Note({.kind = Kind::kFile, .path = std::move(path), .pid = 0});
}

SignalCleanup SignalCleanup::Folder(const SignalHold& /*hold*/,
                                    std::string path) {
  return Note({.kind = Kind::kFolder, .path = std::move(path), .pid = 0});
}

SignalCleanup SignalCleanup::Process(const SignalHold& /*hold*/, pid_t pid) {
  SignalCleanup cleanup =
      Note({.kind = Kind::kProcess, .path = {}, .pid = pid});
  // The interrupt that came before it was for it too.
  if (was_interrupted) SignalHandler::End(**cleanup.entry_);
  return cleanup;
}

SignalCleanup::SignalCleanup(SignalCleanup&& other) noexcept
    : entry_(std::exchange(other.entry_, std::nullopt)) {}

SignalCleanup& SignalCleanup::operator=(SignalCleanup&& other) noexcept {
  std::swap(entry_, other.entry_);
  return *this;
}

SignalCleanup::~SignalCleanup() {
  if (!entry_) return;
  const SignalHold hold;
  SignalHandler::Entries().erase(*entry_);
}

InterruptWatch::InterruptWatch() {
  was_interrupted = false;
  is_watched = true;
}

InterruptWatch::~InterruptWatch() {
  is_watched = false;
  was_interrupted = false;
}

bool InterruptWatch::interrupted() const { return was_interrupted; }

}  // namespace guestmm
