#ifndef GUESTMM_EXPERIMENT_REPLAY_REPLAY_SET_H_
#define GUESTMM_EXPERIMENT_REPLAY_REPLAY_SET_H_

// Replays of one recording, one per policy, and the real guest's figures beside
// them.
//
//   const ReplaySet set =
//       ReplayEach(recording, {.policies = {"off", "linux"}, .truth = true});
//   std::cout << ReplaySummaryJson(recording, set);

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "guestmm/base/export.h"
#include "guestmm/experiment/replay/fidelity.h"
#include "guestmm/experiment/replay/replay.h"
#include "guestmm/trace/recording.h"

namespace GUESTMM_EXPORT guestmm {

// The real guest in the traced time.
struct ReplayTruth {
  // Bytes that its kernel reported.
  uint64_t reported_bytes = 0;
  // Of those, the bytes that the host had already, by a replay of the real
  // reports.
  uint64_t needless_bytes = 0;
  // Absent if rss.csv has no sample in the traced time.
  std::optional<Residency> resident = {};
};

struct ReplaySetOptions {
  // For every replay; `policy` is ignored.
  ReplayOptions replay = {};
  std::vector<std::string> policies = {"off", "v12", "linux", "adaptive"};
  // Also compute the real guest's figures, which takes one replay more unless
  // `policies` has "real".
  bool truth = false;
};

struct ReplaySet {
  ReplaySetOptions options = {};
  // In the order of the policies. A damaged trace is replayed up to the damage
  // under each; policies without a single event are left out.
  std::vector<ReplayResult> results = {};
  // Absent unless asked for, if there are no results, and once stopped.
  std::optional<ReplayTruth> truth = {};
  // The first error.
  absl::Status status = {};
  // False if it was stopped, or an error ended a replay. The policy that was
  // being replayed when it was stopped, and those after it, are left out.
  bool complete = true;
};

// Replays under each policy. The errors are those of Replay, and
// FailedPrecondition if the truth lies outside the traced time. REQUIRES:
// recording.has_truth() if options.truth. `progress`, unless empty, is called
// with the policy at each sample. `stopped`, unless empty, is ReplayWatch's;
// once it returns true no other policy is replayed, and the real guest's
// figures are left out.
ReplaySet ReplayEach(
    const Recording& recording, const ReplaySetOptions& options,
    const std::function<void(const std::string& policy,
                             const ReplayProgress& progress)>& progress = {},
    const std::function<bool()>& stopped = {});

}  // namespace guestmm

#endif  // GUESTMM_EXPERIMENT_REPLAY_REPLAY_SET_H_
