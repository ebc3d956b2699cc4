#include "guestmm/trace/trace_reader.h"

#include <algorithm>
#include <filesystem>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "src/trace/byte_source.h"
#include "src/trace/cpu_runs.h"
#include "src/trace/find_trace.h"
#include "src/trace/open_trace.h"
#include "src/trace/ordered_reader.h"
#include "src/trace/trace_block.h"

namespace guestmm {
namespace {

// True if the text that starts like that is UTF-16: with a byte order mark, or
// its characters of ASCII have their zero bytes all behind or all before them.
bool IsUtf16(std::string_view start) {
  if (start.starts_with("\xff\xfe") || start.starts_with("\xfe\xff")) {
    return true;
  }
  constexpr size_t kEnough = 64;
  const size_t bytes = std::min(start.size(), kEnough) / 2 * 2;
  size_t zeroes[2] = {};
  for (size_t i = 0; i < bytes; ++i) zeroes[i % 2] += start[i] == '\0' ? 1 : 0;
  return bytes > 0 && std::min(zeroes[0], zeroes[1]) == 0 &&
         std::max(zeroes[0], zeroes[1]) == bytes / 2;
}

absl::StatusOr<std::unique_ptr<TraceReader>> OpenRuns(
    const std::string& path, const std::vector<trace::CpuRun>& runs,
    const TraceReadOptions& options) {
  std::vector<std::unique_ptr<TraceReader>> readers;
  readers.reserve(runs.size());
  for (const trace::CpuRun& run : runs) {
    absl::StatusOr<std::unique_ptr<trace::ByteSource>> bytes =
        trace::OpenRange(path, run.begin, run.end);
    if (!bytes.ok()) return bytes.status();
    readers.push_back(trace::InOrder(
        trace::MakeTextReader(*std::move(bytes), path, options)));
  }
  std::string format =
      absl::StrCat("text, ", runs.size(), " CPUs one after another");
  return trace::Merged(std::move(readers), std::move(format));
}

}  // namespace

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
  const bool is_utf16 = IsUtf16(start);
  // A trace file truncated within its magic number, but not an empty text.
  const bool cut_off =
      !binary && !start.empty() && kTraceFileMagic.starts_with(start);
  bytes = PutBack(std::move(start), std::move(bytes));
  if (binary || cut_off) {
    absl::StatusOr<std::unique_ptr<TraceReader>> reader =
        MakeFileReader(std::move(bytes), name);
    if (!reader.ok()) return reader.status();
    return InOrder(*std::move(reader));
  }
  if (!text) {
    return absl::InvalidArgumentError(
        absl::StrCat(name,
                     ": must be a trace: the text of ftrace, trace-cmd report "
                     "or perf script, "
                     "or the binary form; plain, gzip or zstd",
                     is_utf16 ? "; it is UTF-16" : ""));
  }
  return InOrder(MakeTextReader(std::move(bytes), name, options));
}

}  // namespace trace

TraceReadCounters& TraceReadCounters::operator+=(
    const TraceReadCounters& other) {
  events += other.events;
  lost += other.lost;
  bad_lines += other.bad_lines;
  batched_frees += other.batched_frees;
  failed_allocs += other.failed_allocs;
  other_lines += other.other_lines;
  unended_lines += other.unended_lines;
  cut_lines += other.cut_lines;
  unknown_gfp += other.unknown_gfp;
  reordered += other.reordered;
  late += other.late;
  late_by = std::max(late_by, other.late_by);
  return *this;
}

absl::StatusOr<std::unique_ptr<TraceReader>> OpenTrace(
    const std::string& path, const TraceReadOptions& options) {
  std::error_code ignored;
  if (std::filesystem::is_directory(path, ignored)) {
    const absl::StatusOr<std::string> found = trace::FindTrace(path);
    if (!found.ok()) return found.status();
    const auto by_cpu = trace::PerCpuTraces(*found);
    if (!by_cpu.ok()) return by_cpu.status();
    if (!by_cpu->empty()) return OpenTraces(*by_cpu, options);
    return OpenTrace(*found, options);
  }
  const auto runs = trace::FindCpuRuns(path, options);
  if (!runs.empty()) return OpenRuns(path, runs, options);
  absl::StatusOr<std::unique_ptr<trace::ByteSource>> bytes =
      trace::OpenBytes(path);
  if (!bytes.ok()) return bytes.status();
  return trace::OpenTraceFrom(*std::move(bytes), path, options);
}

absl::StatusOr<std::unique_ptr<TraceReader>> OpenTraces(
    std::span<const std::string> paths, const TraceReadOptions& options) {
  if (paths.size() == 1) return OpenTrace(paths.front(), options);
  std::vector<std::unique_ptr<TraceReader>> readers;
  readers.reserve(paths.size());
  for (const std::string& path : paths) {
    absl::StatusOr<std::unique_ptr<TraceReader>> reader =
        OpenTrace(path, options);
    if (!reader.ok()) return reader.status();
    readers.push_back(*std::move(reader));
  }
  std::string format = absl::StrCat(readers.size(), " files, the first ",
                                    readers.front()->format());
  return trace::Merged(std::move(readers), std::move(format));
}

}  // namespace guestmm
