#ifndef GUESTMM_BUDDY_ISOLATED_BLOCK_H_
#define GUESTMM_BUDDY_ISOLATED_BLOCK_H_

#include <utility>

#include "guestmm/base/check.h"
#include "guestmm/base/export.h"
#include "guestmm/base/units.h"

namespace GUESTMM_EXPORT guestmm {

class Zone;

// A free block that is off its zone's free lists and cannot be allocated, so
// that the host may discard it. Made by Zone::Isolate; must be passed to
// Zone::Return (CHECKed by the destructor).
class [[nodiscard]] IsolatedBlock {
 public:
  IsolatedBlock(IsolatedBlock&& other) noexcept
      : zone_(std::exchange(other.zone_, nullptr)),
        pfn_(other.pfn_),
        order_(other.order_) {}
  IsolatedBlock& operator=(IsolatedBlock&&) = delete;
  ~IsolatedBlock() {
    GUESTMM_CHECK(zone_ == nullptr)
        << "isolated block at " << pfn_ << ", " << order_
        << ", was not returned to its zone";
  }

  // REQUIRES for all: not moved from.
  const Zone& zone() const { return *zone_; }
  Pfn pfn() const { return pfn_; }
  Order order() const { return order_; }
  GpaRange range() const {
    return {.gpa = ToGpa(pfn_), .bytes = order_.bytes()};
  }

 private:
  friend class Zone;

  IsolatedBlock(Zone& zone, Pfn pfn, Order order)
      : zone_(&zone), pfn_(pfn), order_(order) {}

  Zone* zone_;
  Pfn pfn_;
  Order order_;
};

}  // namespace guestmm

#endif  // GUESTMM_BUDDY_ISOLATED_BLOCK_H_
