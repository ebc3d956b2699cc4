// The cost of an uncontended lock, and of a visit to a biased one.

#include <benchmark/benchmark.h>

#include <atomic>
#include <cstdint>
#include <thread>

#include "guestmm/base/biased_lock.h"
#include "guestmm/base/lock.h"

namespace guestmm {
namespace {

// Stands for the work done under the lock.
template <typename Lock>
struct Guarded {
  Lock lock;
  uint64_t value ABSL_GUARDED_BY(lock) = 0;
};

template <typename Lock>
void LockAndUnlock(benchmark::State& state, Guarded<Lock>& guarded) {
  for (auto _ : state) {
    LockHolder hold(guarded.lock);
    benchmark::DoNotOptimize(++guarded.value);
  }
}

void BM_SpinLock(benchmark::State& state) {
  Guarded<SpinLock> guarded;
  LockAndUnlock(state, guarded);
}
BENCHMARK(BM_SpinLock);

void BM_BiasedLockOwner(benchmark::State& state) {
  Guarded<BiasedLock> guarded;
  LockAndUnlock(state, guarded);
}
BENCHMARK(BM_BiasedLockOwner);

void BM_BiasedLockNever(benchmark::State& state) {
  Guarded<BiasedLock> guarded{BiasedLock(Bias::kNever)};
  LockAndUnlock(state, guarded);
}
BENCHMARK(BM_BiasedLockNever);

enum Owner { kAsleep, kElsewhere, kLocking };

// The owner thread waits, does other work, or takes the lock in a loop.
void BM_BiasedLockVisitor(benchmark::State& state, Owner what) {
  Guarded<BiasedLock> guarded;
  std::atomic<bool> there = false;
  std::atomic<bool> done = false;
  std::thread owner([&] {
    { LockHolder hold(guarded.lock); }
    there = true;
    there.notify_one();
    if (what == kAsleep) done.wait(false);
    while (!done.load(std::memory_order_relaxed)) {
      if (what == kElsewhere) continue;
      LockHolder hold(guarded.lock);
      ++guarded.value;
    }
  });
  there.wait(false);
  for (auto _ : state) {
    VisitorHolder hold(guarded.lock);
    benchmark::DoNotOptimize(++guarded.value);
  }
  done = true;
  done.notify_one();
  owner.join();
}
BENCHMARK_CAPTURE(BM_BiasedLockVisitor, owner_asleep, kAsleep);
BENCHMARK_CAPTURE(BM_BiasedLockVisitor, owner_elsewhere, kElsewhere);
BENCHMARK_CAPTURE(BM_BiasedLockVisitor, owner_locking, kLocking);

}  // namespace
}  // namespace guestmm

BENCHMARK_MAIN();
