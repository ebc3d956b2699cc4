#include <cstdint>
#include <filesystem>
#include <iostream>
#include <memory>
#include <optional>
#include <string>
#include <system_error>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "guestmm/base/units.h"
#include "guestmm/trace/recording.h"
#include "guestmm/trace/trace_event.h"
#include "guestmm/trace/trace_file.h"
#include "guestmm/trace/trace_reader.h"
#include "tools/guestmm/arguments.h"
#include "tools/guestmm/commands.h"
#include "tools/guestmm/exit_status.h"
#include "tools/guestmm/terminal.h"
#include "tools/guestmm/trace_info.h"

namespace guestmm::tools {
namespace {

struct TraceArguments {
  std::vector<std::string> in;
  std::string out;
  std::optional<uint64_t> skip_bad;
  std::optional<uint64_t> limit;
  bool json = false;

  // A folder is a recording, whose kernel `kernel` is set to.
  absl::StatusOr<std::unique_ptr<TraceReader>> Open(
      std::string* kernel = nullptr) const {
    const TraceReadOptions options = {.skip_bad = skip_bad.value_or(0)};
    std::error_code ignored;
    if (in.size() > 1 || !std::filesystem::is_directory(in.front(), ignored)) {
      return OpenTraces(in, options);
    }
    const absl::StatusOr<Recording> recording = ReadRecording(in.front());
    if (!recording.ok()) return recording.status();
    for (const std::string& doubt : recording->doubts) {
      TellError("guestmm trace: " + doubt);
    }
    if (kernel != nullptr) *kernel = recording->kernel;
    return OpenTrace(*recording, options);
  }
};

std::string Plural(uint64_t n, const std::string& one) {
  return absl::StrCat(n, " ", one, n == 1 ? "" : "s");
}

// Prints the counters of what a trace lacks or has in the wrong order, if any.
void PrintLosses(const TraceReadCounters& counters) {
  if (counters.lost != 0) {
    TellError("guestmm trace: the trace lost " +
              Plural(counters.lost, "event"));
  }
  if (counters.bad_lines != 0) {
    TellError("guestmm trace: skipped " +
              Plural(counters.bad_lines, "malformed line"));
  }
  if (counters.late != 0) {
    TellError(absl::StrCat("guestmm trace: time goes back ",
                           Plural(counters.late, "time"), ", by up to ",
                           PreciseSeconds(counters.late_by)));
  }
}

// The source that a converted trace names: the name of its first file.
std::string SourceOf(const std::vector<std::string>& paths) {
  std::vector<std::string> names = paths;
  std::filesystem::path first(paths.front());
  // "procs" of "procs/".
  if (!first.has_filename()) first = first.parent_path();
  names.front() = first.filename().string();
  return NameOfPaths(names);
}

int RunConvert(const TraceArguments& arguments) {
  const auto reader = arguments.Open();
  if (!reader.ok()) return FailReading("trace convert", reader.status());
  const auto writer = TraceFileWriter::Create(
      arguments.out, {.source = SourceOf(arguments.in)});
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
    TellError(absl::StrCat("guestmm trace convert: ", arguments.out,
                           " has the ", Plural(events, "event"),
                           " before that"));
    return kExitFailure;
  }
  const bool is_stdout = arguments.out == "/dev/stdout";
  (is_stdout ? std::cerr : std::cout)
      << Wrap(absl::StrCat(arguments.out, ": ", Plural(events, "event"), ", ",
                           FormatBytes((*writer)->file_bytes())),
              OutputColumns())
      << "\n";
  return kExitSuccess;
}

int RunInfo(const TraceArguments& arguments) {
  std::string kernel;
  const auto reader = arguments.Open(&kernel);
  if (!reader.ok()) return FailReading("trace info", reader.status());
  const TraceInfo info = ReadTraceInfo(**reader, arguments.in, kernel);
  if (arguments.json) {
    std::cout << TraceInfoJson(info);
  } else {
    PrintTraceInfo(info);
  }
  return info.status.ok() ? kExitSuccess
                          : FailReading("trace info", info.status);
}

int RunPrint(const TraceArguments& arguments) {
  const auto reader = arguments.Open();
  if (!reader.ok()) return FailReading("trace print", reader.status());
  const uint64_t limit = arguments.limit.value_or(~uint64_t{0});
  for (uint64_t i = 0; i < limit && std::cout; ++i) {
    const auto event = (*reader)->Next();
    if (!event.ok()) return FailReading("trace print", event.status());
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
      "mm_page_alloc, mm_page_free, mm_page_alloc_zone_locked and "
      "mm_page_pcpu_drain: the text of ftrace, trace-cmd report or "
      "perf script, or the compact binary form, each plain, gzip or zstd.");
  command.require_subcommand(1);
  const auto arguments = std::make_shared<TraceArguments>();
  const auto add = [&](const std::string& name, const std::string& paths,
                       const std::string& what, const std::string& help) {
    CLI::App& added = *command.add_subcommand(name, help);
    added.add_option(paths, arguments->in, what)->type_name("")->required();
    AddInteger(added, "--skip-bad", 0, ~uint64_t{0}, arguments->skip_bad,
               "The most malformed lines to skip [0]");
    return &added;
  };
  constexpr char kTraces[] =
      "A trace, the folder of a recording, or several of one guest, merged by "
      "time; -: stdin";
  CLI::App* const convert =
      add("convert", "PATHS",
          "IN... OUT: a trace, the folder of a recording, or several of one "
          "guest, merged by time; and last the file to write; -: stdin or "
          "stdout",
          "Converts a trace to the binary form, of a few bytes per event.");
  convert->footer(
      "guestmm trace convert trace.txt trace.gmtrace\n"
      "zcat trace.gz | guestmm trace convert - trace.gmtrace\n"
      "guestmm trace convert per_cpu/cpu0/trace per_cpu/cpu1/trace "
      "trace.gmtrace");
  convert->get_option("PATHS")->expected(2, -1);
  convert->callback([arguments] {
    arguments->out = OutputPath(arguments->in.back());
    arguments->in.pop_back();
  });
  CLI::App* const info = add("info", "PATHS", kTraces, "Summarizes a trace.");
  info->footer(
      "guestmm trace info data/procs/trace.gmtrace\n"
      "zcat trace.gz | guestmm trace info -");
  AddWide(*info);
  info->add_flag("--json", arguments->json, "Print JSON in place of tables")
      ->excludes("--wide");
  CLI::App* const print = add("print", "PATHS", kTraces,
                              "Prints a trace's events as text, one per line.");
  print->footer("guestmm trace print data/procs/trace.gmtrace --limit 10");
  AddInteger(*print, "--limit", 0, ~uint64_t{0}, arguments->limit,
             "The most events to print [all]");
  return [=] {
    for (std::string& path : arguments->in) path = InputPath(path);
    if (convert->parsed()) return RunConvert(*arguments);
    if (info->parsed()) return RunInfo(*arguments);
    return RunPrint(*arguments);
  };
}

}  // namespace guestmm::tools
