#ifndef GUESTMM_WORKLOAD_INTERLEAVED_WORKLOAD_H_
#define GUESTMM_WORKLOAD_INTERLEAVED_WORKLOAD_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "guestmm/machine/workload.h"

namespace guestmm {

// Several workloads on one vCPU, such as a build and the page cache of its
// files. Each step is one of whichever is due first, of equals the one that
// comes first in the list. Ends when all have.
//
// A step takes time of the vCPU that only whoever runs it knows. For the order
// of steps it is taken to be 1 us for each page touched, and no less for all:
// else a workload that never pauses would keep the others waiting for ever.
class InterleavedWorkload final : public Workload {
 public:
  explicit InterleavedWorkload(
      std::vector<std::unique_ptr<Workload>> workloads);

  std::optional<Nanoseconds> Step(Vcpu& vcpu) override;
  // The sum of all.
  uint64_t work() const override;

 private:
  struct Member {
    std::unique_ptr<Workload> workload;
    // None: it has ended.
    std::optional<Nanoseconds> due;
  };

  // The first that is due; null if all have ended.
  Member* Next();

  std::vector<Member> members_;
  // What the steps so far are taken to have lasted, pauses included.
  Nanoseconds now_{0};
};

}  // namespace guestmm

#endif  // GUESTMM_WORKLOAD_INTERLEAVED_WORKLOAD_H_
