#ifndef GUESTMM_BASE_COUNTER_H_
#define GUESTMM_BASE_COUNTER_H_

#include <atomic>
#include <cstdint>

#include "guestmm/base/export.h"

namespace GUESTMM_EXPORT guestmm {

// A number that is written under a lock of the caller's and may be read without
// it. Costs no more than a plain integer.
class Counter {
 public:
  uint64_t Get() const { return value_.load(std::memory_order_relaxed); }
  // REQUIRES for all below: the lock is held.
  void Set(uint64_t value) { value_.store(value, std::memory_order_relaxed); }
  void Add(uint64_t amount) { Set(Get() + amount); }
  void Subtract(uint64_t amount) { Set(Get() - amount); }

 private:
  std::atomic<uint64_t> value_{0};
};

}  // namespace guestmm

#endif  // GUESTMM_BASE_COUNTER_H_
