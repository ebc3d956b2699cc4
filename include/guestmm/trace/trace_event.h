#ifndef GUESTMM_TRACE_TRACE_EVENT_H_
#define GUESTMM_TRACE_TRACE_EVENT_H_

#include <cstdint>
#include <ostream>
#include <string>
#include <string_view>

#include "guestmm/base/clock.h"
#include "guestmm/base/export.h"
#include "guestmm/base/units.h"

namespace GUESTMM_EXPORT guestmm {

// An event of one of the kernel's tracepoints for pages.
struct TraceEvent {
  enum class Kind : uint8_t {
    // Requests: kmem:mm_page_alloc and kmem:mm_page_free.
    kAlloc,
    kFree,
    // What moves between zones and per-CPU lists. A zone gives out a block, to
    // a list or to the request that follows (kmem:mm_page_alloc_zone_locked);
    // and a list returns a block to its zone (kmem:mm_page_pcpu_drain).
    kZoneAlloc,
    kDrain,
  };

  // By the trace's clock.
  Nanoseconds time{0};
  Pfn pfn = {};
  Order order = {};
  Kind kind = Kind::kAlloc;
  // The kernel's number of the migratetype (0 unmovable, 1 movable, 2
  // reclaimable): the request's, for kDrain the list's, 0 for kFree.
  uint8_t migratetype = 0;
  uint16_t cpu = 0;
  // For kAlloc: the gfp flags as in GfpFlags.
  uint32_t gfp = 0;

  bool is_request() const { return kind <= Kind::kFree; }
  bool operator==(const TraceEvent&) const = default;
};

// Prints the event as text that OpenTrace reads, one line without its end:
// "guestmm-0 [001] 21.635540: mm_page_free: pfn=0x100352 order=1".
std::ostream& operator<<(std::ostream& os, const TraceEvent& event);

// The gfp flags of trace events, a bit each. The order of the bits is guestmm's
// own, since the kernel's numbers change between versions and its names do not.
//
//   GfpFlags::Parse("GFP_KERNEL|__GFP_ZERO")
class GfpFlags {
 public:
  // Bits used by name.
  static constexpr uint32_t kZero = uint32_t{1} << 0;
  static constexpr uint32_t kMovable = uint32_t{1} << 1;
  static constexpr uint32_t kReclaimable = uint32_t{1} << 2;
  static constexpr uint32_t kHighmem = uint32_t{1} << 3;
  // An unknown name, or a number with an unknown bit.
  static constexpr uint32_t kUnknown = uint32_t{1} << 31;

  // Parses names separated by '|'. A name for several flags (GFP_KERNEL) sets
  // each of them. "none" and the empty text are 0. A number, "0x140cca", is
  // the kernel's own, of 6.10 to 6.12, and has no bit above the lower 24.
  static uint32_t Parse(std::string_view text);
  // The names, separated by '|'; "none" for 0. The inverse of Parse.
  static std::string Format(uint32_t flags);
};

}  // namespace guestmm

#endif  // GUESTMM_TRACE_TRACE_EVENT_H_
