#ifndef GUESTMM_TOOLS_GUESTMM_EXIT_STATUS_H_
#define GUESTMM_TOOLS_GUESTMM_EXIT_STATUS_H_

namespace guestmm::tools {

inline constexpr int kExitSuccess = 0;
inline constexpr int kExitFailure = 1;  // what was asked for could not be done
inline constexpr int kExitUsage = 2;    // what was asked for makes no sense

}  // namespace guestmm::tools

#endif  // GUESTMM_TOOLS_GUESTMM_EXIT_STATUS_H_
