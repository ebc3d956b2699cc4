#ifndef GUESTMM_WORKLOAD_SANDBOX_WORKLOAD_H_
#define GUESTMM_WORKLOAD_SANDBOX_WORKLOAD_H_

#include <chrono>
#include <cstdint>
#include <optional>

#include "guestmm/base/random.h"
#include "guestmm/base/units.h"
#include "guestmm/machine/workload.h"
#include "guestmm/workload/blocks.h"
#include "guestmm/workload/idle_workload.h"

namespace guestmm {

struct SandboxOptions {
  // The memory it is given. All shares, 0 to 1, are of this.
  uint64_t bytes = kGiB;
  // What it holds at the height of a burst, all in all: uniform from
  // burst_share - burst_spread to burst_share + burst_spread.
  double burst_share = 0.8;
  double burst_spread = 0.1;
  // How long a burst grows, without what the memory itself costs.
  Nanoseconds grow_time = std::chrono::seconds(2);
  // How long it stays at its height, uniform.
  Nanoseconds min_churn_time = std::chrono::seconds(1);
  Nanoseconds max_churn_time = std::chrono::seconds(5);
  // How long it idles after a burst, uniform.
  Nanoseconds min_idle_time = std::chrono::seconds(30);
  Nanoseconds max_idle_time = std::chrono::seconds(90);
  // What its agent holds all the time.
  double steady_share = 0.05;
  // The files it reads in a burst, as a share of what the burst maps, and the
  // most of them. They stay in the page cache.
  double files_of_burst = 0.1;
  double max_file_share = 0.1;
};

// What a sandbox of an agent or of CI does, for ever: seconds of work near the
// limit of its memory, then a minute of idling with little.
//
// A burst maps about 2 MiB a step, as BurstWorkload does, then unmaps a mapping
// and makes another, then unmaps all, the last one first. Between bursts it is
// an IdleWorkload. Where memory is out, it makes do with what it has.
class SandboxWorkload final : public Workload {
 public:
  SandboxWorkload(const SandboxOptions& options, uint64_t seed);

  std::optional<Nanoseconds> Step(Vcpu& vcpu) override;
  // Without what it touches while it idles.
  uint64_t work() const override;

  // True from a burst's first step to its last.
  bool bursting() const {
    return phase_ == Phase::kGrow || phase_ == Phase::kChurn ||
           phase_ == Phase::kFree;
  }
  // What it holds now: for good; in the page cache; of a burst.
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
  // What is left of the phase, where it has a length.
  Nanoseconds phase_left_{0};
  uint64_t target_bytes_ = 0;
  Nanoseconds grow_pause_{0};
  // Pages of files to be read, and not yet a whole one.
  double files_due_ = 0;

  AddressSpace steady_;
  AddressSpace burst_;
  Blocks files_;
  IdleWorkload idle_;
};

}  // namespace guestmm

#endif  // GUESTMM_WORKLOAD_SANDBOX_WORKLOAD_H_
