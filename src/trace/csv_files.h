#ifndef GUESTMM_SRC_TRACE_CSV_FILES_H_
#define GUESTMM_SRC_TRACE_CSV_FILES_H_

// Readers of the CSV files of a recording. Numbers may be as Python, awk and
// JavaScript print them, with spaces around them; times are rounded to
// nanoseconds. InvalidArgument names the place of a line that is malformed or
// out of bounds. Other errors are the source's.

#include <vector>

#include "absl/status/statusor.h"
#include "guestmm/base/clock.h"
#include "guestmm/base/units.h"
#include "guestmm/trace/recording.h"
#include "src/trace/line_reader.h"

namespace guestmm::trace {

// reports.csv, ascending by time. `memory` is all that the guest ever has,
// ascending; empty if it is not known.
absl::StatusOr<std::vector<Recording::Report>> ReadReports(
    LineReader& lines, const std::vector<GpaRange>& memory);
// plug.csv, ascending by time. A negative number of bytes is of memory that was
// unplugged.
absl::StatusOr<std::vector<Recording::Plug>> ReadPlugs(LineReader& lines);
// rss.csv, ascending by time.
absl::StatusOr<std::vector<Recording::Resident>> ReadResident(
    LineReader& lines);

struct Window {
  Nanoseconds start{0};
  Nanoseconds end{0};
};
// window.csv.
absl::StatusOr<Window> ReadWindow(LineReader& lines);

}  // namespace guestmm::trace

#endif  // GUESTMM_SRC_TRACE_CSV_FILES_H_
