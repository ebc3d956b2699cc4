#ifndef GUESTMM_SRC_TRACE_PROC_FILES_H_
#define GUESTMM_SRC_TRACE_PROC_FILES_H_

// The files of a guest's /proc that a recording has. A line that is malformed,
// or says what no guest has, is InvalidArgument, with its place; else the error
// of the source.

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "guestmm/base/units.h"
#include "guestmm/trace/recording.h"
#include "src/trace/byte_source.h"
#include "src/trace/line_reader.h"

namespace guestmm::trace {

// Beyond what a guest's addresses go.
inline constexpr uint64_t kGuestAddresses = uint64_t{1} << 52;

// /proc/iomem: RAM, ascending, ranges that touch joined.
absl::StatusOr<std::vector<GpaRange>> ReadIomem(LineReader& lines);
// /proc/zoneinfo.
absl::StatusOr<std::vector<RecordedZone>> ReadZoneinfo(LineReader& lines);
// /proc/kpageflags; `name` is the file's, for errors.
absl::StatusOr<RecordedPages> ReadKpageflags(ByteSource& bytes,
                                             const std::string& name);
// /proc/uptime and /proc/buddyinfo, again and again.
absl::StatusOr<std::vector<RecordedBuddyInfo>> ReadBuddyinfo(LineReader& lines);

}  // namespace guestmm::trace

#endif  // GUESTMM_SRC_TRACE_PROC_FILES_H_
