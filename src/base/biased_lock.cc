#include "guestmm/base/biased_lock.h"

#include <linux/membarrier.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdint>
#include <limits>
#include <unordered_set>
#include <utility>

#include "guestmm/base/check.h"
#include "src/base/spin_wait.h"

namespace guestmm {
namespace {

bool Membarrier(int command) {
  return syscall(SYS_membarrier, command, 0, 0) == 0;
}

// Each process registers once; a forked child inherits the registration.
bool MembarrierRegistered() {
  static const bool registered =
      Membarrier(MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED);
  return registered;
}

// The keys of the threads that have not ended. Never destroyed, since threads
// may end after main().
class LivingThreads {
 public:
  static LivingThreads& Get() {
    static LivingThreads& threads = *new LivingThreads;
    return threads;
  }

  void Add(uint32_t key) {
    LockHolder hold(lock_);
    keys_.insert(key);
  }
  void Remove(uint32_t key) {
    LockHolder hold(lock_);
    keys_.erase(key);
  }
  bool Contains(uint32_t key) {
    LockHolder hold(lock_);
    return keys_.contains(key);
  }

 private:
  SpinLock lock_;
  std::unordered_set<uint32_t> keys_ ABSL_GUARDED_BY(lock_);
};

// Takes a thread's key out of the living ones when the thread ends.
struct EndOfThread {
  ~EndOfThread() {
    if (key != nullptr) LivingThreads::Get().Remove(std::exchange(*key, 0));
  }
  uint32_t* key = nullptr;
};

}  // namespace

// The analysis cannot follow a lock that is held by means of one of several
// others.
void BiasedLock::LockSlow() ABSL_NO_THREAD_SAFETY_ANALYSIS {
  TakeSpin();
  if (bias_ == kNever) return;
  if (bias_ - ThreadKey() >= kMaxOwners) {
    KeepOwnerOut();
    bias_ = NextOwner();
    slot_ = SlotOf(bias_);
    owner_.store(bias_, std::memory_order_relaxed);
    if (bias_ == kNever) return;
  }
  HoldAsOwner();
}

// As LockSlow().
void BiasedLock::LockAsVisitor() ABSL_NO_THREAD_SAFETY_ANALYSIS {
  TakeSpin();
  if (bias_ - thread_key < kMaxOwners) return HoldAsOwner();
  KeepOwnerOut();
  slot_ = SlotOf(kNoOne);
}

// As LockSlow().
void BiasedLock::UnlockSlow() ABSL_NO_THREAD_SAFETY_ANALYSIS {
  slot_ = SlotOf(bias_);
  // From here on the owner may enter. The next visitor needs spin_ first.
  owner_.store(bias_, std::memory_order_release);
  spin_.Unlock();
}

void BiasedLock::TakeSpin() {
  if (owner_.load(std::memory_order_relaxed) == kNever) return spin_.Lock();
  // A visit is long and the gap to the next one short: a visitor that returns
  // immediately would win every time. Here it queues behind the waiters.
  LockHolder hold(next_);
  spin_.Lock();
}

void BiasedLock::KeepOwnerOut() {
  if (bias_ >= kNever) return;
  owner_.store(kNoOne, std::memory_order_relaxed);
  GUESTMM_CHECK(Membarrier(MEMBARRIER_CMD_PRIVATE_EXPEDITED))
      << "membarrier was there, and is no more";
  const std::atomic<bool>& held = held_[SlotOf(bias_)];
  for (SpinWait wait; held.load(std::memory_order_acquire);) wait.Once();
}

void BiasedLock::HoldAsOwner() {
  // The next holder of spin_ sees it without a barrier.
  held_[SlotOf(bias_)].store(true, std::memory_order_relaxed);
  spin_.Unlock();
}

uint32_t BiasedLock::NextOwner() const {
  uint32_t slot = 0;
  if (bias_ != kNoOne) {
    // A thread that has ended does not resume at step 1: its slot is free.
    const bool lives = LivingThreads::Get().Contains(bias_ - SlotOf(bias_));
    slot = SlotOf(bias_) + static_cast<uint32_t>(lives);
  }
  const uint32_t key = ThreadKey();
  if (slot == kMaxOwners || key == 0 || !MembarrierRegistered()) return kNever;
  return key + slot;
}

uint32_t BiasedLock::ThreadKey() {
  // A thread that locks after its end was noted gets another key, of a thread
  // that never ends.
  static constinit thread_local bool noted = false;
  if (thread_key == 0) {
    // 64 bits do not wrap around, so no key is ever reused.
    static constinit std::atomic<uint64_t> next_key{kKeyStride};
    const uint64_t key =
        next_key.fetch_add(kKeyStride, std::memory_order_relaxed);
    if (key <= std::numeric_limits<uint32_t>::max()) {
      thread_key = static_cast<uint32_t>(key);
      LivingThreads::Get().Add(thread_key);
      if (!std::exchange(noted, true)) {
        static thread_local EndOfThread end;
        end.key = &thread_key;
      }
    }
  }
  return thread_key;
}

}  // namespace guestmm
