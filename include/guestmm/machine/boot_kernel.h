#ifndef GUESTMM_MACHINE_BOOT_KERNEL_H_
#define GUESTMM_MACHINE_BOOT_KERNEL_H_

#include <cstdint>

#include "absl/status/status.h"
#include "guestmm/base/export.h"
#include "guestmm/machine/vcpu.h"

namespace GUESTMM_EXPORT guestmm {

// kYes if the kernel writes to its memory, so that it is resident.
enum class KernelTouch : bool { kNo, kYes };

// Allocates what the guest's kernel occupies for good: `bytes`, rounded up to
// pages, in the largest blocks that fit. The blocks are unmovable, as the
// kernel's own allocations are (GFP_KERNEL), and are never freed.
// ResourceExhausted if the guest has not that much memory; what was allocated
// stays so.
absl::Status BootKernel(Vcpu& vcpu, uint64_t bytes,
                        KernelTouch touch = KernelTouch::kYes);

}  // namespace guestmm

#endif  // GUESTMM_MACHINE_BOOT_KERNEL_H_
