#ifndef GUESTMM_TRACE_TRACE_EVENT_H_
#define GUESTMM_TRACE_TRACE_EVENT_H_

#include <cstdint>
#include <ostream>
#include <string>
#include <string_view>

#include "guestmm/base/clock.h"
#include "guestmm/base/units.h"

namespace guestmm {

// What a kernel's allocator did once, as its tracepoints kmem:mm_page_alloc and
// kmem:mm_page_free have it.
struct TraceEvent {
  enum class Kind : uint8_t { kAlloc, kFree };

  // By the trace's clock.
  Nanoseconds time{0};
  Pfn pfn = {};
  Order order = {};
  Kind kind = Kind::kAlloc;
  // Of an allocation: the kernel's number of the migratetype (0 unmovable, 1
  // movable, 2 reclaimable), and its gfp_flags, as GfpFlags has them.
  uint8_t migratetype = 0;
  uint16_t cpu = 0;
  uint32_t gfp = 0;

  bool operator==(const TraceEvent&) const = default;
};

// As text that OpenTrace reads, one line without its end:
// "guestmm-0 [001] 21.635540: mm_page_free: pfn=0x100352 order=1".
std::ostream& operator<<(std::ostream& os, const TraceEvent& event);

// The gfp flags of trace events: a bit each, in an order of our own, since the
// kernel's numbers change from version to version while the names stay.
//
//   GfpFlags::Parse("GFP_KERNEL|__GFP_ZERO")
class GfpFlags {
 public:
  // Bits that are asked for by name.
  static constexpr uint32_t kZero = uint32_t{1} << 0;
  static constexpr uint32_t kMovable = uint32_t{1} << 1;
  static constexpr uint32_t kReclaimable = uint32_t{1} << 2;
  static constexpr uint32_t kHighmem = uint32_t{1} << 3;
  // A name that is not known, or a number.
  static constexpr uint32_t kUnknown = uint32_t{1} << 31;

  // Names separated by '|'; what stands for several flags (GFP_KERNEL) is each
  // of them. "none" and the empty text are 0.
  static uint32_t Parse(std::string_view text);
  // The names, separated by '|'; "none" for 0. Parse makes the same of it.
  static std::string Format(uint32_t flags);
};

}  // namespace guestmm

#endif  // GUESTMM_TRACE_TRACE_EVENT_H_
