#include "guestmm/trace/recording.h"

#include <filesystem>
#include <memory>
#include <string_view>
#include <system_error>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "src/trace/byte_source.h"
#include "src/trace/csv_files.h"
#include "src/trace/find_trace.h"
#include "src/trace/line_reader.h"
#include "src/trace/list_events.h"
#include "src/trace/memory_changes.h"
#include "src/trace/ordered_reader.h"
#include "src/trace/proc_files.h"
#include "src/trace/recording_check.h"

namespace guestmm {
namespace {

using trace::ByteSource;
using trace::LineReader;

// Reads the file at `path`, unless it is empty, into `value` with
// `read(ByteSource)`.
template <typename T, typename Read>
absl::Status ReadBytes(const std::string& path, Read read, T& value) {
  if (path.empty()) return absl::OkStatus();
  // A FIFO would be waited for.
  std::error_code ignored;
  if (!std::filesystem::is_regular_file(path, ignored)) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": must be a regular file"));
  }
  absl::StatusOr<std::unique_ptr<ByteSource>> bytes = trace::OpenBytes(path);
  if (!bytes.ok()) return bytes.status();
  auto result = read(*std::move(bytes));
  if (!result.ok()) return result.status();
  value = *std::move(result);
  return absl::OkStatus();
}

// Adds a doubt for each of `traces` that is empty, unless all are.
absl::Status DoubtEmptyTraces(const std::vector<std::string>& traces,
                              std::vector<std::string>& doubts) {
  // A pipe's bytes can be read only once.
  if (traces.size() < 2) return absl::OkStatus();
  std::vector<std::string> empty;
  for (const std::string& path : traces) {
    std::error_code error;
    if (!std::filesystem::is_regular_file(path, error)) continue;
    const absl::StatusOr<std::unique_ptr<ByteSource>> bytes =
        trace::OpenBytes(path);
    if (!bytes.ok()) return bytes.status();
    char first = 0;
    const absl::StatusOr<size_t> got = (*bytes)->Read(&first, 1);
    if (got.ok() && *got == 0) {
      empty.push_back(path +
                      ": is empty: its CPU had no events, or they are "
                      "missing");
    }
  }
  if (empty.size() == traces.size()) return absl::OkStatus();
  doubts.insert(doubts.end(), empty.begin(), empty.end());
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<Recording> ReadRecording(const std::string& path,
                                        std::vector<GpaRange> memory) {
  std::error_code ignored;
  if (!std::filesystem::exists(path, ignored)) {
    return absl::NotFoundError(absl::StrCat(
        path, ": must be a trace or a recording's folder; none is there"));
  }
  const bool is_folder = std::filesystem::is_directory(path, ignored);
  absl::StatusOr<std::string> trace =
      is_folder ? trace::FindTrace(path) : absl::StatusOr<std::string>(path);
  if (!trace.ok()) return trace.status();
  Recording recording;
  recording.trace_path = *std::move(trace);
  recording.memory_given = !memory.empty();
  recording.memory = std::move(memory);
  absl::StatusOr<std::vector<std::string>> by_cpu =
      trace::PerCpuTraces(recording.trace_path);
  if (!by_cpu.ok()) return by_cpu.status();
  recording.files = *std::move(by_cpu);
  if (recording.files.empty()) recording.files = {recording.trace_path};
  absl::Status status = DoubtEmptyTraces(recording.files, recording.doubts);
  const std::filesystem::path given(path);
  const std::filesystem::path folder = is_folder ? given : given.parent_path();
  const auto find = [&](const std::string& name) {
    const absl::StatusOr<std::string> found = trace::FindFile(folder, name);
    status.Update(found.status());
    if (!found.ok() || found->empty()) return std::string();
    recording.files.push_back(*found);
    return *found;
  };
  // ReadBytes, with `read(LineReader&)`.
  const auto read_lines = [&](const std::string& file, auto read, auto& value) {
    return ReadBytes(
        file,
        [&](std::unique_ptr<ByteSource> bytes) {
          LineReader lines(std::move(bytes), file);
          auto result = read(lines);
          if (!lines.complete()) {
            recording.doubts.push_back(
                lines.Place() +
                ": has no end of a line: the file may be cut off there");
          }
          return result;
        },
        value);
  };
  recording.list_events_path = find("trace.extra");
  const trace::RecordingPlaces places = {
      .memory = recording.memory_given ? "--memory" : find("iomem"),
      .zoneinfo = find("zoneinfo.start"),
      .kpageflags = find("kpageflags.start"),
      .zoneinfo_at_end = find("zoneinfo.end"),
      .kpageflags_at_end = find("kpageflags.end")};
  std::optional<std::vector<GpaRange>> memory_at_end;
  if (!recording.memory_given) {
    status.Update(
        read_lines(places.memory, trace::ReadIomem, recording.memory));
    status.Update(
        read_lines(find("iomem.end"), trace::ReadIomem, memory_at_end));
  }
  status.Update(
      read_lines(find("plug.csv"), trace::ReadPlugs, recording.plugs));
  uint64_t layout = 1;
  status.Update(read_lines(find("layout"), trace::ReadLayout, layout));
  uint64_t page_size = kPageSize;
  status.Update(read_lines(find("page_size"), trace::ReadPageSize, page_size));
  status.Update(read_lines(find("uname"), trace::ReadUname, recording.kernel));
  status.Update(
      read_lines(places.zoneinfo, trace::ReadZoneinfo, recording.zones));
  status.Update(read_lines(places.zoneinfo_at_end, trace::ReadZoneinfo,
                           recording.zones_at_end));
  status.Update(ReadBytes(
      places.kpageflags,
      [&](const std::unique_ptr<ByteSource>& bytes) {
        return trace::ReadKpageflags(*bytes, places.kpageflags);
      },
      recording.first));
  status.Update(read_lines(find("buddyinfo.log"), trace::ReadBuddyinfo,
                           recording.buddyinfo));
  std::optional<trace::Window> window;
  status.Update(read_lines(find("window.csv"), trace::ReadWindow, window));
  std::optional<RecordedPages> last;
  status.Update(ReadBytes(
      places.kpageflags_at_end,
      [&](const std::unique_ptr<ByteSource>& bytes) {
        return trace::ReadKpageflags(*bytes, places.kpageflags_at_end);
      },
      last));
  if (last) status.Update(trace::CheckPagesAtEnd(recording, *last, places));
  if (status.ok()) trace::FindMemoryChanges(memory_at_end, last, recording);
  status.Update(read_lines(
      find("reports.csv"),
      [&](LineReader& lines) {
        return trace::ReadReports(lines, recording.memory_given
                                             ? std::vector<GpaRange>{}
                                             : recording.AllMemory());
      },
      recording.reports));
  status.Update(
      read_lines(find("rss.csv"), trace::ReadResident, recording.resident));
  if (status.ok()) status = trace::CheckAgreement(recording, places);
  if (!status.ok()) return status;
  if (window) {
    recording.start = window->start;
    recording.end = window->end;
  }
  return recording;
}

absl::StatusOr<std::unique_ptr<TraceReader>> OpenTrace(
    const Recording& recording, const TraceReadOptions& options) {
  absl::StatusOr<std::unique_ptr<TraceReader>> reader =
      OpenTrace(recording.trace_path, options);
  const std::string& lists = recording.list_events_path;
  if (!reader.ok() || lists.empty()) return reader;
  absl::StatusOr<std::unique_ptr<ByteSource>> bytes = trace::OpenBytes(lists);
  if (!bytes.ok()) return bytes.status();
  return trace::WithListEvents(*std::move(reader),
                               trace::InOrder(trace::MakeListEventsReader(
                                   *std::move(bytes), lists, options)));
}

}  // namespace guestmm
