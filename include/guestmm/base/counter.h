#ifndef GUESTMM_BASE_COUNTER_H_
#define GUESTMM_BASE_COUNTER_H_

#include <atomic>
#include <cstdint>

#include "guestmm/base/export.h"

namespace GUESTMM_EXPORT guestmm {

// A number that is written under a lock of the caller's and may be read without
// it. Costs no more than a plain integer: inlined even where the compiler
// thinks that a source has grown enough, since a call makes it keep in memory
// what is in registers.
class Counter {
 public:
  [[gnu::always_inline]] uint64_t Get() const {
    return value_.load(std::memory_order_relaxed);
  }
  // REQUIRES for all below: the lock is held.
  [[gnu::always_inline]] void Set(uint64_t value) {
    value_.store(value, std::memory_order_relaxed);
  }
  [[gnu::always_inline]] void Add(uint64_t amount) { Set(Get() + amount); }
  [[gnu::always_inline]] void Subtract(uint64_t amount) { Set(Get() - amount); }

 private:
  std::atomic<uint64_t> value_{0};
};

}  // namespace guestmm

#endif  // GUESTMM_BASE_COUNTER_H_
