#ifndef GUESTMM_TOOLS_GUESTMM_REPLAY_VERDICT_H_
#define GUESTMM_TOOLS_GUESTMM_REPLAY_VERDICT_H_

#include <span>

#include "guestmm/experiment/replay/replay.h"
#include "guestmm/experiment/replay/verdict.h"

namespace guestmm::tools {

// Prints the verdict on these results on standard output, in 80 columns but for
// commands, which are not cut. REQUIRES: `results` is not empty.
void PrintVerdict(const ReplayVerdict& verdict,
                  std::span<const ReplayResult> results);

}  // namespace guestmm::tools

#endif  // GUESTMM_TOOLS_GUESTMM_REPLAY_VERDICT_H_
