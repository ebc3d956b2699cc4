#ifndef GUESTMM_FRAME_GFP_H_
#define GUESTMM_FRAME_GFP_H_

// How memory is asked for: what the kernel packs into gfp_t, the node asked for
// included.
//
//   allocator.Allocate(cpu, order, kGfpKernel);
//   allocator.Allocate(cpu, order, kGfpUser.OnlyFrom(/*node=*/1));

#include <cstdint>

#include "guestmm/frame/migratetype.h"
#include "guestmm/frame/zone_type.h"

namespace guestmm {

// How far below its min watermark a request may take a zone (Linux 5.3,
// gfp_to_alloc_flags, __zone_watermark_ok).
enum class Reserves : uint8_t {
  kNone,    // not at all
  kHigh,    // to a half of it: __GFP_HIGH
  kAtomic,  // to three eighths: __GFP_HIGH | __GFP_ATOMIC
  kAll,     // to the last page: __GFP_MEMALLOC
};

// Eight bytes, so as to be passed in one register as it lies in memory.
struct alignas(uint64_t) Gfp {
  MigrateType type = MigrateType::kUnmovable;
  // The highest zone that will do.
  ZoneType highest = ZoneType::kNormal;
  Reserves reserves = Reserves::kNone;
  // Whether to wait for memory to be reclaimed (__GFP_DIRECT_RECLAIM).
  bool may_reclaim = true;
  // Where to look first; kLocalNode is the vCPU's own.
  static constexpr int8_t kLocalNode = -1;
  int8_t node = kLocalNode;
  // Whether to look nowhere else (__GFP_THISNODE).
  bool this_node_only = false;

  constexpr Gfp PreferablyFrom(int preferred) const {
    Gfp gfp = *this;
    gfp.node = static_cast<int8_t>(preferred);
    return gfp;
  }
  constexpr Gfp OnlyFrom(int only) const {
    Gfp gfp = PreferablyFrom(only);
    gfp.this_node_only = true;
    return gfp;
  }
};

// GFP_KERNEL: the kernel's own, which stays where it is.
inline constexpr Gfp kGfpKernel = {};
// GFP_HIGHUSER_MOVABLE: programs' memory and page cache.
inline constexpr Gfp kGfpUser = {.type = MigrateType::kMovable,
                                 .highest = ZoneType::kMovable};
// GFP_KERNEL | __GFP_RECLAIMABLE: caches that shrink.
inline constexpr Gfp kGfpReclaimable = {.type = MigrateType::kReclaimable};
// GFP_ATOMIC: from an interrupt; may dip, cannot wait.
inline constexpr Gfp kGfpAtomic = {.reserves = Reserves::kAtomic,
                                   .may_reclaim = false};
// GFP_KERNEL with __GFP_DMA or __GFP_DMA32: for devices that reach no further.
inline constexpr Gfp kGfpDma = {.highest = ZoneType::kDma};
inline constexpr Gfp kGfpDma32 = {.highest = ZoneType::kDma32};

}  // namespace guestmm

#endif  // GUESTMM_FRAME_GFP_H_
