#ifndef GUESTMM_SRC_TRACE_PROC_FILES_H_
#define GUESTMM_SRC_TRACE_PROC_FILES_H_

// Readers of the files of a guest's /proc in a recording. InvalidArgument names
// the place of a line that is malformed or has a value that no guest has. Other
// errors are the source's.

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "guestmm/base/units.h"
#include "guestmm/trace/recording.h"
#include "src/trace/byte_source.h"
#include "src/trace/line_reader.h"

namespace guestmm::trace {

// One past the highest guest-physical address.
inline constexpr uint64_t kGuestAddresses = uint64_t{1} << 52;

// The number of a recording's list of files (docs/record-a-trace.md): 1, which
// is that of recordings without it, to kLatestLayout.
inline constexpr uint64_t kLatestLayout = 2;
absl::StatusOr<uint64_t> ReadLayout(LineReader& lines);
// `getconf PAGESIZE`: the bytes of a page. Only kPageSize is accepted.
absl::StatusOr<uint64_t> ReadPageSize(LineReader& lines);
// `uname -a` or `uname -r`: the kernel's release, "6.12.95+deb12-amd64".
absl::StatusOr<std::string> ReadUname(LineReader& lines);
// /proc/iomem: RAM, ascending, with adjoining ranges joined. A range may lie
// within another one, as that of hotplugged memory does, or be listed again.
absl::StatusOr<std::vector<GpaRange>> ReadIomem(LineReader& lines);
// /proc/zoneinfo.
absl::StatusOr<std::vector<RecordedZone>> ReadZoneinfo(LineReader& lines);
// /proc/kpageflags; `name` is the file's, for errors.
absl::StatusOr<RecordedPages> ReadKpageflags(ByteSource& bytes,
                                             const std::string& name);
// /proc/uptime and /proc/buddyinfo, alternating.
absl::StatusOr<std::vector<RecordedBuddyInfo>> ReadBuddyinfo(LineReader& lines);

}  // namespace guestmm::trace

#endif  // GUESTMM_SRC_TRACE_PROC_FILES_H_
