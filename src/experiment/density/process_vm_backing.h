#ifndef GUESTMM_SRC_EXPERIMENT_DENSITY_PROCESS_VM_BACKING_H_
#define GUESTMM_SRC_EXPERIMENT_DENSITY_PROCESS_VM_BACKING_H_

#include <sys/types.h>

#include <cstdint>
#include <memory>
#include <optional>

#include "guestmm/base/units.h"
#include "guestmm/machine/backing.h"
#include "guestmm/ram/guest_ram.h"

namespace guestmm {

// Guest RAM that the kernel writes and reads for this process, with
// process_vm_writev and process_vm_readv. It faults in the pages that stores
// and loads would, so the same memory is resident, but many pages are one
// system call and none is reached through this process's page tables. Under a
// hypervisor that shadows page tables that is several times as fast: there the
// first store to a page costs two exits, 15 us.
class ProcessVmBacking final : public Backing {
 public:
  // `ram` must outlive this. REQUIRES: Permitted().
  explicit ProcessVmBacking(const GuestRam& ram);

  // False where the system calls are refused, e.g. by a seccomp filter.
  static bool Permitted();

  void Touch(int vcpu, Pfn pfn, Order order, uint64_t stamp) override;
  std::optional<Pfn> FindCorrupted(int vcpu, Pfn pfn, Order order,
                                   uint64_t stamp) const override;

 private:
  const GuestRam& ram_;
  // The caller's, and so not a child's.
  const pid_t process_;
};

// ProcessVmBacking where it is permitted, else RamBacking. `ram` must outlive
// the result.
std::unique_ptr<Backing> MakeFastBacking(const GuestRam& ram);

}  // namespace guestmm

#endif  // GUESTMM_SRC_EXPERIMENT_DENSITY_PROCESS_VM_BACKING_H_
