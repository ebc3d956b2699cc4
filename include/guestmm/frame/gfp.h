#ifndef GUESTMM_FRAME_GFP_H_
#define GUESTMM_FRAME_GFP_H_

// The parameters of an allocation request: what the kernel packs into gfp_t,
// and the requested node.
//
//   allocator.Allocate(cpu, order, kGfpKernel);
//   allocator.Allocate(cpu, order, kGfpUser.OnlyFrom(/*node=*/1));

#include <cstdint>

#include "guestmm/base/export.h"
#include "guestmm/frame/migratetype.h"
#include "guestmm/frame/zone_type.h"

namespace GUESTMM_EXPORT guestmm {

// The share of its min watermark that a zone keeps from a request (Linux 5.3,
// gfp_to_alloc_flags, __zone_watermark_ok).
enum class Reserves : uint8_t {
  kNone,    // all of it
  kHigh,    // a half: __GFP_HIGH
  kAtomic,  // three eighths: __GFP_HIGH | __GFP_ATOMIC
  kAll,     // none; the request may use the last page: __GFP_MEMALLOC
};

// Eight bytes, so that it is passed in one register without repacking.
struct alignas(uint64_t) Gfp {
  MigrateType type = MigrateType::kUnmovable;
  // The highest zone that the request may use.
  ZoneType highest = ZoneType::kNormal;
  Reserves reserves = Reserves::kNone;
  // May call reclaimers and wait (__GFP_DIRECT_RECLAIM).
  bool may_reclaim = true;
  // The node to try first; kLocalNode is that of the vCPU.
  static constexpr int8_t kLocalNode = -1;
  int8_t node = kLocalNode;
  // Tries no other node (__GFP_THISNODE).
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

// GFP_KERNEL: unmovable kernel memory.
inline constexpr Gfp kGfpKernel = {};
// GFP_HIGHUSER_MOVABLE: user memory and page cache.
inline constexpr Gfp kGfpUser = {.type = MigrateType::kMovable,
                                 .highest = ZoneType::kMovable};
// GFP_KERNEL | __GFP_RECLAIMABLE: caches with a shrinker.
inline constexpr Gfp kGfpReclaimable = {.type = MigrateType::kReclaimable};
// GFP_ATOMIC: from an interrupt; may use reserves, cannot wait.
inline constexpr Gfp kGfpAtomic = {.reserves = Reserves::kAtomic,
                                   .may_reclaim = false};
// GFP_KERNEL with __GFP_DMA or __GFP_DMA32: for devices with 24-bit or 32-bit
// addresses.
inline constexpr Gfp kGfpDma = {.highest = ZoneType::kDma};
inline constexpr Gfp kGfpDma32 = {.highest = ZoneType::kDma32};

}  // namespace guestmm

#endif  // GUESTMM_FRAME_GFP_H_
