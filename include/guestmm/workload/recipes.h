#ifndef GUESTMM_WORKLOAD_RECIPES_H_
#define GUESTMM_WORKLOAD_RECIPES_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "guestmm/base/random.h"
#include "guestmm/frame/frame_allocator.h"
#include "guestmm/machine/vcpu.h"
#include "guestmm/machine/workload.h"

namespace guestmm {

// A workload that compare knows by name.
struct WorkloadInfo {
  std::string name;
  std::string description;
  // Its own, where the options say nothing else.
  uint64_t guest_bytes = 0;
  uint64_t nodes = 1;
  uint64_t vcpus = 1;
  double duration_seconds = 0;
  // Of the duration; work counts from then on.
  double warmup_seconds = 0;
  // Whether it is run when none is named.
  bool by_default = true;
};

std::vector<WorkloadInfo> WorkloadInfos();

// A guest that has booted, for which a workload is made.
struct BootedGuest {
  FrameAllocator& allocator;
  std::span<const std::unique_ptr<Vcpu>> vcpus;
  uint64_t guest_bytes;
  Nanoseconds duration;
  Random random;
};

// What the vCPUs of a guest do.
struct GuestLoad {
  // By vCPU; null, or past the end, for one that idles.
  std::vector<std::unique_ptr<Workload>> by_vcpu;
  // Has done all it does, but holds memory that it gives back when asked.
  std::unique_ptr<Workload> bystander = nullptr;

  // Of all vCPUs.
  uint64_t work() const;
};

struct WorkloadRecipe {
  WorkloadInfo workload;
  std::function<GuestLoad(BootedGuest& world)> make;
};

// All of them, in the order in which they run.
const std::vector<WorkloadRecipe>& WorkloadRecipes();

}  // namespace guestmm

#endif  // GUESTMM_WORKLOAD_RECIPES_H_
