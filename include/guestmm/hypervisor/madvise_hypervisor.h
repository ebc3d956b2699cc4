#ifndef GUESTMM_HYPERVISOR_MADVISE_HYPERVISOR_H_
#define GUESTMM_HYPERVISOR_MADVISE_HYPERVISOR_H_

#include <atomic>
#include <cstdint>

#include "guestmm/hypervisor/hypervisor.h"
#include "guestmm/ram/guest_ram.h"

namespace guestmm {

// Discards with madvise(MADV_DONTNEED), as VMMs do with anonymous guest RAM.
// Ranges that lie side by side go in one call: the cost is by the call.
class MadviseHypervisor final : public Hypervisor {
 public:
  // `ram` must outlive this.
  explicit MadviseHypervisor(const GuestRam& ram) : ram_(ram) {}

  absl::Status Discard(std::span<const GpaRange> ranges) override;
  DiscardCounters counters() const override;

 private:
  const GuestRam& ram_;
  std::atomic<uint64_t> calls_{0};
  std::atomic<uint64_t> bytes_{0};
  std::atomic<uint64_t> failures_{0};
};

}  // namespace guestmm

#endif  // GUESTMM_HYPERVISOR_MADVISE_HYPERVISOR_H_
