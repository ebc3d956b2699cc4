#ifndef GUESTMM_SRC_EXPERIMENT_REPORT_REPLAY_REPORT_PARTS_H_
#define GUESTMM_SRC_EXPERIMENT_REPORT_REPLAY_REPORT_PARTS_H_

// What the build embeds of a replay's report.

#include <string_view>

namespace guestmm {

// replay_report.html, with @TITLE@, @DATA@, @CHARTS_STYLE@ and @CHARTS_SCRIPT@
// in the place of those.
std::string_view ReplayReportPage();

// The charts' library; both empty if it was not there when this was built.
std::string_view ReplayReportChartsScript();
std::string_view ReplayReportChartsStyle();

}  // namespace guestmm

#endif  // GUESTMM_SRC_EXPERIMENT_REPORT_REPLAY_REPORT_PARTS_H_
