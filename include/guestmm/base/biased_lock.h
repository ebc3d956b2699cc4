#ifndef GUESTMM_BASE_BIASED_LOCK_H_
#define GUESTMM_BASE_BIASED_LOCK_H_

// A lock that costs one thread, its owner, no atomic read-modify-write, and any
// other thread a membarrier(2). For data that one thread uses all the time and
// others rarely: a vCPU's per-CPU lists, which a drain visits.
//
//   BiasedLock lock;
//   int count ABSL_GUARDED_BY(lock);
//   { LockHolder hold(lock); ++count; }     // the owner, or the next owner
//   { VisitorHolder hold(lock); ++count; }  // another; the owner stays owner
//
// The protocol is Dekker's: each side announces itself, then reads the other's
// announcement.
//
//   owner                              any other thread
//   1. held = true                     a. take spin_
//   2. owner_ still me? then locked;   b. owner_ = none
//      else held = false, and take     c. membarrier
//      the slow path                   d. wait until held is false
//
// Dekker's algorithm needs a full fence between announcing and reading. The
// owner has only a compiler fence: c makes every running thread of the process
// execute a full barrier, and a thread that is not running executed one when it
// was switched out. If the owner's barrier falls after 1, d sees held; if it
// falls before 1, 2 comes after b and sees it. Either way at least one of the
// two gives way. (If each sees the other, the owner gives way, and d waits for
// that as well.)
//
// Data written under the lock is published by release and acquire:
//
//   owner to another     held = false, read by d
//   another to owner     owner_ = owner, read by 2; or spin_, in the slow path
//   among the others     spin_
//
// Step 1 may come late: the thread may have read owner_, slept, and resumed
// when another thread is the owner. So each owner has its own held flag, in a
// slot that only this owner writes, and the number of slots bounds how often
// the lock changes owners. An owner whose thread has ended leaves its slot to
// the next.

#include <array>
#include <atomic>
#include <cstdint>

#include "absl/base/thread_annotations.h"
#include "guestmm/base/export.h"
#include "guestmm/base/lock.h"

namespace GUESTMM_EXPORT guestmm {

enum class Bias {
  kAllowed,
  kNever,  // an ordinary spin lock, from the start
};

// Not recursive (unchecked). Unlocked by the thread that locked it. When the
// owner thread ends, the next thread to lock becomes the owner. REQUIRES at
// destruction: every visitor has returned from Unlock(); leaving its critical
// section is not enough.
class ABSL_LOCKABLE BiasedLock {
 public:
  // The number of owners, one after the other, not counting those that were
  // replaced after their threads had ended. The next thread makes it a spin
  // lock permanently.
  static constexpr uint32_t kMaxOwners = 5;

  // Without membarrier(2), as under some seccomp filters, it is kNever.
  constexpr explicit BiasedLock(Bias bias = Bias::kAllowed)
      : bias_(bias == Bias::kAllowed ? kNoOne : kNever), owner_(bias_) {}
  BiasedLock(const BiasedLock&) = delete;
  BiasedLock& operator=(const BiasedLock&) = delete;

  // Makes the caller the owner, unless kMaxOwners is used up.
  void Lock() ABSL_EXCLUSIVE_LOCK_FUNCTION() {
    if (!TryLockAsOwner()) LockSlow();
  }

  // Locks if the caller is the owner and no visitor is present. For functions
  // that make no other call and so need not save registers.
  bool TryLockAsOwner() ABSL_EXCLUSIVE_TRYLOCK_FUNCTION(true) {
    const uint32_t owner = owner_.load(std::memory_order_relaxed);
    const uint32_t slot = owner - thread_key;
    if (slot >= kMaxOwners) return false;
    held_[slot].store(true, std::memory_order_relaxed);
    std::atomic_signal_fence(std::memory_order_seq_cst);
    if (owner_.load(std::memory_order_acquire) == owner) [[likely]] {
      return true;
    }
    held_[slot].store(false, std::memory_order_release);
    return false;
  }
  // Ends TryLockAsOwner(). Unlock() works too.
  void UnlockAsOwner() ABSL_UNLOCK_FUNCTION() {
    held_[slot_].store(false, std::memory_order_release);
  }

  // Locks without becoming the owner: the owner, if any, keeps its role, but
  // takes the slow path while the visitor waits and holds. Called by the owner
  // it is Lock(). Back-to-back visits do not starve the owner.
  void LockAsVisitor() ABSL_EXCLUSIVE_LOCK_FUNCTION();

  void Unlock() ABSL_UNLOCK_FUNCTION() {
    if (slot_ < kMaxOwners) {
      held_[slot_].store(false, std::memory_order_release);
    } else {
      UnlockSlow();
    }
  }

  // True if there is an owner. A snapshot; false while a visitor is present.
  bool biased() const {
    return owner_.load(std::memory_order_relaxed) < kNever;
  }

 private:
  // An owner is encoded as its thread's key plus its slot. Keys are multiples
  // of kKeyStride; 0 for a thread without a key. kNoOne and kNever minus any
  // key give a slot that does not exist.
  static constexpr uint32_t kKeyStride = 8;
  static constexpr uint32_t kNoOne = ~0U;
  static constexpr uint32_t kNever = ~1U;
  static constexpr uint8_t SlotOf(uint32_t owner) { return owner % kKeyStride; }
  static_assert(kNever % kKeyStride >= kMaxOwners);

  [[gnu::cold]] void LockSlow();
  [[gnu::cold]] void UnlockSlow();
  // Takes spin_, in turn with the other waiters.
  void TakeSpin() ABSL_EXCLUSIVE_LOCK_FUNCTION(spin_);
  // Waits until the owner has left, and keeps it from coming back.
  void KeepOwnerOut() ABSL_EXCLUSIVE_LOCKS_REQUIRED(spin_);
  // Locks as the owner, with spin_ held, and releases spin_.
  void HoldAsOwner() ABSL_UNLOCK_FUNCTION(spin_);
  // The value of `bias_` with the calling thread as the next owner.
  uint32_t NextOwner() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(spin_);
  // The calling thread's key, assigned on first use; 0 if keys have run out.
  static uint32_t ThreadKey();

  // initial-exec: no call to find it, in a shared library too.
  static constinit inline thread_local uint32_t thread_key
      [[gnu::tls_model("initial-exec")]] = 0;

  // The owner, or kNoOne before the first, or kNever.
  uint32_t bias_ ABSL_GUARDED_BY(spin_);
  // The thread that may take the fast path: bias_, or kNoOne while a visitor is
  // present.
  std::atomic<uint32_t> owner_;
  std::array<std::atomic<bool>, kMaxOwners> held_{};
  // Taken by the thread that is next for spin_.
  SpinLock next_;
  SpinLock spin_;
  // Guarded by this lock: the owner's slot, or none if it is held by spin_.
  uint8_t slot_ = SlotOf(kNoOne);
};
static_assert(sizeof(BiasedLock) == 16);

// Holds a BiasedLock for a scope, as a visitor.
class ABSL_SCOPED_LOCKABLE VisitorHolder {
 public:
  explicit VisitorHolder(BiasedLock& lock) ABSL_EXCLUSIVE_LOCK_FUNCTION(lock)
      : lock_(lock) {
    lock_.LockAsVisitor();
  }
  ~VisitorHolder() ABSL_UNLOCK_FUNCTION() { lock_.Unlock(); }
  VisitorHolder(const VisitorHolder&) = delete;
  VisitorHolder& operator=(const VisitorHolder&) = delete;

 private:
  BiasedLock& lock_;
};

}  // namespace guestmm

#endif  // GUESTMM_BASE_BIASED_LOCK_H_
