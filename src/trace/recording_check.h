#ifndef GUESTMM_SRC_TRACE_RECORDING_CHECK_H_
#define GUESTMM_SRC_TRACE_RECORDING_CHECK_H_

#include <string>

#include "absl/status/status.h"
#include "guestmm/trace/recording.h"

namespace guestmm::trace {

// Where parts of a recording are from, for errors; empty if it has none.
struct RecordingPlaces {
  std::string memory;
  std::string zoneinfo;
  std::string kpageflags;
  std::string zoneinfo_at_end;
  std::string kpageflags_at_end;
};

// Checks that the recording's files can be of one guest, with pages of 4 KiB,
// at one moment. They are read one after another, while the guest runs, so
// free memory may differ by a quarter of all; so may zones from RAM, which
// firmware keeps some of. InvalidArgument names both places
// and both numbers; DataLoss is for a file that must have been truncated.
absl::Status CheckAgreement(const Recording& recording,
                            const RecordingPlaces& places);

// DataLoss if `last`, kpageflags.end, must have been truncated: it has fewer
// pages than the zones of zoneinfo.end reach or, without that, than
// kpageflags.start.
absl::Status CheckPagesAtEnd(const Recording& recording,
                             const RecordedPages& last,
                             const RecordingPlaces& places);

}  // namespace guestmm::trace

#endif  // GUESTMM_SRC_TRACE_RECORDING_CHECK_H_
