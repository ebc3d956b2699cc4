#ifndef GUESTMM_WORKLOAD_FRAGMENTER_WORKLOAD_H_
#define GUESTMM_WORKLOAD_FRAGMENTER_WORKLOAD_H_

#include <cstdint>
#include <optional>

#include "guestmm/base/export.h"
#include "guestmm/base/random.h"
#include "guestmm/base/units.h"
#include "guestmm/machine/workload.h"
#include "guestmm/workload/blocks.h"
#include "guestmm/workload/idle_workload.h"

namespace GUESTMM_EXPORT guestmm {

struct FragmenterOptions {
  // The amount of memory to fill: nearly all of the guest's.
  uint64_t bytes = kGiB;
  // One in this many pages is kept forever. At least 1.
  uint64_t kept_one_in = 400;
  // The rest is blocks of orders 0 to this one, equally frequent. At most
  // kMaxOrder.
  Order max_order{3};
};

// Fragments memory permanently: fills it, frees everything except single pages
// scattered over it, and then acts as IdleWorkload, forever. By default about
// three of four pageblocks keep at least one page.
//
// The pages that stay model pages that the kernel cannot move. They are
// allocated as movable nevertheless: as unmovable ones, grouping by mobility
// would concentrate them in few pageblocks, and they would spread to others
// only in a guest that has been full for a long time. This produces the memory
// of such a guest without the wait.
//
// Each step allocates or frees about 1 MiB. A failed allocation ends the
// filling.
class FragmenterWorkload final : public Workload {
 public:
  FragmenterWorkload(const FragmenterOptions& options, uint64_t seed);

  std::optional<Nanoseconds> Step(Vcpu& vcpu) override;
  uint64_t work() const override;

  // True until everything except the kept pages is freed.
  bool busy() const { return phase_ != Phase::kQuiet; }
  uint64_t kept_bytes() const { return kept_.bytes(); }
  // The memory held now, kept or not.
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
