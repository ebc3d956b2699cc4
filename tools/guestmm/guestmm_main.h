#ifndef GUESTMM_TOOLS_GUESTMM_GUESTMM_MAIN_H_
#define GUESTMM_TOOLS_GUESTMM_GUESTMM_MAIN_H_

namespace guestmm::tools {

// The whole of the guestmm command; returns its exit status. A program that
// registers a policy first (guestmm/reporting/policies.h) is guestmm with that
// policy. `compare --processes` starts the program again, with arguments for
// this function alone.
int GuestmmMain(int argc, char** argv);

}  // namespace guestmm::tools

#endif  // GUESTMM_TOOLS_GUESTMM_GUESTMM_MAIN_H_
