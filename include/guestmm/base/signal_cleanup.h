#ifndef GUESTMM_BASE_SIGNAL_CLEANUP_H_
#define GUESTMM_BASE_SIGNAL_CLEANUP_H_

// What a process undoes when SIGHUP, SIGINT or SIGTERM ends it: temporary files
// and folders are removed, and child processes are ended.
//
//   const SignalHold hold;  // no signal between making it and noting it
//   const int fd = open(path, O_CREAT | O_EXCL | O_WRONLY, 0666);
//   if (fd >= 0) cleanup = SignalCleanup::File(hold, path);

#include <sys/types.h>

#include <csignal>
#include <list>
#include <optional>
#include <string>

#include "guestmm/base/export.h"

namespace GUESTMM_EXPORT guestmm {

// From now on these signals undo what SignalCleanups note, the latest first,
// and then have their default effect. One that is ignored stays ignored. For a
// program's main: before the call, and in programs that never call it, nothing
// is undone.
void CleanUpAtSignals();

// Holds off the signals on this thread, and clean-up on all threads. To be held
// for as short as a few system calls. Does not nest.
class SignalHold {
 public:
  SignalHold();
  ~SignalHold();
  SignalHold(const SignalHold&) = delete;
  SignalHold& operator=(const SignalHold&) = delete;

  // The thread's signal mask without the hold, for a child process.
  const sigset_t& outer_mask() const { return outer_mask_; }

 private:
  sigset_t outer_mask_;
};

// Notes one thing to undo. The destructor forgets it and undoes nothing.
class SignalCleanup {
 public:
  // Notes nothing.
  SignalCleanup() = default;
  static SignalCleanup File(const SignalHold& hold, std::string path);
  // Removed if it is empty by then: its files are to be noted after it.
  static SignalCleanup Folder(const SignalHold& hold, std::string path);
  // Ended by SIGTERM and reaped. REQUIRES: forgotten before it is reaped.
  static SignalCleanup Process(const SignalHold& hold, pid_t pid);

  SignalCleanup(SignalCleanup&& other) noexcept;
  SignalCleanup& operator=(SignalCleanup&& other) noexcept;
  ~SignalCleanup();

 private:
  enum class Kind { kFile, kFolder, kProcess };
  struct Entry {
    Kind kind;
    std::string path;
    pid_t pid;
  };
  // The handler's side.
  friend class SignalHandler;

  static SignalCleanup Note(Entry entry);

  std::optional<std::list<Entry>::iterator> entry_;
};

// While it lives, the first SIGINT ends the noted processes only, and the
// caller ends its own work; the next one ends this process. REQUIRES: one at a
// time.
class InterruptWatch {
 public:
  InterruptWatch();
  ~InterruptWatch();
  InterruptWatch(const InterruptWatch&) = delete;
  InterruptWatch& operator=(const InterruptWatch&) = delete;

  // From any thread.
  bool interrupted() const;
};

}  // namespace guestmm

#endif  // GUESTMM_BASE_SIGNAL_CLEANUP_H_
