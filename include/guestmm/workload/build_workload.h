#ifndef GUESTMM_WORKLOAD_BUILD_WORKLOAD_H_
#define GUESTMM_WORKLOAD_BUILD_WORKLOAD_H_

#include <chrono>
#include <cstdint>
#include <deque>
#include <optional>

#include "guestmm/base/random.h"
#include "guestmm/base/units.h"
#include "guestmm/machine/workload.h"
#include "guestmm/workload/blocks.h"

namespace guestmm {

// Of one vCPU.
struct BuildOptions {
  // At least 1.
  int phases = 3;
  // Of a phase, one after the other. At least 1.
  int processes = 40;
  // Between two phases.
  Nanoseconds quiet = std::chrono::seconds(20);
  // What a process grows to: the logarithm is uniform. 0 < min <= max.
  uint64_t min_process_bytes = 4 * kMiB;
  uint64_t max_process_bytes = 200 * kMiB;
  // How much of each process's memory is huge pages, 0 to 1.
  double huge_share = 0.3;
  // What it computes after each step of its growth, uniform.
  Nanoseconds min_compute = std::chrono::milliseconds(1);
  Nanoseconds max_compute = std::chrono::milliseconds(3);
  // What the kernel allocates on account of a process (slabs, dentries), by its
  // size, and the most of it at a time.
  double kernel_share = 0.01;
  uint64_t max_kernel_bytes = 64 * kMiB;
  // The files that a process leaves in the page cache, by its size, and the
  // most of them: further ones are not kept.
  double file_share = 0.02;
  uint64_t max_file_bytes = 256 * kMiB;
};

// A build: waves of many short-lived processes, with quiet between.
//
// A process grows by 256 KiB of single pages a step, or by a huge page, and
// computes; then it exits, and what it mapped last goes first. Kernel memory of
// a phase is freed at the end of the phase after next; files stay, and so does
// the kernel memory of the last two phases when the build ends. A process that
// finds no memory exits early.
class BuildWorkload final : public Workload {
 public:
  BuildWorkload(const BuildOptions& options, uint64_t seed);

  std::optional<Nanoseconds> Step(Vcpu& vcpu) override;
  uint64_t work() const override;

  // What it holds now: the process; kernel memory; files.
  uint64_t process_bytes() const { return process_.bytes(); }
  uint64_t kernel_bytes() const;
  uint64_t file_bytes() const { return files_.bytes(); }
  // How many phases and, of this phase, processes are over.
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
  // What is left of the mapping that the process is filling.
  uint64_t mapping_left_ = 0;

  // By phase, the oldest first.
  std::deque<Blocks> kernel_;
  PageCount kernel_touched_;
  Blocks files_;
  // What is to be left behind, in pages, and not yet a whole one.
  double kernel_due_ = 0;
  double files_due_ = 0;
};

}  // namespace guestmm

#endif  // GUESTMM_WORKLOAD_BUILD_WORKLOAD_H_
