#ifndef GUESTMM_SRC_EXPERIMENT_COMPARE_COMPARE_RECORDING_H_
#define GUESTMM_SRC_EXPERIMENT_COMPARE_COMPARE_RECORDING_H_

#include <string>

#include "absl/status/statusor.h"
#include "src/experiment/compare/compare_run.h"

namespace guestmm {

// One run of `guestmm compare` whose workload is a recording, on the recorded
// pages. `policy` may be kPolicyReal. The error is Replay's. REQUIRES:
// setup.recording is there.
absl::StatusOr<CompareRun> RunRecording(const CompareOptions& options,
                                        const CompareSetup& setup,
                                        const std::string& policy,
                                        const RunProgress& progress);

}  // namespace guestmm

#endif  // GUESTMM_SRC_EXPERIMENT_COMPARE_COMPARE_RECORDING_H_
