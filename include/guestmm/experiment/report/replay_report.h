#ifndef GUESTMM_EXPERIMENT_REPORT_REPLAY_REPORT_H_
#define GUESTMM_EXPERIMENT_REPORT_REPLAY_REPORT_H_

// The files written for replays of one recording under several policies.

#include <optional>
#include <span>
#include <string>

#include "guestmm/base/export.h"
#include "guestmm/experiment/replay/replay.h"
#include "guestmm/experiment/replay/replay_set.h"
#include "guestmm/host/accounting/run_info.h"
#include "guestmm/trace/recording.h"

namespace GUESTMM_EXPORT guestmm {

// summary.json: one row per result, with its distance from the truth if
// recording.has_truth(). ReplaySet::truth, if present, is a last row with the
// policy "real" and the source "recording": the real guest's own figures.
std::string ReplaySummaryJson(const Recording& recording, const ReplaySet& set,
                              const RunInfo& run = {});

// series.csv: the samples of each result, and of rss.csv as the policy "truth",
// by the trace's clock. The mechanism of the truth is "real".
std::string ReplaySeriesCsv(const Recording& recording,
                            std::span<const ReplayResult> results);

// report.html, a page that needs a browser and nothing else: resident memory
// over time, free memory by order, a map of the guest's blocks that plays
// through ReplayResult::frames, and a table of figures. The real guest is shown
// beside them as far as it was recorded in the traced time (`truth` adds its
// needless bytes). Long series are thinned, and the page says so. Built without
// the charts' library, the page has no charts and says so.
std::string ReplayReportHtml(const Recording& recording,
                             std::span<const ReplayResult> results,
                             const std::optional<ReplayTruth>& truth = {});

// trace.json, in Chrome's JSON trace format, which ui.perfetto.dev opens. Each
// result is a process, with counters of its free, isolated and resident bytes
// and a slice for each of the reporter's passes; the truth is another. Times
// are by the trace's clock, so that both can be laid side by side.
std::string ReplayPerfettoJson(const Recording& recording,
                               std::span<const ReplayResult> results);

}  // namespace guestmm

#endif  // GUESTMM_EXPERIMENT_REPORT_REPLAY_REPORT_H_
