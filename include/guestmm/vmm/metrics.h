#ifndef GUESTMM_VMM_METRICS_H_
#define GUESTMM_VMM_METRICS_H_

#include <string>

#include "guestmm/base/export.h"
#include "guestmm/vmm/vmm.h"

namespace GUESTMM_EXPORT guestmm {

// The counters and states of a VMM and of each guest that is connected, in the
// text format of Prometheus, version 0.0.4. The series of a guest end when it
// leaves; what it did still counts in the sums over all guests.
std::string FormatMetrics(Vmm& vmm);

// The name of a statistic in results and metrics: "swap_in", "free", …
std::string_view BalloonStatName(BalloonStat stat);
// True if its unit is the byte; else it is a count.
bool IsBytes(BalloonStat stat);

}  // namespace guestmm

#endif  // GUESTMM_VMM_METRICS_H_
