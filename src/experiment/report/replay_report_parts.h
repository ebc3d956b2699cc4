#ifndef GUESTMM_SRC_EXPERIMENT_REPORT_REPLAY_REPORT_PARTS_H_
#define GUESTMM_SRC_EXPERIMENT_REPORT_REPLAY_REPORT_PARTS_H_

// Files of a replay's report, which the build embeds.

#include <string_view>

namespace guestmm {

// replay_report.html, with the placeholders @TITLE@, @DATA@, @CHARTS_STYLE@ and
// @CHARTS_SCRIPT@.
std::string_view ReplayReportPage();

// The charts' library; both are empty if guestmm was built without it.
std::string_view ReplayReportChartsScript();
std::string_view ReplayReportChartsStyle();

}  // namespace guestmm

#endif  // GUESTMM_SRC_EXPERIMENT_REPORT_REPLAY_REPORT_PARTS_H_
