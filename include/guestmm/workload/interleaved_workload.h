#ifndef GUESTMM_WORKLOAD_INTERLEAVED_WORKLOAD_H_
#define GUESTMM_WORKLOAD_INTERLEAVED_WORKLOAD_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "guestmm/base/export.h"
#include "guestmm/machine/workload.h"

namespace GUESTMM_EXPORT guestmm {

// Several workloads on one vCPU, such as a build and the page cache of its
// files. Each step is a step of the workload that is due first; ties go to the
// earlier one in the list. Ends when all have ended.
//
// Only the caller knows how much vCPU time a step takes. To order the steps it
// is assumed to be 1 us per page touched, and at least 1 us: otherwise a
// workload that never pauses would starve the others.
class InterleavedWorkload final : public Workload {
 public:
  explicit InterleavedWorkload(
      std::vector<std::unique_ptr<Workload>> workloads);

  std::optional<Nanoseconds> Step(Vcpu& vcpu) override;
  // The sum over all workloads.
  uint64_t work() const override;

 private:
  struct Member {
    std::unique_ptr<Workload> workload;
    // None if it has ended.
    std::optional<Nanoseconds> due;
  };

  // The workload that is due first; null if all have ended.
  Member* Next();

  std::vector<Member> members_;
  // The assumed duration of the steps so far, pauses included.
  Nanoseconds now_{0};
};

}  // namespace guestmm

#endif  // GUESTMM_WORKLOAD_INTERLEAVED_WORKLOAD_H_
