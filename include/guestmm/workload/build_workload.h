#ifndef GUESTMM_WORKLOAD_BUILD_WORKLOAD_H_
#define GUESTMM_WORKLOAD_BUILD_WORKLOAD_H_

#include <chrono>
#include <cstdint>
#include <deque>
#include <optional>

#include "guestmm/base/export.h"
#include "guestmm/base/random.h"
#include "guestmm/base/units.h"
#include "guestmm/machine/workload.h"
#include "guestmm/workload/blocks.h"

namespace GUESTMM_EXPORT guestmm {

// Options for one vCPU.
struct BuildOptions {
  // At least 1.
  int phases = 3;
  // Processes in a phase, run one after the other. At least 1.
  int processes = 40;
  // The quiet time between two phases.
  Nanoseconds quiet = std::chrono::seconds(20);
  // The size that a process grows to, log-uniform. 0 < min <= max.
  uint64_t min_process_bytes = 4 * kMiB;
  uint64_t max_process_bytes = 200 * kMiB;
  // The share of huge pages in each process's memory, 0 to 1.
  double huge_share = 0.3;
  // The computing time after each growth step, uniform.
  Nanoseconds min_compute = std::chrono::milliseconds(1);
  Nanoseconds max_compute = std::chrono::milliseconds(3);
  // The kernel memory allocated on behalf of a process (slabs, dentries), as a
  // share of its size, and the maximum held at a time.
  double kernel_share = 0.01;
  uint64_t max_kernel_bytes = 64 * kMiB;
  // The files that a process leaves in the page cache, as a share of its size,
  // and the maximum kept; further files are not kept.
  double file_share = 0.02;
  uint64_t max_file_bytes = 256 * kMiB;
};

// A build: waves of many short-lived processes, separated by quiet time.
//
// A process grows by 256 KiB of single pages or by a huge page per step, and
// computes after each; then it exits and frees its newest mapping first. Kernel
// memory of a phase is freed at the end of the phase after next. Files stay, as
// does the kernel memory of the last two phases when the build ends. A process
// whose allocation fails exits early.
class BuildWorkload final : public Workload {
 public:
  BuildWorkload(const BuildOptions& options, uint64_t seed);

  std::optional<Nanoseconds> Step(Vcpu& vcpu) override;
  uint64_t work() const override;

  // The memory held by the current process, by the kernel, and by files.
  uint64_t process_bytes() const { return process_.bytes(); }
  uint64_t kernel_bytes() const;
  uint64_t file_bytes() const { return files_.bytes(); }
  // The number of completed phases, and of completed processes in this phase.
  int phases_done() const { return phases_done_; }
  int processes_done() const { return processes_done_; }

 private:
  enum class State { kStart, kGrow, kExit, kEndPhase };

  void StartProcess();
  Nanoseconds Grow(Vcpu& vcpu);
  bool GrowAStep(Vcpu& vcpu);
  void LeaveBehind(Vcpu& vcpu, PageCount pages);
  void Exit(Vcpu& vcpu);
  std::optional<Nanoseconds> EndPhase(Vcpu& vcpu);

  const BuildOptions options_;
  Random random_;
  State state_ = State::kStart;
  int phases_done_ = 0;
  int processes_done_ = 0;

  AddressSpace process_;
  uint64_t process_target_bytes_ = 0;
  // The bytes missing in the mapping that the process is filling.
  uint64_t mapping_left_ = 0;

  // By phase, the oldest first.
  std::deque<Blocks> kernel_;
  PageCount kernel_touched_;
  Blocks files_;
  // Fractions of a page still to be left behind.
  double kernel_due_ = 0;
  double files_due_ = 0;
};

}  // namespace guestmm

#endif  // GUESTMM_WORKLOAD_BUILD_WORKLOAD_H_
