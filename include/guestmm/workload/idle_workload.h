#ifndef GUESTMM_WORKLOAD_IDLE_WORKLOAD_H_
#define GUESTMM_WORKLOAD_IDLE_WORKLOAD_H_

#include <cstdint>
#include <optional>

#include "guestmm/base/export.h"
#include "guestmm/base/random.h"
#include "guestmm/machine/workload.h"
#include "guestmm/workload/blocks.h"

namespace GUESTMM_EXPORT guestmm {

// An idle guest: its daemons allocate a little memory now and then and free it.
// Never ends.
//
// It matters to policies whose passes are started only by frees: v12 leaves
// blocks that were freed behind its scan until the next free (docs/policies.md,
// loss i), which never comes in a guest that frees nothing.
//
// Each step allocates, touches and frees some small blocks, one of 2 MiB, and
// one of 2 MiB below 4 GiB, as a driver does for a device with 32-bit DMA; then
// it pauses.
class IdleWorkload final : public Workload {
 public:
  explicit IdleWorkload(uint64_t seed) : random_(seed) {}

  std::optional<Nanoseconds> Step(Vcpu& vcpu) override;
  uint64_t work() const override { return blocks_.touched().value(); }

 private:
  Random random_;
  Blocks blocks_;
};

}  // namespace guestmm

#endif  // GUESTMM_WORKLOAD_IDLE_WORKLOAD_H_
