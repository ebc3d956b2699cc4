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
#include "guestmm/base/memory_map.h"
#include "guestmm/base/option_error.h"
#include "guestmm/experiment/replay/fidelity.h"
#include "guestmm/experiment/replay/replay.h"
#include "guestmm/experiment/replay/replay_set.h"
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
#include "tools/guestmm/policy_arguments.h"
#include "tools/guestmm/progress.h"
#include "tools/guestmm/table.h"

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
  std::string out;
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
  if (counters.bad_lines > 0) {
    absl::StrAppend(&text, "; ", counters.bad_lines,
                    " malformed lines skipped");
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

std::string Percent(double unit, const std::optional<double>& value,
                    int decimals) {
  return value ? absl::StrFormat("%.*f %%", decimals, unit * *value) : "-";
}

void PrintTables(const ReplayArguments& arguments, const Recording& recording,
                 const ReplaySet& set) {
  const std::vector<ReplayResult>& results = set.results;
  const ReplayResult& first = results.front();
  const ReplayCounters& counters = first.counters;
  std::cout << absl::StrFormat(
      "replay of %s, %s: %d events in %.1f s of a guest of %s; placement %s\n"
      "could not be followed: %s of frees unmatched, %s of allocations forced, "
      "%s of frees split; %d events lost%s\n%s\n",
      recording.trace_path,
      first.options.mode == ReplayMode::kReal ? "on real RAM"
                                              : "in virtual time",
      counters.events, ToSeconds(first.end - first.start),
      FormatBytes(first.memory_bytes), Name(first.options.placement),
      Share(counters.unmatched_frees, counters.frees),
      Share(counters.forced_placements, counters.allocations),
      Share(counters.split_frees, counters.frees), counters.lost_events,
      RareCounters(counters), UnmanagedLine(first.unmanaged));
  if (!first.options.touch.empty()) {
    std::cout << "only allocations of " << FormatTouch(first.options.touch)
              << " are touched: resident memory is a lower bound\n\n";
  }
  std::vector<std::string> columns = {"policy", "reported", "needless",
                                      "resident mean", "at end"};
  if (arguments.truth) {
    columns.insert(columns.end(),
                   {"block match", "resident off by", "buddyinfo off by"});
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
}

// A pipe can be read only once, and each replay reads the trace.
absl::Status CheckReadOften(const ReplayArguments& arguments,
                            const std::string& trace) {
  std::error_code ignored;
  const bool once = arguments.policies.size() == 1 && !arguments.truth;
  if (once || std::filesystem::is_regular_file(trace, ignored)) {
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

std::string ProgressText(const std::string& policy,
                         const ReplayProgress& progress) {
  std::string text = absl::StrFormat("replaying under %s: %.1f s", policy,
                                     ToSeconds(progress.done));
  if (progress.whole) {
    absl::StrAppendFormat(
        &text, " of %.1f s %s", ToSeconds(*progress.whole),
        Bar(ToSeconds(progress.done), ToSeconds(*progress.whole)));
  }
  return text;
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

absl::Status WriteFiles(const OutputDirectory& out, const Recording& recording,
                        const ReplaySet& set) {
  absl::Status status =
      out.Write("series.csv", ReplaySeriesCsv(recording, set.results));
  status.Update(out.Write(
      "summary.json", ReplaySummaryJson(recording, set.results, set.truth)));
  status.Update(out.Write("report.html",
                          ReplayReportHtml(recording, set.results, set.truth)));
  status.Update(
      out.Write("trace.json", ReplayPerfettoJson(recording, set.results)));
  if (!status.ok()) return status;
  std::cout << "\nwritten to " << out.path().string()
            << ": report.html, summary.json, series.csv, trace.json (for "
               "ui.perfetto.dev)\n";
  return status;
}

int RunReplayCommand(ReplayArguments arguments) {
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
  if (!arguments.out.empty()) options.frame_interval = std::chrono::seconds(1);
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
  std::optional<OutputDirectory> out;
  if (!arguments.out.empty()) {
    absl::StatusOr<OutputDirectory> opened =
        OutputDirectory::Open(arguments.out);
    if (!opened.ok()) {
      return Fail("replay",
                  absl::InvalidArgumentError(opened.status().message()),
                  "--out=");
    }
    out = *std::move(opened);
  }
  absl::StatusOr<Recording> recording = ReadRecording(arguments.path);
  if (!recording.ok()) return FailReading("replay", recording.status());
  status = CheckReadOften(arguments, recording->trace_path);
  if (!status.ok()) return Fail("replay", status);
  if (!arguments.memory.empty()) {
    recording->memory = arguments.memory.regions();
  }
  status = CheckRecording(arguments, *recording, options);
  if (!status.ok()) return Fail("replay", status);
  ProgressLine line;
  const ReplaySet set = ReplayEach(
      *recording,
      {.replay = options,
       .policies = arguments.policies,
       .truth = arguments.truth},
      [&](const std::string& policy, const ReplayProgress& progress) {
        line.Show(ProgressText(policy, progress));
      });
  line.Show("");
  if (!set.results.empty()) PrintTables(arguments, *recording, set);
  if (!set.status.ok()) FailReading("replay", set.status);
  if (out && !set.results.empty()) {
    const absl::Status written = WriteFiles(*out, *recording, set);
    if (!written.ok()) return Fail("replay", written, "--out=");
  }
  return set.status.ok() ? kExitSuccess : kExitFailure;
}

}  // namespace

std::function<int()> AddReplayCommand(CLI::App& app) {
  CLI::App& command = *app.add_subcommand(
      "replay",
      "Replays a recording of a real guest's page allocator under each policy: "
      "how much memory would the host have got back?");
  const auto arguments = std::make_shared<ReplayArguments>();
  command
      .add_option("path", arguments->path,
                  "A trace, or the folder of a recording")
      ->type_name("PATH")
      ->required();
  AddList(command, "--policies,--policy", arguments->policies,
          "Policies, separated by commas; real: the recorded reports of the "
          "guest's own kernel [off,v12,linux,adaptive]");
  AddList(command, "--mechanisms", arguments->mechanisms,
          "Mechanisms in place of policies, separated by commas: off, real, or "
          "reporting:POLICY[:KEY=VALUE]...");
  AddPolicyArguments(command, arguments->policy);
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
                  "writes it [built in]")
      ->type_name("FILE");
  command.add_flag("--truth", arguments->truth,
                   "Compare with the real guest: its kernel's reports and its "
                   "resident memory");
  command
      .add_option("--out", arguments->out,
                  "Folder for report.html, summary.json, series.csv and "
                  "trace.json; unset: none is written")
      ->type_name("DIR");
  return [arguments] { return RunReplayCommand(*arguments); };
}

}  // namespace guestmm::tools
