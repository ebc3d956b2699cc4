#include "guestmm/experiment/replay/replay_set.h"

#include <algorithm>

#include "absl/strings/str_format.h"
#include "guestmm/base/check.h"
#include "guestmm/mechanism/mechanism_spec.h"

namespace guestmm {
namespace {

// FailedPrecondition if no report and no sample of the truth lies in the time
// of `result`: the clocks differ.
absl::Status CheckTruthTime(const Recording& recording,
                            const ReplayResult& result) {
  const auto in_time = [&](const auto& truth) {
    return result.start <= truth.time && truth.time <= result.end;
  };
  if (std::any_of(recording.reports.begin(), recording.reports.end(),
                  in_time) ||
      std::any_of(recording.resident.begin(), recording.resident.end(),
                  in_time)) {
    return absl::OkStatus();
  }
  return absl::FailedPreconditionError(absl::StrFormat(
      "--truth: the trace is from %.3f s to %.3f s, but reports.csv is from "
      "%.3f s to %.3f s and rss.csv from %.3f s to %.3f s: their times must be "
      "by the trace's clock",
      ToSeconds(result.start), ToSeconds(result.end),
      ToSeconds(recording.reports.front().time),
      ToSeconds(recording.reports.back().time),
      ToSeconds(recording.resident.front().time),
      ToSeconds(recording.resident.back().time)));
}

// Sets `needless` to the bytes that the real kernel reported needlessly, as far
// as the trace can be replayed.
absl::Status CountRealNeedless(const Recording& recording,
                               const std::vector<ReplayResult>& results,
                               uint64_t& needless) {
  for (const ReplayResult& result : results) {
    if (result.options.policy != kMechanismReal) continue;
    needless = result.needless_bytes;
    return absl::OkStatus();
  }
  const ReplayOptions& options = results.front().options;
  const ReplayOptions real = {.policy = std::string(kMechanismReal),
                              .granule = options.granule,
                              .touch = options.touch,
                              .read = options.read};
  ReplayResult result;
  absl::Status status = Replay(recording, real, &result).status();
  needless = result.needless_bytes;
  return status;
}

}  // namespace

ReplaySet ReplayEach(
    const Recording& recording, const ReplaySetOptions& options,
    const std::function<void(const std::string&, const ReplayProgress&)>&
        progress) {
  GUESTMM_CHECK(!options.truth || recording.has_truth());
  ReplaySet set;
  for (const std::string& policy : options.policies) {
    ReplayOptions replay = options.replay;
    replay.policy = policy;
    ReplayWatch watch;
    if (progress) {
      watch.progress = [&](const ReplayProgress& at) { progress(policy, at); };
    }
    ReplayResult& result = set.results.emplace_back();
    set.status.Update(Replay(recording, replay, &result, watch).status());
    if (!set.status.ok() && result.counters.events == 0) {
      set.results.pop_back();
      break;
    }
  }
  if (!options.truth || set.results.empty()) return set;
  const ReplayResult& first = set.results.front();
  ReplayTruth& truth = set.truth.emplace();
  truth.reported_bytes = CompareToTruth(recording, first).truth_reported_bytes;
  truth.resident = RealResidency(recording, first.start, first.end);
  set.status.Update(
      CountRealNeedless(recording, set.results, truth.needless_bytes));
  set.status.Update(CheckTruthTime(recording, first));
  return set;
}

}  // namespace guestmm
