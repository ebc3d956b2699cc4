#include "guestmm/experiment/replay/replay_set.h"

#include <algorithm>
#include <utility>

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
                               const ReplayWatch& watch, uint64_t& needless) {
  for (const ReplayResult& result : results) {
    if (result.options.policy != kMechanismReal) continue;
    needless = result.needless_bytes;
    return absl::OkStatus();
  }
  const ReplayOptions& options = results.front().options;
  const ReplayOptions real = {.policy = std::string(kMechanismReal),
                              .granule = options.granule,
                              .khugepaged = options.khugepaged,
                              .touch = options.touch,
                              .read = options.read};
  ReplayResult result;
  absl::Status status = Replay(recording, real, &result, watch).status();
  needless = result.needless_bytes;
  return status;
}

}  // namespace

ReplaySet ReplayEach(const Recording& recording,
                     const ReplaySetOptions& options,
                     const std::function<void(const std::string&,
                                              const ReplayProgress&)>& progress,
                     const std::function<bool()>& stopped) {
  GUESTMM_CHECK(!options.truth || recording.has_truth());
  ReplaySet set = {.options = options};
  ReplayWatch watch = {.stopped = stopped};
  // Notes how a replay ended; true if no other is to follow.
  const auto ends = [&](const absl::Status& status) {
    if (!status.ok()) set.complete = false;
    if (absl::IsCancelled(status)) return true;
    set.status.Update(status);
    return false;
  };
  for (const std::string& policy : options.policies) {
    ReplayOptions replay = options.replay;
    replay.policy = policy;
    if (progress) {
      watch.progress = [&](const ReplayProgress& at) { progress(policy, at); };
    }
    ReplayResult result;
    const absl::Status status =
        Replay(recording, replay, &result, watch).status();
    if (ends(status)) return set;
    if (!status.ok() && result.counters.events == 0) break;
    set.results.push_back(std::move(result));
  }
  if (!options.truth || set.results.empty()) return set;
  const ReplayResult& first = set.results.front();
  ReplayTruth truth = {
      .reported_bytes = RealReportedBytes(recording, first.start, first.end),
      .resident = RealResidency(recording, first.start, first.end)};
  watch.progress = {};
  if (ends(CountRealNeedless(recording, set.results, watch,
                             truth.needless_bytes))) {
    return set;
  }
  set.truth = truth;
  ends(CheckTruthTime(recording, first));
  return set;
}

}  // namespace guestmm
