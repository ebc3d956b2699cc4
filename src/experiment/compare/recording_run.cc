// One run whose workload is a recording.

#include <optional>
#include <string>

#include "guestmm/experiment/replay/replay.h"
#include "src/experiment/compare/compare_run.h"

namespace guestmm {

absl::StatusOr<CompareRun> RunRecording(const CompareOptions& options,
                                        const CompareSetup& setup,
                                        const MechanismSpec& mechanism,
                                        const RunProgress& progress) {
  const std::string policy = mechanism.text(MechanismOption::kPolicies);
  // Of 5.3 only the workloads by name can be.
  std::optional<KernelVersion> kernel = options.kernel;
  if (kernel == KernelVersion::kV5_3) kernel.reset();
  const ReplayOptions replay = {.placement = ReplayPlacement::kRecorded,
                                .kernel = kernel,
                                .policy = policy,
                                .policy_parameters = options.policy_parameters,
                                .granule = setup.granule,
                                .khugepaged = options.khugepaged,
                                .reportable_order = *options.reportable_order,
                                .seed = options.seed,
                                .sample_interval = kSampleEvery,
                                .tail = setup.rest};
  bool stopped = false;
  const ReplayWatch watch = {
      .progress =
          [&](const ReplayProgress& at) {
            stopped = !progress(at.whole > Nanoseconds(0)
                                    ? ToSeconds(at.done) / ToSeconds(*at.whole)
                                    : 0);
          },
      .stopped = [&] { return stopped; }};
  const absl::StatusOr<ReplayResult> replayed =
      Replay(*setup.recording, replay, /*partial=*/nullptr, watch);
  if (!replayed.ok()) return replayed.status();

  CompareRun run;
  CompareRow& row = run.row;
  row.workload = setup.name;
  row.policy = policy;
  row.host_share_of_free = replayed->host_share_of_free;
  row.host_share_of_reportable = replayed->host_share_of_reportable;
  row.footprint_gib_min = GibMinutes(replayed->footprint.resident);
  const uint64_t needed = replayed->reported_bytes - replayed->needless_bytes;
  if (needed > 0) {
    row.reported_over_needed = static_cast<double>(replayed->reported_bytes) /
                               static_cast<double>(needed);
  }
  row.refaults_1s = replayed->refaults;
  row.reports = replayed->scatterlists;
  row.kicks = replayed->scatterlists;
  row.discard_calls = replayed->discard_calls;
  run.in_use_gib_min = GibMinutes(replayed->footprint.in_use);
  for (const ReplaySample& sample : replayed->samples) {
    run.samples.push_back({.workload = setup.name,
                           .policy = policy,
                           .seconds = ToSeconds(sample.time - replayed->start),
                           .resident_bytes = sample.resident_bytes,
                           .free_bytes = sample.free_bytes,
                           .host_share_of_free = {}});
  }
  run.recording = {.workload = setup.name,
                   .guest_bytes = replayed->memory_bytes,
                   .duration_seconds =
                       ToSeconds(replayed->end - replayed->start - setup.rest),
                   .counters = replayed->counters,
                   .files = setup.recording->files};
  return run;
}

}  // namespace guestmm
