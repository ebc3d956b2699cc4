#ifndef GUESTMM_EXPERIMENT_REPLAY_FIDELITY_H_
#define GUESTMM_EXPERIMENT_REPLAY_FIDELITY_H_

// The distance between a replay and what the real guest's kernel and VMM did.

#include <cstdint>
#include <optional>

#include "guestmm/base/export.h"
#include "guestmm/experiment/replay/replay.h"
#include "guestmm/trace/recording.h"

namespace GUESTMM_EXPORT guestmm {

// Over the traced time. A figure is absent if the recording has nothing in that
// time to compare with.
struct Fidelity {
  uint64_t truth_reported_bytes = 0;
  uint64_t reported_bytes = 0;
  std::optional<double> block_match;  // BlockMatch
  // The mean absolute difference between the two curves of resident memory, in
  // percent of guest RAM, at its most. The replay's curve is shifted to meet
  // the first sample.
  std::optional<double> resident_mae_percent;
  // The distance between free memory by order: half the sum over orders and
  // zones of the difference in pages, as a share of the real free pages; mean
  // over time.
  std::optional<double> buddyinfo_distance;
};

// REQUIRES: recording.has_truth(); result.samples is not empty.
Fidelity CompareToTruth(const Recording& recording, const ReplayResult& result);

// The share of the real reports, in units of 2 MiB, that are matched one to one
// by a report of the same unit in the replay, at most two seconds apart. Absent
// without a report in the traced time.
std::optional<double> BlockMatch(const Recording& recording,
                                 const ReplayResult& result);
// What the real kernel reported from `start` to `end`.
uint64_t RealReportedBytes(const Recording& recording, Nanoseconds start,
                           Nanoseconds end);

// Resident memory over time.
struct Residency {
  uint64_t mean_bytes = 0;  // each sample holds until the next
  uint64_t end_bytes = 0;   // the last sample
};
// The residency of a replay, or of the real guest from `start` to `end`. Absent
// without a sample.
std::optional<Residency> ReplayedResidency(const ReplayResult& result);
std::optional<Residency> RealResidency(const Recording& recording,
                                       Nanoseconds start, Nanoseconds end);

}  // namespace guestmm

#endif  // GUESTMM_EXPERIMENT_REPLAY_FIDELITY_H_
