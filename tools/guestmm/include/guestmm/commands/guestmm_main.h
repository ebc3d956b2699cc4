#ifndef GUESTMM_COMMANDS_GUESTMM_MAIN_H_
#define GUESTMM_COMMANDS_GUESTMM_MAIN_H_

namespace guestmm::tools {

// Runs the command guestmm with the arguments of main() and returns its exit
// status. A program that registers a policy first
// (guestmm/reporting/policies.h) is guestmm with that policy. `compare
// --processes` runs the calling program again, with arguments that only this
// function understands.
int GuestmmMain(int argc, char** argv);

}  // namespace guestmm::tools

#endif  // GUESTMM_COMMANDS_GUESTMM_MAIN_H_
