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

// The same, with `read(LineReader&)`.
template <typename T, typename Read>
absl::Status ReadLines(const std::string& path, Read read, T& value) {
  return ReadBytes(
      path,
      [&](std::unique_ptr<ByteSource> bytes) {
        LineReader lines(std::move(bytes), path);
        return read(lines);
      },
      value);
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
  recording.files = trace::PerCpuTraces(recording.trace_path);
  if (recording.files.empty()) recording.files = {recording.trace_path};
  const std::filesystem::path given(path);
  const std::filesystem::path folder = is_folder ? given : given.parent_path();
  const auto find = [&](const std::string& name) {
    const std::string found = trace::FindFile(folder, name);
    if (!found.empty()) recording.files.push_back(found);
    return found;
  };
  recording.list_events_path = find("trace.extra");
  const trace::RecordingPlaces places = {
      .memory = recording.memory_given ? "--memory" : find("iomem"),
      .zoneinfo = find("zoneinfo.start"),
      .kpageflags = find("kpageflags.start")};
  absl::Status status;
  std::optional<std::vector<GpaRange>> memory_at_end;
  if (!recording.memory_given) {
    status = ReadLines(places.memory, trace::ReadIomem, recording.memory);
    status.Update(
        ReadLines(find("iomem.end"), trace::ReadIomem, memory_at_end));
  }
  status.Update(ReadLines(find("plug.csv"), trace::ReadPlugs, recording.plugs));
  uint64_t layout = 1;
  status.Update(ReadLines(find("layout"), trace::ReadLayout, layout));
  uint64_t page_size = kPageSize;
  status.Update(ReadLines(find("page_size"), trace::ReadPageSize, page_size));
  status.Update(ReadLines(find("uname"), trace::ReadUname, recording.kernel));
  status.Update(
      ReadLines(places.zoneinfo, trace::ReadZoneinfo, recording.zones));
  status.Update(ReadLines(find("zoneinfo.end"), trace::ReadZoneinfo,
                          recording.zones_at_end));
  status.Update(ReadBytes(
      places.kpageflags,
      [&](const std::unique_ptr<ByteSource>& bytes) {
        return trace::ReadKpageflags(*bytes, places.kpageflags);
      },
      recording.first));
  status.Update(ReadLines(find("buddyinfo.log"), trace::ReadBuddyinfo,
                          recording.buddyinfo));
  std::optional<trace::Window> window;
  status.Update(ReadLines(find("window.csv"), trace::ReadWindow, window));
  std::optional<RecordedPages> last;
  const std::string last_path = find("kpageflags.end");
  status.Update(ReadBytes(
      last_path,
      [&](const std::unique_ptr<ByteSource>& bytes) {
        return trace::ReadKpageflags(*bytes, last_path);
      },
      last));
  if (status.ok()) trace::FindMemoryChanges(memory_at_end, last, recording);
  status.Update(ReadLines(
      find("reports.csv"),
      [&](LineReader& lines) {
        return trace::ReadReports(lines, recording.memory_given
                                             ? std::vector<GpaRange>{}
                                             : recording.AllMemory());
      },
      recording.reports));
  status.Update(
      ReadLines(find("rss.csv"), trace::ReadResident, recording.resident));
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
