#ifndef GUESTMM_BASE_LOCK_H_
#define GUESTMM_BASE_LOCK_H_

// The library's two common locks, annotated for clang's thread-safety analysis
// and built from primitives that ThreadSanitizer understands.
//
//   SpinLock  short, hot sections: zones, rings
//   Mutex     set-up, and everything that may sleep
//
// biased_lock.h has a third, for data that one thread uses nearly alone:
// per-CPU lists.
//
//   SpinLock lock;
//   int count ABSL_GUARDED_BY(lock);
//   { LockHolder hold(lock); ++count; }
//
// docs/concurrency.md has the locking order.

#include <atomic>
#include <mutex>

#include "absl/base/thread_annotations.h"
#include "guestmm/base/export.h"

namespace GUESTMM_EXPORT guestmm {

// Spins, then yields the processor, since the holder may have been preempted.
class ABSL_LOCKABLE SpinLock {
 public:
  SpinLock() = default;
  SpinLock(const SpinLock&) = delete;
  SpinLock& operator=(const SpinLock&) = delete;

  void Lock() ABSL_EXCLUSIVE_LOCK_FUNCTION() {
    if (held_.exchange(true, std::memory_order_acquire)) LockSlow();
  }
  void Unlock() ABSL_UNLOCK_FUNCTION() {
    held_.store(false, std::memory_order_release);
  }

 private:
  void LockSlow();

  std::atomic<bool> held_{false};
};

// Sleeps while waiting. Not recursive.
class ABSL_LOCKABLE Mutex {
 public:
  Mutex() = default;
  Mutex(const Mutex&) = delete;
  Mutex& operator=(const Mutex&) = delete;

  void Lock() ABSL_EXCLUSIVE_LOCK_FUNCTION() { mutex_.lock(); }
  void Unlock() ABSL_UNLOCK_FUNCTION() { mutex_.unlock(); }

  // For std::condition_variable_any, which drops and retakes the lock.
  void lock() ABSL_EXCLUSIVE_LOCK_FUNCTION() { mutex_.lock(); }
  void unlock() ABSL_UNLOCK_FUNCTION() { mutex_.unlock(); }

 private:
  std::mutex mutex_;
};

// Holds a SpinLock or a Mutex for a scope.
template <typename Lockable>
class ABSL_SCOPED_LOCKABLE LockHolder {
 public:
  explicit LockHolder(Lockable& lock) ABSL_EXCLUSIVE_LOCK_FUNCTION(lock)
      : lock_(lock) {
    lock_.Lock();
  }
  ~LockHolder() ABSL_UNLOCK_FUNCTION() { lock_.Unlock(); }
  LockHolder(const LockHolder&) = delete;
  LockHolder& operator=(const LockHolder&) = delete;

 private:
  Lockable& lock_;
};

}  // namespace guestmm

#endif  // GUESTMM_BASE_LOCK_H_
