#ifndef GUESTMM_SRC_EXPERIMENT_REPORT_COMMIT_H_
#define GUESTMM_SRC_EXPERIMENT_REPORT_COMMIT_H_

namespace guestmm {

// The hash of the commit that was built, as far as it was known when the build
// was configured; "unknown" outside a git repository.
const char* Commit();

}  // namespace guestmm

#endif  // GUESTMM_SRC_EXPERIMENT_REPORT_COMMIT_H_
