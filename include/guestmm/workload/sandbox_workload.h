#ifndef GUESTMM_WORKLOAD_SANDBOX_WORKLOAD_H_
#define GUESTMM_WORKLOAD_SANDBOX_WORKLOAD_H_

#include <chrono>
#include <cstdint>
#include <optional>

#include "guestmm/base/export.h"
#include "guestmm/base/random.h"
#include "guestmm/base/units.h"
#include "guestmm/machine/workload.h"
#include "guestmm/workload/blocks.h"
#include "guestmm/workload/idle_workload.h"

namespace GUESTMM_EXPORT guestmm {

struct SandboxOptions {
  // The size of memory. All shares below, 0 to 1, are relative to it.
  uint64_t bytes = kGiB;
  // The total held at the peak of a burst: uniform from
  // burst_share - burst_spread to burst_share + burst_spread.
  double burst_share = 0.8;
  double burst_spread = 0.1;
  // The duration of a burst's growth, without the cost of the memory itself.
  Nanoseconds grow_time = std::chrono::seconds(2);
  // The duration of a burst's peak, uniform.
  Nanoseconds min_churn_time = std::chrono::seconds(1);
  Nanoseconds max_churn_time = std::chrono::seconds(5);
  // The idle time after a burst, uniform.
  Nanoseconds min_idle_time = std::chrono::seconds(30);
  Nanoseconds max_idle_time = std::chrono::seconds(90);
  // The share that its agent holds permanently.
  double steady_share = 0.05;
  // The files read in a burst, as a share of the memory that the burst maps,
  // and their maximum. They stay in the page cache.
  double files_of_burst = 0.1;
  double max_file_share = 0.1;
};

// A sandbox of an agent or of CI: seconds of work near its memory limit, then a
// minute of idling with little memory, forever.
//
// A burst maps about 2 MiB per step, as BurstWorkload does; at its peak it
// replaces a random mapping per step; then it unmaps everything, newest first.
// Between bursts it is an IdleWorkload. If an allocation fails, it continues
// with the memory it has.
class SandboxWorkload final : public Workload {
 public:
  SandboxWorkload(const SandboxOptions& options, uint64_t seed);

  std::optional<Nanoseconds> Step(Vcpu& vcpu) override;
  // Excludes pages touched while idle.
  uint64_t work() const override;

  // True from a burst's first step to its last.
  bool bursting() const {
    return phase_ == Phase::kGrow || phase_ == Phase::kChurn ||
           phase_ == Phase::kFree;
  }
  // The memory held now: permanently, by files, and by the burst.
  uint64_t steady_bytes() const { return steady_.bytes(); }
  uint64_t file_bytes() const { return files_.bytes(); }
  uint64_t burst_bytes() const { return burst_.bytes(); }
  uint64_t allocated_bytes() const {
    return steady_bytes() + file_bytes() + burst_bytes();
  }

 private:
  enum class Phase { kStart, kGrow, kChurn, kFree, kIdle };

  Nanoseconds Start(Vcpu& vcpu);
  void StartBurst();
  Nanoseconds Grow(Vcpu& vcpu);
  Nanoseconds Churn(Vcpu& vcpu);
  Nanoseconds Free(Vcpu& vcpu);
  Nanoseconds Idle(Vcpu& vcpu);
  void ReadFiles(Vcpu& vcpu, uint64_t mapped_bytes);

  const SandboxOptions options_;
  Random random_;
  Phase phase_ = Phase::kStart;
  // The remaining time of a phase with a fixed length.
  Nanoseconds phase_left_{0};
  uint64_t target_bytes_ = 0;
  Nanoseconds grow_pause_{0};
  // The fraction of a file page still to be read.
  double files_due_ = 0;

  AddressSpace steady_;
  AddressSpace burst_;
  Blocks files_;
  IdleWorkload idle_;
};

}  // namespace guestmm

#endif  // GUESTMM_WORKLOAD_SANDBOX_WORKLOAD_H_
