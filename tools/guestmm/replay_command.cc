#include <array>
#include <chrono>
#include <cstdint>
#include <filesystem>
#include <iostream>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "guestmm/base/memory_map.h"
#include "guestmm/base/option_error.h"
#include "guestmm/base/signal_cleanup.h"
#include "guestmm/experiment/replay/fidelity.h"
#include "guestmm/experiment/replay/replay.h"
#include "guestmm/experiment/replay/replay_set.h"
#include "guestmm/experiment/replay/verdict.h"
#include "guestmm/experiment/report/costs_file.h"
#include "guestmm/experiment/report/output_directory.h"
#include "guestmm/experiment/report/replay_report.h"
#include "guestmm/host/accounting/host_info.h"
#include "guestmm/machine/model/cost_model.h"
#include "guestmm/mechanism/mechanism_spec.h"
#include "guestmm/mechanism/mechanisms.h"
#include "guestmm/trace/recording.h"
#include "tools/guestmm/arguments.h"
#include "tools/guestmm/commands.h"
#include "tools/guestmm/exit_status.h"
#include "tools/guestmm/experiment_output.h"
#include "tools/guestmm/policy_arguments.h"
#include "tools/guestmm/progress.h"
#include "tools/guestmm/replay_verdict.h"
#include "tools/guestmm/table.h"
#include "tools/guestmm/terminal.h"

namespace guestmm::tools {
namespace {

struct ReplayArguments {
  std::string path;
  ReplayOptions options;
  // Only one of the two is set by the command line.
  std::vector<std::string> policies;
  std::vector<std::string> mechanisms;
  PolicyArguments policy;
  // Empty: the recording's memory map.
  MemoryMap memory;
  bool truth = false;
  std::string costs;
  ExperimentOutput output;
};

std::string Share(uint64_t part, uint64_t all) {
  if (all == 0) return "-";
  return absl::StrFormat(
      "%.2f %%", 100.0 * static_cast<double>(part) / static_cast<double>(all));
}

// The counters that are 0 for a trace that fits its recording, as text.
std::string RareCounters(const ReplayCounters& counters) {
  std::string text;
  if (counters.failed_allocations > 0) {
    absl::StrAppend(&text, "; ",
                    Share(counters.failed_allocations, counters.allocations),
                    " of allocations failed");
  }
  if (counters.outside_memory > 0) {
    absl::StrAppend(&text, "; ",
                    Share(counters.outside_memory, counters.events),
                    " of events outside the guest's memory");
  }
  if (counters.unfit_moves > 0) {
    absl::StrAppend(&text, "; ", Share(counters.unfit_moves, counters.moves),
                    " of moves between lists and zones unfit");
  }
  if (counters.bad_lines > 0) {
    absl::StrAppend(&text, "; ", counters.bad_lines,
                    " malformed lines skipped");
  }
  if (counters.unknown_gfp > 0) {
    absl::StrAppend(&text, "; ",
                    Share(counters.unknown_gfp, counters.allocations),
                    " of allocations with unknown gfp flags");
  }
  if (counters.late > 0) {
    absl::StrAppendFormat(&text, "; %d times went back, by up to %.6f s",
                          counters.late, ToSeconds(counters.late_by));
  }
  return text;
}

// A line about memory that the guest's allocator did not manage at the start;
// empty without such memory.
std::string UnmanagedLine(const UnmanagedBytes& unmanaged) {
  if (unmanaged.at_start() == 0) return "";
  std::vector<std::string> kinds;
  const auto add = [&](const char* kind, uint64_t bytes) {
    if (bytes > 0) kinds.push_back(FormatBytes(bytes) + " " + kind);
  };
  add("uninitialized", unmanaged.uninitialized);
  add("offline", unmanaged.offline);
  add("without a struct page", unmanaged.no_page);
  std::string line = absl::StrCat(
      "not managed by the guest's allocator, so neither in use nor resident: ",
      absl::StrJoin(kinds, ", "));
  if (unmanaged.added > 0) {
    absl::StrAppend(&line, "; added later: ", FormatBytes(unmanaged.added));
  }
  return line + "\n";
}

// Lines about memory that arrived and left; empty without such memory.
std::string MemoryChangeLines(const ReplayResult& result) {
  std::string lines;
  for (const MemoryChange& change : result.memory_changes) {
    absl::StrAppendFormat(
        &lines, "memory of %s at 0x%x %s %.1f s after the start\n",
        FormatBytes(change.range.bytes), change.range.gpa.value(),
        change.removed ? "left" : "arrived",
        ToSeconds(change.time - result.start));
  }
  return lines;
}

std::string Percent(double unit, const std::optional<double>& value,
                    int decimals) {
  return value ? absl::StrFormat("%.*f %%", decimals, unit * *value) : "-";
}

void PrintTables(const ReplayArguments& arguments, const Recording& recording,
                 const ReplaySet& set) {
  const std::vector<ReplayResult>& results = set.results;
  const ReplayResult& first = results.front();
  const ReplayCounters& counters = first.counters;
  std::cout << WrapClauses(
      absl::StrFormat(
          "replay of %s, %s: %d events in %.1f s of a guest of %s; placement "
          "%s; lists of Linux %s\n"
          "could not be followed: %s of frees unmatched, %s of allocations "
          "forced, "
          "%s of frees split; %d events lost%s\n%s%s\n",
          recording.trace_path,
          first.options.mode == ReplayMode::kReal ? "on real RAM"
                                                  : "in virtual time",
          counters.events, ToSeconds(first.end - first.start),
          FormatBytes(first.memory_bytes), Name(first.options.placement),
          kKernelVersionNames[static_cast<size_t>(first.kernel)],
          Share(counters.unmatched_frees, counters.frees),
          Share(counters.forced_placements, counters.allocations),
          Share(counters.split_frees, counters.frees), counters.lost_events,
          RareCounters(counters), UnmanagedLine(first.unmanaged),
          MemoryChangeLines(first)),
      OutputColumns());
  if (!first.options.touch.empty()) {
    // Sets of flags, apart, so that a line can end behind one.
    const std::string touch =
        absl::StrReplaceAll(FormatTouch(first.options.touch), {{",", ", "}});
    std::cout << Wrap("only allocations of " + touch +
                          " are touched: resident memory is a lower bound",
                      OutputColumns())
              << "\n\n";
  }
  std::vector<Column> columns = {
      "policy", "reported", {"needless", 1}, "resident mean", "at end"};
  if (arguments.truth) {
    columns.insert(columns.end(),
                   {"block match", "resident off by", {"buddyinfo off by", 2}});
  }
  Table table(columns);
  for (const ReplayResult& result : results) {
    const Residency resident = ReplayedResidency(result).value_or(Residency{});
    std::vector<std::string> row = {
        result.options.policy, FormatBytes(result.reported_bytes),
        FormatBytes(result.needless_bytes), FormatBytes(resident.mean_bytes),
        FormatBytes(resident.end_bytes)};
    if (arguments.truth) {
      const Fidelity fidelity = CompareToTruth(recording, result);
      row.push_back(Percent(100, fidelity.block_match, 1));
      row.push_back(Percent(1, fidelity.resident_mae_percent, 2));
      row.push_back(Percent(100, fidelity.buddyinfo_distance, 1));
    }
    table.AddRow(row);
  }
  if (set.truth) {
    const std::optional<Residency>& resident = set.truth->resident;
    table.AddRow({"real guest", FormatBytes(set.truth->reported_bytes),
                  FormatBytes(set.truth->needless_bytes),
                  resident ? FormatBytes(resident->mean_bytes) : "-",
                  resident ? FormatBytes(resident->end_bytes) : "-", "-", "-",
                  "-"});
  }
  std::cout << table;
  PrintVerdict(JudgeReplays(recording, results), results);
}

// A pipe can be read only once, and each replay reads the trace.
absl::Status CheckReadOften(const ReplayArguments& arguments,
                            const std::string& trace) {
  std::error_code ignored;
  const bool once = arguments.policies.size() == 1 && !arguments.truth;
  if (once || std::filesystem::is_regular_file(trace, ignored) ||
      std::filesystem::is_directory(trace, ignored)) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(
      trace +
      ": must be a regular file, as each policy and --truth read it again; a "
      "pipe takes one policy without --truth (--policies linux), or write it "
      "to a file first (guestmm trace convert)");
}

// Adds an option that `parse` turns from text into an absl::StatusOr<T>; its
// errors are OptionErrors.
template <typename T, typename Parse>
void AddOption(CLI::App& app, const std::string& name,
               const std::string& type_name, Parse parse, T& value,
               const std::string& help) {
  app.add_option_function<std::string>(
         name,
         [parse, &value](const std::string& text) {
           absl::StatusOr<T> parsed = parse(text);
           if (!parsed.ok()) {
             throw CLI::ValidationError(std::string(parsed.status().message()));
           }
           value = *std::move(parsed);
         },
         help)
      ->type_name(type_name);
}

void ShowProgress(const std::string& policy, const ReplayProgress& at,
                  Progress& progress) {
  const double done = ToSeconds(at.done);
  std::optional<double> share;
  if (at.whole && *at.whole > Nanoseconds(0)) {
    share = done / ToSeconds(*at.whole);
  }
  progress.Show("replaying under " + policy, share,
                absl::StrFormat("%.1f s of the trace", done));
}

// Checks that the recording has what the arguments need.
absl::Status CheckRecording(const ReplayArguments& arguments,
                            const Recording& recording, ReplayOptions options) {
  if (recording.memory.empty()) {
    return absl::InvalidArgumentError(
        recording.trace_path +
        ": must have a memory map (iomem) beside it, or --memory must say "
        "where "
        "the guest's RAM is, as in --memory 0-2G,4G-5G");
  }
  if (arguments.truth && !recording.has_truth()) {
    std::vector<std::string> files;
    if (recording.reports.empty()) files.emplace_back("reports.csv");
    if (recording.resident.empty()) files.emplace_back("rss.csv");
    return absl::InvalidArgumentError(absl::StrCat(
        "--truth: must have these files beside ", recording.trace_path,
        ", and not empty: ", absl::StrJoin(files, ", ")));
  }
  for (const std::string& policy : arguments.policies) {
    options.policy = policy;
    const absl::Status status =
        CheckReplay(recording, options, AvailableMemory());
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

int RunReplayCommand(ReplayArguments& arguments) {
  ReplayOptions options = arguments.options;
  options.policy_parameters = arguments.policy.parameters;
  if (!arguments.costs.empty()) {
    const absl::StatusOr<CostModel> costs = ReadCosts(arguments.costs);
    if (!costs.ok()) {
      return Fail("replay",
                  absl::InvalidArgumentError(costs.status().message()),
                  "--costs=");
    }
    options.costs = *costs;
  }
  ExperimentOutput& output = arguments.output;
  if (output.has_folder()) options.frame_interval = std::chrono::seconds(1);
  if (arguments.policies.empty() && arguments.mechanisms.empty()) {
    arguments.policies = ReplaySetOptions().policies;
  }
  // An ideal host's replay would have nothing to report.
  constexpr std::array kNames = {kMechanismOff, kMechanismReporting,
                                 kMechanismReal};
  const absl::StatusOr<MechanismList> mechanisms =
      ParseMechanisms(arguments.policies, arguments.mechanisms, kNames);
  if (!mechanisms.ok()) return Fail("replay", mechanisms.status());
  absl::Status status =
      CheckMechanisms(*mechanisms, kNames,
                      {.policy = PolicyContext(options.granule),
                       .defaults = options.policy_parameters});
  if (!status.ok()) return Fail("replay", status);
  arguments.policies = mechanisms->policies();
  options.policy_option = mechanisms->option;
  status = output.Open();
  if (!status.ok()) return Fail("replay", status);
  const absl::StatusOr<Recording> recording =
      ReadRecording(arguments.path, arguments.memory.regions());
  if (!recording.ok()) return FailReading("replay", recording.status());
  status = CheckReadOften(arguments, recording->trace_path);
  if (!status.ok()) return Fail("replay", status);
  status = CheckRecording(arguments, *recording, options);
  if (!status.ok()) return Fail("replay", status);
  if (options.mode == ReplayMode::kReal) {
    TellUnknownMemory("replay", AvailableMemory());
  }
  const InterruptWatch watch;
  std::optional<Progress> progress(std::in_place, output.quiet());
  const ReplaySet set = ReplayEach(
      *recording,
      {.replay = options,
       .policies = arguments.policies,
       .truth = arguments.truth},
      [&](const std::string& policy, const ReplayProgress& at) {
        ShowProgress(policy, at, *progress);
      },
      [&] { return watch.interrupted(); });
  progress.reset();
  const bool has_rows = !set.results.empty();
  if (has_rows || set.status.ok()) {
    std::vector<std::string> inputs = recording->files;
    if (!arguments.costs.empty()) inputs.push_back(arguments.costs);
    const RunInfo run = output.Run(std::move(inputs));
    const ResultFile files[] = {
        {"report.html",
         [&] { return ReplayReportHtml(*recording, set.results, set.truth); }},
        {kSummaryFile, [&] { return ReplaySummaryJson(*recording, set, run); }},
        {kSeriesFile, [&] { return ReplaySeriesCsv(*recording, set.results); }},
        {"trace.json",
         [&] { return ReplayPerfettoJson(*recording, set.results); }}};
    status = output.Put(has_rows, files, [&] {
      PrintTables(arguments, *recording, set);
      if (!set.complete) PrintIncomplete(set.status);
    });
    if (!status.ok()) return Fail("replay", status);
  }
  return Finish("replay", set.status, set.complete);
}

}  // namespace

std::function<int()> AddReplayCommand(CLI::App& app) {
  CLI::App& command = *app.add_subcommand(
      "replay",
      "Replays a recording of a real guest's page allocator under each policy: "
      "how much memory would the host have got back?");
  const auto arguments = std::make_shared<ReplayArguments>();
  command.footer(
      "guestmm replay data/procs --truth\n"
      "guestmm replay ./procs --policies real,linux:order=5 --out results\n"
      "guestmm replay ./procs --real --touch GFP_HIGHUSER_MOVABLE\n"
      "zcat trace.gz | guestmm replay - --memory 0-2G --policies linux");
  command
      .add_option("path", arguments->path,
                  "A trace, or the folder of a recording; -: a trace on stdin")
      ->transform(InputPath)
      ->type_name("PATH")
      ->required();
  command.option_defaults()->group("Policies");
  AddList(command, "--policies,--policy", arguments->policies,
          "Policies, separated by commas; real: the recorded reports of the "
          "guest's own kernel [off,v12,linux,adaptive]");
  AddList(command, "--mechanisms", arguments->mechanisms,
          "Mechanisms in place of policies, separated by commas: off, real, or "
          "reporting:POLICY[:KEY=VALUE]...");
  AddPolicyArguments(command, arguments->policy);
  command.option_defaults()->group("Guest and replay");
  ReplayOptions& options = arguments->options;
  // Frames are taken with --out, and nothing shows what the reportable order
  // counts.
  AddFields(command, ReplayFields(), options,
            {"mode", "frame-interval", "reportable-order"});
  CLI::Option* const in_virtual_time = command.add_flag_callback(
      "--virtual", [&options] { options.mode = ReplayMode::kVirtual; },
      "Compute resident memory by a model, for guests of any size [this]");
  command
      .add_flag_callback(
          "--real", [&options] { options.mode = ReplayMode::kReal; },
          "Use real RAM: write to allocations, discard reports, and ask the "
          "kernel for resident memory")
      ->excludes(in_virtual_time);
  AddOption(command, "--touch", "FLAGS", ParseTouch, options.touch,
            "Allocations that the guest touches, as sets of gfp flags, e.g. "
            "GFP_HIGHUSER_MOVABLE,GFP_KERNEL|__GFP_ZERO: those with all flags "
            "of one set; unless all are, resident memory is a lower bound "
            "[all]");
  AddParsed(command, "--memory", "MAP", MemoryMap::Parse, arguments->memory,
            "The guest's RAM, in place of the iomem beside the trace, e.g. "
            "0-2G,4G-5G");
  command
      .add_option("--costs", arguments->costs,
                  "The time that reports take, as guestmm calibrate --out "
                  "writes it; -: stdin [built in]")
      ->transform(InputPath)
      ->type_name("FILE");
  command.option_defaults()->group("Output");
  AddWide(command);
  command.add_flag("--truth", arguments->truth,
                   "Compare with the real guest: its kernel's reports and its "
                   "resident memory");
  // The last is for ui.perfetto.dev.
  arguments->output.AddOptions(
      command, {"report.html", kSummaryFile, kSeriesFile, "trace.json"});
  return [arguments] { return RunReplayCommand(*arguments); };
}

}  // namespace guestmm::tools
