#ifndef GUESTMM_WORKLOAD_RECIPES_H_
#define GUESTMM_WORKLOAD_RECIPES_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "guestmm/base/export.h"
#include "guestmm/base/random.h"
#include "guestmm/frame/frame_allocator.h"
#include "guestmm/machine/vcpu.h"
#include "guestmm/machine/workload.h"

namespace GUESTMM_EXPORT guestmm {

// A workload with a name, and the set-up that it runs in by default.
struct WorkloadInfo {
  std::string name;
  std::string description;
  // Defaults, which the options of an experiment may override.
  uint64_t guest_bytes = 0;
  uint64_t nodes = 1;
  uint64_t vcpus = 1;
  double duration_seconds = 0;
  // The part of the duration before work counts.
  double warmup_seconds = 0;
  // True if it runs when no workload is named.
  bool by_default = true;
};

// The workloads of all recipes.
std::vector<WorkloadInfo> WorkloadInfos();

// A guest after its boot. A recipe makes its load for it and draws from
// `random`.
struct BootedGuest {
  FrameAllocator& allocator;
  std::span<const std::unique_ptr<Vcpu>> vcpus;
  uint64_t guest_bytes;
  Nanoseconds duration;
  Random random;
};

// The workloads of a guest's vCPUs.
struct GuestLoad {
  // By vCPU. Null for a vCPU that idles, as are those past the end.
  std::vector<std::unique_ptr<Workload>> by_vcpu;
  // Holds memory and runs no more steps: a full page cache, which gives pages
  // back when an allocation fails. Null for none.
  std::unique_ptr<Workload> bystander = nullptr;

  // The sum over all vCPUs.
  uint64_t work() const;
};

// Makes a workload's load.
struct WorkloadRecipe {
  WorkloadInfo workload;
  std::function<GuestLoad(BootedGuest& world)> make;
};

// All recipes, in the order in which experiments run them.
const std::vector<WorkloadRecipe>& WorkloadRecipes();

}  // namespace guestmm

#endif  // GUESTMM_WORKLOAD_RECIPES_H_
