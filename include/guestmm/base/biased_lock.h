#ifndef GUESTMM_BASE_BIASED_LOCK_H_
#define GUESTMM_BASE_BIASED_LOCK_H_

// A lock that costs one thread, its owner, no atomic read-modify-write, and any
// other thread a membarrier(2). For what one thread uses all the time and
// others hardly ever: a vCPU's lists, which a drain visits.
//
//   BiasedLock lock;
//   int count ABSL_GUARDED_BY(lock);
//   { LockHolder hold(lock); ++count; }     // the owner, or who becomes it
//   { VisitorHolder hold(lock); ++count; }  // another; the owner stays owner
//
// The protocol is Dekker's: each side says what it wants, then looks at what
// the other one said.
//
//   owner                              any other thread
//   1. held = true                     a. take spin_
//   2. owner_ still me? then it is     b. owner_ = no one
//      mine; else held = false,        c. membarrier
//      and the slow path               d. wait until held is false
//
// Dekker's needs a full fence between saying and looking. The owner has only a
// compiler's: c has every running thread of the process pass a full barrier,
// and one that is not running passed one when it was switched out. If the
// owner's barrier falls after 1, then d sees held; if before 1, then 2 comes
// after b and sees it. Either way one of the two gives way. (If both see the
// other, the owner does: d waits for that as well.)
//
// Who sees what was written under the lock, by release and acquire:
//
//   owner to another     held = false, read by d
//   another to owner     owner_ = owner, read by 2; or spin_, in the slow path
//   among the others     spin_
//
// Step 1 may come late: its thread may have read owner_, slept, and wake when
// another thread is the owner. So each owner has a held of its own, a slot that
// only that owner writes, and the number of slots bounds how often the lock
// changes owners.

#include <array>
#include <atomic>
#include <cstdint>

#include "absl/base/thread_annotations.h"
#include "guestmm/base/lock.h"

namespace guestmm {

enum class Bias {
  kAllowed,
  kNever,  // an ordinary spin lock, from the start
};

// Not recursive, which nothing checks. Unlock() by the thread that locked. An
// owner that ends leaves the lock to the next one.
// Whoever destroys it knows that every visitor has returned from Unlock(), not
// only that it has left its section.
class ABSL_LOCKABLE BiasedLock {
 public:
  // The owners that it may have; the thread after them makes it a spin lock for
  // good.
  static constexpr uint32_t kMaxOwners = 5;

  // Without membarrier(2), as under some seccomp filters, it is kNever.
  constexpr explicit BiasedLock(Bias bias = Bias::kAllowed)
      : bias_(bias == Bias::kAllowed ? kNoOne : kNever), owner_(bias_) {}
  BiasedLock(const BiasedLock&) = delete;
  BiasedLock& operator=(const BiasedLock&) = delete;

  // Makes the caller the owner, unless there were too many.
  void Lock() ABSL_EXCLUSIVE_LOCK_FUNCTION() {
    if (!TryLockAsOwner()) LockSlow();
  }

  // Only if the caller is the owner and no visitor is there. For code that has
  // no other call in it, and so needs no registers saved.
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
  // After TryLockAsOwner(); Unlock() does as well.
  void UnlockAsOwner() ABSL_UNLOCK_FUNCTION() {
    held_[slot_].store(false, std::memory_order_release);
  }

  // The same for a visitor: the owner, if there is one, stays the owner, but
  // takes the slow path while the visitor waits and holds. By the owner itself
  // it is Lock(). Visits back to back do not starve the owner.
  void LockAsVisitor() ABSL_EXCLUSIVE_LOCK_FUNCTION();

  void Unlock() ABSL_UNLOCK_FUNCTION() {
    if (slot_ < kMaxOwners) {
      held_[slot_].store(false, std::memory_order_release);
    } else {
      UnlockSlow();
    }
  }

  // Whether there is an owner. A snapshot: false while a visitor is there.
  bool biased() const {
    return owner_.load(std::memory_order_relaxed) < kNever;
  }

 private:
  // An owner is its thread's key plus its slot. Keys are multiples of
  // kKeyStride, 0 for a thread that has none yet. What is not an owner has a
  // slot that does not exist, whatever the key that is subtracted from it.
  static constexpr uint32_t kKeyStride = 8;
  static constexpr uint32_t kNoOne = ~0U;
  static constexpr uint32_t kNever = ~1U;
  static constexpr uint8_t SlotOf(uint32_t owner) { return owner % kKeyStride; }
  static_assert(kNever % kKeyStride >= kMaxOwners);

  [[gnu::cold]] void LockSlow();
  [[gnu::cold]] void UnlockSlow();
  // Takes spin_ in turn with the others that wait for it.
  void TakeSpin() ABSL_EXCLUSIVE_LOCK_FUNCTION(spin_);
  // Waits until the owner is out, and it does not come back.
  void KeepOwnerOut() ABSL_EXCLUSIVE_LOCKS_REQUIRED(spin_);
  // The owner's own way in with spin_ taken, which it gives back.
  void HoldAsOwner() ABSL_UNLOCK_FUNCTION(spin_);
  // `bias_` when the calling thread has become the owner.
  uint32_t NextOwner() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(spin_);
  // The calling thread's, assigned if need be; 0 when there are none left.
  static uint32_t ThreadKey();

  // initial-exec: no call to find it, in a shared library too.
  static constinit inline thread_local uint32_t thread_key
      [[gnu::tls_model("initial-exec")]] = 0;

  // The owner, or kNoOne before the first, or kNever.
  uint32_t bias_ ABSL_GUARDED_BY(spin_);
  // Who may go the fast way: bias_, or kNoOne while a visitor is there.
  std::atomic<uint32_t> owner_;
  std::array<std::atomic<bool>, kMaxOwners> held_{};
  // Taken by the thread that is next for spin_.
  SpinLock next_;
  SpinLock spin_;
  // Guarded by this lock: the owner's slot, or none when it is spin_ that
  // holds.
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
