#ifndef GUESTMM_BUDDY_ALLOCATION_EVENTS_H_
#define GUESTMM_BUDDY_ALLOCATION_EVENTS_H_

#include <cstdint>

#include "guestmm/base/export.h"

namespace GUESTMM_EXPORT guestmm {

// Requests and pages that a per-CPU list or a zone served since creation.
struct AllocationEvents {
  uint64_t allocations = 0;
  uint64_t allocated_pages = 0;
  uint64_t freed_pages = 0;

  AllocationEvents& operator+=(const AllocationEvents& other) {
    allocations += other.allocations;
    allocated_pages += other.allocated_pages;
    freed_pages += other.freed_pages;
    return *this;
  }
};

}  // namespace guestmm

#endif  // GUESTMM_BUDDY_ALLOCATION_EVENTS_H_
