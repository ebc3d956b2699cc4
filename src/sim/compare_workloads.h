#ifndef GUESTMM_SRC_SIM_COMPARE_WORKLOADS_H_
#define GUESTMM_SRC_SIM_COMPARE_WORKLOADS_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "guestmm/base/random.h"
#include "guestmm/buddy/memory_layout.h"
#include "guestmm/buddy/page_allocator.h"
#include "guestmm/sim/compare.h"
#include "guestmm/sim/vcpu.h"
#include "guestmm/sim/workload.h"

namespace guestmm {

// A guest that has booted, for which a workload is made.
struct CompareWorld {
  PageAllocator& allocator;
  std::span<const std::unique_ptr<Vcpu>> vcpus;
  uint64_t guest_bytes;
  Nanoseconds duration;
  Random random;
};

// What the vCPUs of a guest do.
struct CompareLoad {
  // By vCPU; null, or past the end, for one that idles.
  std::vector<std::unique_ptr<Workload>> by_vcpu;
  // Has done all it does, but holds memory that it gives back when asked.
  std::unique_ptr<Workload> bystander = nullptr;

  // Of all vCPUs.
  uint64_t work() const;
};

struct CompareRecipe {
  CompareWorkload workload;
  std::function<CompareLoad(CompareWorld& world)> make;
};

// All of them, in the order in which they run.
const std::vector<CompareRecipe>& CompareRecipes();

// Where a guest of `bytes` has its memory: as a PC does (Guest::MemoryMap), its
// nodes sharing it evenly.
std::vector<MemoryRange> CompareMemory(uint64_t bytes, uint64_t nodes);

}  // namespace guestmm

#endif  // GUESTMM_SRC_SIM_COMPARE_WORKLOADS_H_
