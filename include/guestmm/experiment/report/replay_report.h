#ifndef GUESTMM_EXPERIMENT_REPORT_REPLAY_REPORT_H_
#define GUESTMM_EXPERIMENT_REPORT_REPLAY_REPORT_H_

// The files that replays of one recording under several policies leave.

#include <cstdint>
#include <optional>
#include <span>
#include <string>

#include "guestmm/experiment/replay/replay.h"
#include "guestmm/trace/recording.h"

namespace guestmm {

// summary.json: the figures of each, and how near it comes to the truth, where
// the recording has it. series.csv: their curves, and the truth's.
std::string ReplaySummaryJson(const Recording& recording,
                              std::span<const ReplayResult> results);
std::string ReplaySeriesCsv(const Recording& recording,
                            std::span<const ReplayResult> results);

// report.html: a page that needs nothing but a browser: resident memory over
// time of each result and of the truth, where the recording has it; free memory
// by order; a map of the guest's blocks that plays through
// ReplayResult::frames; the table of figures. Long series are thinned for it,
// and the page says so. Where the charts' library was missing from the build it
// has no charts, and says that.
// `truth_needless_bytes`: of what the real kernel reported, what its host had
// already, where that is known.
std::string ReplayReportHtml(const Recording& recording,
                             std::span<const ReplayResult> results,
                             std::optional<uint64_t> truth_needless_bytes = {});

// trace.json: the results as Chrome's JSON trace format, which ui.perfetto.dev
// opens: a process a result, with counters of its free, isolated and resident
// bytes and a slice for each run of the reporter; the truth another. Times are
// the trace's, so that the two can be laid side by side.
std::string ReplayPerfettoJson(const Recording& recording,
                               std::span<const ReplayResult> results);

}  // namespace guestmm

#endif  // GUESTMM_EXPERIMENT_REPORT_REPLAY_REPORT_H_
