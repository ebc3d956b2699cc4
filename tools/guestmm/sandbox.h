#ifndef GUESTMM_TOOLS_GUESTMM_SANDBOX_H_
#define GUESTMM_TOOLS_GUESTMM_SANDBOX_H_

#include "absl/status/status.h"

namespace guestmm::tools {

// This process can gain no privileges (PR_SET_NO_NEW_PRIVS).
void ForbidNewPrivileges();

// True if this program was built with libseccomp.
bool HasSeccomp();

// From now on the system calls that a server of balloons does not make after
// its start end the process with SIGSYS, and the kernel logs them. Applies to
// all threads. Unimplemented without libseccomp; Unavailable if the kernel
// refuses.
absl::Status EnterSeccomp();

}  // namespace guestmm::tools

#endif  // GUESTMM_TOOLS_GUESTMM_SANDBOX_H_
