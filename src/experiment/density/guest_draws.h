#ifndef GUESTMM_SRC_EXPERIMENT_DENSITY_GUEST_DRAWS_H_
#define GUESTMM_SRC_EXPERIMENT_DENSITY_GUEST_DRAWS_H_

#include <cstdint>

#include "guestmm/base/random.h"
#include "guestmm/experiment/density/density.h"

namespace guestmm {

// The values drawn for guest number `index`, from 0: the same under each
// policy.
struct GuestDraws {
  GuestDraws(const DensitySetup& setup, int index) {
    Random seeds(setup.options.seed);
    for (int i = 0; i < index; ++i) seeds.Next();
    Random random = seeds.Fork();
    size = random.Next();
    workload = random.Next();
    idle = random.Next();
  }

  // The size that the workload grows to in a guest with `free_bytes` free.
  uint64_t WorkloadBytes(const DensitySetup& setup, uint64_t free_bytes) const {
    if (free_bytes <= setup.workload_min_bytes) return free_bytes;
    return Random(size).Between(setup.workload_min_bytes, free_bytes);
  }

  // Seeds: of the workload's size, of its steps, and of idle life.
  uint64_t size;
  uint64_t workload;
  uint64_t idle;
};

}  // namespace guestmm

#endif  // GUESTMM_SRC_EXPERIMENT_DENSITY_GUEST_DRAWS_H_
