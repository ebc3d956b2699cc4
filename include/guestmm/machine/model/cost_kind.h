#ifndef GUESTMM_MACHINE_MODEL_COST_KIND_H_
#define GUESTMM_MACHINE_MODEL_COST_KIND_H_

#include <cstddef>

#include "guestmm/base/export.h"

namespace GUESTMM_EXPORT guestmm {

// The uses of vCPUs' time.
enum class CostKind {
  kBase,       // the guest's own allocator, page faults and clearing
  kHook,       // notifying the policy of blocks freed and taken
  kIsolation,  // the reporter's own work, and waiting for zone locks it holds
  kDiscard,    // kicks, interrupts, and IPIs for the host's discards
  kFaultBack,  // the host's page faults: exits and mapping
  kZeroing,    // the host's clearing of the pages that it maps
  kStall,      // waiting for isolated memory to return
};
inline constexpr size_t kCostKinds = 7;

}  // namespace guestmm

#endif  // GUESTMM_MACHINE_MODEL_COST_KIND_H_
