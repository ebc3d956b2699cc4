#ifndef GUESTMM_SRC_TRACE_OPEN_TRACE_H_
#define GUESTMM_SRC_TRACE_OPEN_TRACE_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "guestmm/trace/trace_reader.h"
#include "src/trace/byte_source.h"

namespace guestmm::trace {

// OpenTrace for bytes from any source, which errors call `name`.
absl::StatusOr<std::unique_ptr<TraceReader>> OpenTraceFrom(
    std::unique_ptr<ByteSource> bytes, const std::string& name,
    const TraceReadOptions& options = {});

// Reads text; does not detect the format.
std::unique_ptr<TraceReader> MakeTextReader(std::unique_ptr<ByteSource> bytes,
                                            const std::string& name,
                                            const TraceReadOptions& options);

// Reads the binary form. REQUIRES: it begins with the magic number.
absl::StatusOr<std::unique_ptr<TraceReader>> MakeFileReader(
    std::unique_ptr<ByteSource> bytes, const std::string& name);

}  // namespace guestmm::trace

#endif  // GUESTMM_SRC_TRACE_OPEN_TRACE_H_
