#ifndef GUESTMM_WORKLOAD_FRAGMENTER_WORKLOAD_H_
#define GUESTMM_WORKLOAD_FRAGMENTER_WORKLOAD_H_

#include <cstdint>
#include <optional>

#include "guestmm/base/random.h"
#include "guestmm/base/units.h"
#include "guestmm/machine/workload.h"
#include "guestmm/workload/blocks.h"
#include "guestmm/workload/idle_workload.h"

namespace guestmm {

struct FragmenterOptions {
  // What it fills: nearly all memory that there is.
  uint64_t bytes = kGiB;
  // One page of as many is kept for ever. At least 1.
  uint64_t kept_one_in = 400;
  // The rest is blocks of orders 0 to this one, each as often. At most
  // kMaxOrder.
  Order max_order{3};
};

// Fragments memory for good: fills it, frees all but single pages that lie
// everywhere, and is then as quiet as IdleWorkload, for ever. By default about
// three of four pageblocks keep a page or more.
//
// The pages that stay are those that the kernel cannot move. They are asked for
// as movable ones all the same: as unmovable ones they would be grouped into
// few pageblocks (which is what the grouping is for), and land in others only
// in a guest that has been full for a long time. This is such a guest's memory,
// without the wait.
//
// Each step takes or frees about 1 MiB. Where memory is out, it is full.
class FragmenterWorkload final : public Workload {
 public:
  FragmenterWorkload(const FragmenterOptions& options, uint64_t seed);

  std::optional<Nanoseconds> Step(Vcpu& vcpu) override;
  uint64_t work() const override;

  // True until all is freed but what is kept.
  bool busy() const { return phase_ != Phase::kQuiet; }
  uint64_t kept_bytes() const { return kept_.bytes(); }
  // What it holds now, kept or not.
  uint64_t allocated_bytes() const { return kept_.bytes() + rest_.bytes(); }

 private:
  enum class Phase { kFill, kFree, kQuiet };

  void Fill(Vcpu& vcpu);
  bool TakeBlock(Vcpu& vcpu);
  void Free(Vcpu& vcpu);

  const FragmenterOptions options_;
  Random random_;
  Phase phase_ = Phase::kFill;
  Blocks kept_;
  Blocks rest_;
  IdleWorkload idle_;
};

}  // namespace guestmm

#endif  // GUESTMM_WORKLOAD_FRAGMENTER_WORKLOAD_H_
