#ifndef GUESTMM_SRC_TRACE_ORDERED_READER_H_
#define GUESTMM_SRC_TRACE_ORDERED_READER_H_

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "guestmm/trace/trace_reader.h"

namespace guestmm::trace {

// The events of `reader` by time, as far as a window of 64 Ki events reaches,
// with `reordered`, `late` and `unknown_gfp` counted.
std::unique_ptr<TraceReader> InOrder(std::unique_ptr<TraceReader> reader);

// The events of several readers, each in order, merged by time. An error of one
// ends all. `format`: TraceReader::format. REQUIRES: at least one.
std::unique_ptr<TraceReader> Merged(
    std::vector<std::unique_ptr<TraceReader>> readers, std::string format);

}  // namespace guestmm::trace

#endif  // GUESTMM_SRC_TRACE_ORDERED_READER_H_
