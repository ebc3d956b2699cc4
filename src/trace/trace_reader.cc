#include "guestmm/trace/trace_reader.h"

#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "src/trace/byte_source.h"
#include "src/trace/open_trace.h"
#include "src/trace/trace_block.h"

namespace guestmm {
namespace trace {

absl::StatusOr<std::unique_ptr<TraceReader>> OpenTraceFrom(
    std::unique_ptr<ByteSource> bytes, const std::string& name,
    const TraceReadOptions& options) {
  std::string start(size_t{4} << 10, '\0');
  const absl::StatusOr<size_t> got =
      ReadFully(*bytes, start.data(), start.size());
  if (!got.ok()) return got.status();
  start.resize(*got);
  const bool binary = start.starts_with(kTraceFileMagic);
  const bool text = start.find('\0') == std::string::npos;
  // A trace file truncated within its magic number, but not an empty text.
  const bool cut_off =
      !binary && !start.empty() && kTraceFileMagic.starts_with(start);
  bytes = PutBack(std::move(start), std::move(bytes));
  if (binary || cut_off) return MakeFileReader(std::move(bytes), name);
  if (!text) {
    return absl::InvalidArgumentError(
        absl::StrCat(name,
                     ": must be a trace: the text of ftrace, trace-cmd report "
                     "or perf script, "
                     "or the binary form; plain, gzip or zstd"));
  }
  return MakeTextReader(std::move(bytes), name, options);
}

}  // namespace trace

absl::StatusOr<std::unique_ptr<TraceReader>> OpenTrace(
    const std::string& path, const TraceReadOptions& options) {
  absl::StatusOr<std::unique_ptr<trace::ByteSource>> bytes =
      trace::OpenBytes(path);
  if (!bytes.ok()) return bytes.status();
  return trace::OpenTraceFrom(*std::move(bytes), path, options);
}

}  // namespace guestmm
