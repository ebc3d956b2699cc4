#ifndef GUESTMM_EXPERIMENT_REPLAY_FIDELITY_H_
#define GUESTMM_EXPERIMENT_REPLAY_FIDELITY_H_

// How near a replay comes to what the real guest's kernel and VMM did.

#include <cstdint>
#include <optional>

#include "guestmm/experiment/replay/replay.h"
#include "guestmm/trace/recording.h"

namespace guestmm {

// What there is nothing of in the traced time to compare with is absent.
struct Fidelity {
  // In the traced time.
  uint64_t truth_reported_bytes = 0;
  uint64_t reported_bytes = 0;
  // The share of the real reports, in units of 2 MiB, that a report of the
  // replay's of the same unit within two seconds matches, one to one.
  std::optional<double> block_match;
  // Between the two curves of resident memory: mean absolute difference, in
  // percent of guest RAM. The replay's is shifted to meet the first sample.
  std::optional<double> resident_mae_percent;
  // Between the free memory by order: half the sum over orders and zones of
  // the difference in pages, as a share of the real free pages; mean over time.
  std::optional<double> buddyinfo_distance;
};

// REQUIRES: recording.has_truth(), and that the replay has a sample.
Fidelity CompareToTruth(const Recording& recording, const ReplayResult& result);

// What the host held of a guest.
struct Residency {
  uint64_t mean_bytes = 0;  // over time: each sample holds until the next
  uint64_t end_bytes = 0;
};
// Of a replay; of the real guest, from `start` to `end`. Nothing if there is no
// sample.
std::optional<Residency> ReplayedResidency(const ReplayResult& result);
std::optional<Residency> RealResidency(const Recording& recording,
                                       Nanoseconds start, Nanoseconds end);

}  // namespace guestmm

#endif  // GUESTMM_EXPERIMENT_REPLAY_FIDELITY_H_
