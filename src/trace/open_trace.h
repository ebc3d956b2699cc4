#ifndef GUESTMM_SRC_TRACE_OPEN_TRACE_H_
#define GUESTMM_SRC_TRACE_OPEN_TRACE_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "guestmm/trace/trace_reader.h"
#include "src/trace/byte_source.h"

namespace guestmm::trace {

// OpenTrace of bytes from elsewhere than a file. Errors call them `name`.
absl::StatusOr<std::unique_ptr<TraceReader>> OpenTraceFrom(
    std::unique_ptr<ByteSource> bytes, const std::string& name,
    const TraceReadOptions& options = {});

// Of text, whatever it begins with.
std::unique_ptr<TraceReader> MakeTextReader(std::unique_ptr<ByteSource> bytes,
                                            const std::string& name,
                                            const TraceReadOptions& options);

// Of the binary form, whose magic number was seen.
absl::StatusOr<std::unique_ptr<TraceReader>> MakeFileReader(
    std::unique_ptr<ByteSource> bytes, const std::string& name);

}  // namespace guestmm::trace

#endif  // GUESTMM_SRC_TRACE_OPEN_TRACE_H_
