#include "tools/guestmm/trace_command.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <filesystem>
#include <iostream>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <system_error>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "guestmm/base/units.h"
#include "guestmm/trace/trace_event.h"
#include "guestmm/trace/trace_file.h"
#include "guestmm/trace/trace_reader.h"
#include "tools/guestmm/arguments.h"
#include "tools/guestmm/exit_status.h"
#include "tools/guestmm/table.h"

namespace guestmm::tools {
namespace {

struct TraceArguments {
  std::string in;
  std::string out;
  std::optional<uint64_t> skip_bad;
  std::optional<uint64_t> limit;

  absl::StatusOr<std::unique_ptr<TraceReader>> Open() const {
    return OpenTrace(in, {.skip_bad = skip_bad.value_or(0)});
  }
};

std::string Plural(uint64_t n, const std::string& one) {
  return absl::StrCat(n, " ", one, n == 1 ? "" : "s");
}

// Prints the counters of lost events and malformed lines, if any.
void PrintLosses(const TraceReadCounters& counters) {
  if (counters.lost != 0) {
    std::cerr << "guestmm trace: the trace lost "
              << Plural(counters.lost, "event") << "\n";
  }
  if (counters.bad_lines != 0) {
    std::cerr << "guestmm trace: skipped "
              << Plural(counters.bad_lines, "malformed line") << "\n";
  }
}

int RunConvert(const TraceArguments& arguments) {
  const auto reader = arguments.Open();
  if (!reader.ok()) return FailReading("trace convert", reader.status());
  const auto writer = TraceFileWriter::Create(
      arguments.out,
      {.source = std::filesystem::path(arguments.in).filename().string()});
  if (!writer.ok()) return Fail("trace convert", writer.status());

  absl::Status read;
  absl::Status written;
  while (written.ok()) {
    const auto event = (*reader)->Next();
    read = event.status();
    if (!event.ok() || !event->has_value()) break;
    written = (*writer)->Add(**event);
  }
  // The readable part of a damaged trace is kept, unless it has no event.
  if (!read.ok() && (*writer)->events() == 0) {
    return FailReading("trace convert", read);
  }
  if (written.ok()) written = (*writer)->Finish((*reader)->counters());
  if (!written.ok()) return Fail("trace convert", written);
  PrintLosses((*reader)->counters());
  const uint64_t events = (*writer)->events();
  if (!read.ok()) {
    FailReading("trace convert", read);
    std::cerr << "guestmm trace convert: " << arguments.out << " has the "
              << Plural(events, "event") << " before that\n";
    return kExitFailure;
  }
  std::cout << arguments.out << ": " << Plural(events, "event") << ", "
            << FormatBytes((*writer)->file_bytes()) << "\n";
  return kExitSuccess;
}

// A summary of a trace.
struct TraceContents {
  struct ByOrder {
    uint64_t allocs = 0;
    uint64_t frees = 0;
  };
  std::array<ByOrder, 11> orders;
  std::set<uint16_t> cpus;
  std::optional<Nanoseconds> first;
  Nanoseconds last{0};

  void Add(const TraceEvent& event) {
    ByOrder& order = orders[static_cast<size_t>(event.order.value())];
    ++(event.kind == TraceEvent::Kind::kAlloc ? order.allocs : order.frees);
    cpus.insert(event.cpu);
    // The kernel merges its CPUs' buffers by time, except events it reads late.
    first = std::min(first.value_or(event.time), event.time);
    last = std::max(first == event.time ? event.time : last, event.time);
  }
};

std::string Seconds(Nanoseconds time) {
  return absl::StrFormat("%.6f s", ToSeconds(time));
}

std::string BytesPerEvent(uint64_t bytes, uint64_t events) {
  if (events == 0) return "-";
  return absl::StrFormat(
      "%.2f", static_cast<double>(bytes) / static_cast<double>(events));
}

void PrintContents(const std::string& path, const TraceReader& reader,
                   const TraceContents& contents) {
  const TraceReadCounters counters = reader.counters();
  TraceContents::ByOrder all;
  for (const TraceContents::ByOrder& order : contents.orders) {
    all.allocs += order.allocs;
    all.frees += order.frees;
  }
  std::error_code no_size;
  const uint64_t file_bytes = std::filesystem::file_size(path, no_size);
  const Nanoseconds first = contents.first.value_or(Nanoseconds(0));
  Table table({path, ""});
  table.AddRow({"format", reader.format()});
  table.AddRow({"events", absl::StrCat(counters.events)});
  table.AddRow({"allocations", absl::StrCat(all.allocs)});
  table.AddRow({"frees", absl::StrCat(all.frees)});
  table.AddRow({"first event", Seconds(first)});
  table.AddRow({"last event", Seconds(contents.last)});
  table.AddRow({"time", Seconds(contents.last - first)});
  table.AddRow({"cpus", absl::StrCat(contents.cpus.size())});
  table.AddRow({"bytes per event, in the file",
                no_size ? "-" : BytesPerEvent(file_bytes, counters.events)});
  table.AddRow({"bytes per event, before compression",
                BytesPerEvent(reader.bytes(), counters.events)});
  table.AddRow({"lost events", absl::StrCat(counters.lost)});
  table.AddRow({"malformed lines", absl::StrCat(counters.bad_lines)});
  table.AddRow({"failed allocations", absl::StrCat(counters.failed_allocs)});
  table.AddRow(
      {"batched frees (repeated)", absl::StrCat(counters.batched_frees)});
  table.AddRow({"other lines", absl::StrCat(counters.other_lines)});
  std::cout << table << "\n";

  Table orders({"order", "allocations", "frees"});
  for (size_t i = 0; i < contents.orders.size(); ++i) {
    const TraceContents::ByOrder& order = contents.orders[i];
    if (order.allocs + order.frees == 0) continue;
    orders.AddRow({absl::StrCat(i), absl::StrCat(order.allocs),
                   absl::StrCat(order.frees)});
  }
  std::cout << orders;
}

int RunInfo(const TraceArguments& arguments) {
  const auto reader = arguments.Open();
  if (!reader.ok()) return FailReading("trace info", reader.status());
  TraceContents contents;
  auto event = (*reader)->Next();
  for (; event.ok() && event->has_value(); event = (*reader)->Next()) {
    contents.Add(**event);
  }
  PrintContents(arguments.in, **reader, contents);
  return event.ok() ? kExitSuccess : FailReading("trace info", event.status());
}

int RunPrint(const TraceArguments& arguments) {
  const auto reader = arguments.Open();
  if (!reader.ok()) return FailReading("trace print", reader.status());
  const uint64_t limit = arguments.limit.value_or(~uint64_t{0});
  for (uint64_t i = 0; i < limit; ++i) {
    const auto event = (*reader)->Next();
    if (!event.ok()) {
      std::cout.flush();
      return FailReading("trace print", event.status());
    }
    if (!event->has_value()) break;
    std::cout << **event << "\n";
  }
  PrintLosses((*reader)->counters());
  return kExitSuccess;
}

}  // namespace

std::function<int()> AddTraceCommand(CLI::App& app) {
  CLI::App& command = *app.add_subcommand(
      "trace",
      "Reads traces of a real guest's page allocator, by its tracepoints "
      "mm_page_alloc and mm_page_free: the text of ftrace, trace-cmd report or "
      "perf script, or the compact binary form, each plain, gzip or zstd.");
  command.require_subcommand(1);
  const auto arguments = std::make_shared<TraceArguments>();
  const auto add = [&](const std::string& name, const std::string& in,
                       const std::string& help) {
    CLI::App& added = *command.add_subcommand(name, help);
    added.add_option(in, arguments->in, "A trace")->required();
    AddInteger(added, "--skip-bad", 0, ~uint64_t{0}, arguments->skip_bad,
               "The most malformed lines to skip [0]");
    return &added;
  };
  CLI::App* const convert =
      add("convert", "IN",
          "Converts a trace to the binary form, of a few bytes per event.");
  convert->add_option("OUT", arguments->out, "The file to write")->required();
  CLI::App* const info = add("info", "FILE", "Summarizes a trace.");
  CLI::App* const print =
      add("print", "FILE", "Prints a trace's events as text, one per line.");
  AddInteger(*print, "--limit", 0, ~uint64_t{0}, arguments->limit,
             "The most events to print [all]");
  return [=] {
    if (convert->parsed()) return RunConvert(*arguments);
    if (info->parsed()) return RunInfo(*arguments);
    return RunPrint(*arguments);
  };
}

}  // namespace guestmm::tools
