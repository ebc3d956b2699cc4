#ifndef GUESTMM_WORKLOAD_BURST_WORKLOAD_H_
#define GUESTMM_WORKLOAD_BURST_WORKLOAD_H_

#include <cstddef>
#include <cstdint>
#include <optional>

#include "guestmm/base/export.h"
#include "guestmm/base/random.h"
#include "guestmm/base/units.h"
#include "guestmm/machine/workload.h"
#include "guestmm/workload/blocks.h"

namespace GUESTMM_EXPORT guestmm {

// Grows to a size, touching every page, reads it all back, and then frees
// everything: the guest of the v12 cover letter's density experiment.
//
// Each step maps about 2 MiB, half of the time as one huge page and half as
// blocks of orders 0 to 3, like a process whose memory is partly backed by huge
// pages; or reads that much; or unmaps it. The newest mapping is freed first,
// as when a process exits (AddressSpace).
class BurstWorkload final : public Workload {
 public:
  // Grows to `bytes`, or until an allocation fails.
  BurstWorkload(uint64_t bytes, uint64_t seed);

  std::optional<Nanoseconds> Step(Vcpu& vcpu) override;
  uint64_t work() const override { return memory_.touched().value(); }

  // True until everything is allocated.
  bool growing() const { return phase_ == Phase::kGrow; }
  // The memory held now, and its maximum so far.
  uint64_t allocated_bytes() const { return memory_.bytes(); }
  uint64_t peak_bytes() const { return peak_bytes_; }
  // The first page found without the contents written to it.
  std::optional<Pfn> corrupted() const { return corrupted_; }

 private:
  enum class Phase { kGrow, kRead, kFree };

  void Grow(Vcpu& vcpu);
  void Read(Vcpu& vcpu);
  void Free(Vcpu& vcpu);

  const uint64_t target_bytes_;
  const uint64_t stamp_;
  Random random_;
  Phase phase_ = Phase::kGrow;
  AddressSpace memory_;
  uint64_t peak_bytes_ = 0;
  size_t read_ = 0;  // mappings
  std::optional<Pfn> corrupted_;
};

}  // namespace guestmm

#endif  // GUESTMM_WORKLOAD_BURST_WORKLOAD_H_
