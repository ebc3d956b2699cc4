#include <algorithm>
#include <chrono>
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
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "guestmm/base/memory_map.h"
#include "guestmm/experiment/replay/fidelity.h"
#include "guestmm/experiment/replay/replay.h"
#include "guestmm/experiment/report/output_directory.h"
#include "guestmm/experiment/report/replay_report.h"
#include "guestmm/host/accounting/host_info.h"
#include "guestmm/mechanism/experiment.h"
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
  std::vector<std::string> policies = {"off", "v12", "linux", "adaptive"};
  PolicyArguments policy;
  // Empty: the recording's.
  MemoryMap memory;
  std::optional<uint64_t> skip_bad;
  std::optional<Nanoseconds> tail;
  bool truth = false;
  std::string out;
};

std::string Share(uint64_t part, uint64_t all) {
  if (all == 0) return "-";
  return absl::StrFormat(
      "%.2f %%", 100.0 * static_cast<double>(part) / static_cast<double>(all));
}

// What of a trace that fits its recording there is nothing of.
std::string SeldomCounters(const ReplayCounters& counters) {
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

std::string Percent(double unit, const std::optional<double>& value,
                    int decimals) {
  return value ? absl::StrFormat("%.*f %%", decimals, unit * *value) : "-";
}

// Fails if the truth is of another time than the replays.
absl::Status CheckTruthsTime(const Recording& recording,
                             const ReplayResult& result) {
  const auto in_time = [&](const auto& truth) {
    return result.start <= truth.time && truth.time <= result.end;
  };
  if (std::any_of(recording.reports.begin(), recording.reports.end(),
                  in_time) ||
      std::any_of(recording.resident.begin(), recording.resident.end(),
                  in_time)) {
    return absl::OkStatus();
  }
  return absl::FailedPreconditionError(absl::StrFormat(
      "--truth: the trace is from %.3f s to %.3f s, but reports.csv is from "
      "%.3f s to %.3f s and rss.csv from %.3f s to %.3f s: their times must be "
      "by the trace's clock",
      ToSeconds(result.start), ToSeconds(result.end),
      ToSeconds(recording.reports.front().time),
      ToSeconds(recording.reports.back().time),
      ToSeconds(recording.resident.front().time),
      ToSeconds(recording.resident.back().time)));
}

// Of what the real kernel reported, what its host had already: as far as the
// trace can be replayed.
uint64_t RealNeedlessBytes(const Recording& recording,
                           const std::vector<ReplayResult>& results) {
  for (const ReplayResult& result : results) {
    if (result.options.policy == kPolicyReal) return result.needless_bytes;
  }
  const ReplayOptions& options = results.front().options;
  const ReplayOptions real = {.policy = std::string(kPolicyReal),
                              .granule = options.granule,
                              .touch = options.touch,
                              .read = options.read};
  ReplayResult result;
  static_cast<void>(Replay(recording, real, &result));
  return result.needless_bytes;
}

void PrintTables(const ReplayArguments& arguments, const Recording& recording,
                 const std::vector<ReplayResult>& results,
                 std::optional<uint64_t> real_needless_bytes) {
  const ReplayResult& first = results.front();
  const ReplayCounters& counters = first.counters;
  std::cout << absl::StrFormat(
      "replay of %s, %s: %d events in %.1f s of a guest of %s; placement %s\n"
      "could not be followed: %s of frees unmatched, %s of allocations forced, "
      "%s of frees split; %d events lost%s\n\n",
      recording.trace_path,
      first.options.mode == ReplayMode::kReal ? "on real RAM"
                                              : "in virtual time",
      counters.events, ToSeconds(first.end - first.start),
      FormatBytes(first.memory_bytes), Name(first.options.placement),
      Share(counters.unmatched_frees, counters.frees),
      Share(counters.forced_placements, counters.allocations),
      Share(counters.split_frees, counters.frees), counters.lost_events,
      SeldomCounters(counters));
  if (!first.options.touch.empty()) {
    std::cout << "touched at once are allocations of "
              << FormatTouch(first.options.touch)
              << ": what is resident is a lower bound\n\n";
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
  if (arguments.truth) {
    const Fidelity truth = CompareToTruth(recording, first);
    const std::optional<Residency> resident =
        RealResidency(recording, first.start, first.end);
    table.AddRow({"real guest", FormatBytes(truth.truth_reported_bytes),
                  FormatBytes(real_needless_bytes.value_or(0)),
                  resident ? FormatBytes(resident->mean_bytes) : "-",
                  resident ? FormatBytes(resident->end_bytes) : "-", "-", "-",
                  "-"});
  }
  std::cout << table;
}

// A pipe is empty after the first who reads it: of others nothing would come.
absl::Status CheckReadOften(const ReplayArguments& arguments,
                            const std::string& trace) {
  std::error_code ignored;
  const bool once = arguments.policies.size() == 1 && !arguments.truth;
  if (once || std::filesystem::is_regular_file(trace, ignored)) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(
      trace +
      ": this is no regular file and can be read only once, and each policy "
      "and --truth read it anew; allowed is one policy, as in --policy linux, "
      "without --truth; or write it to a file first (guestmm trace convert)");
}

// "max" is as fast as it goes; the bounds are Replay's to check.
absl::StatusOr<std::optional<double>> ParseSpeed(const std::string& text) {
  if (text == "max") return std::nullopt;
  double speed = 0;
  if (!absl::SimpleAtod(text, &speed)) {
    return absl::InvalidArgumentError(
        text + ": allowed is a number, as in 10, or max");
  }
  return speed;
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

// Whether the recording has what the arguments ask of it.
absl::Status CheckRecording(const ReplayArguments& arguments,
                            const Recording& recording, ReplayOptions options) {
  if (recording.memory.empty()) {
    return absl::InvalidArgumentError(
        recording.trace_path +
        ": there is no memory map (iomem) beside it; allowed is --memory, "
        "which says where the guest's RAM is, as in --memory 0-2G,4G-5G");
  }
  if (arguments.truth && !recording.has_truth()) {
    std::vector<std::string> files;
    if (recording.reports.empty()) files.emplace_back("reports.csv");
    if (recording.resident.empty()) files.emplace_back("rss.csv");
    return absl::InvalidArgumentError(
        absl::StrCat("--truth: missing or empty beside ", recording.trace_path,
                     ": ", absl::StrJoin(files, ", ")));
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
                        const std::vector<ReplayResult>& results,
                        std::optional<uint64_t> real_needless_bytes) {
  absl::Status status =
      out.Write("series.csv", ReplaySeriesCsv(recording, results));
  status.Update(
      out.Write("summary.json", ReplaySummaryJson(recording, results)));
  status.Update(
      out.Write("report.html",
                ReplayReportHtml(recording, results, real_needless_bytes)));
  status.Update(
      out.Write("trace.json", ReplayPerfettoJson(recording, results)));
  if (!status.ok()) return status;
  std::cout << "\nwritten to " << out.path().string()
            << ": report.html, summary.json, series.csv, trace.json (for "
               "ui.perfetto.dev)\n";
  return status;
}

int RunReplayCommand(const ReplayArguments& arguments) {
  ReplayOptions options = arguments.options;
  options.policy_parameters = arguments.policy.ToParameters();
  options.read.skip_bad = arguments.skip_bad.value_or(0);
  options.tail = arguments.tail.value_or(Nanoseconds(0));
  if (!arguments.out.empty()) options.frame_interval = std::chrono::seconds(1);
  absl::Status status =
      CheckPolicies(arguments.policies, PolicyParametersOf(options),
                    {std::string(kPolicyReal)});
  if (!status.ok()) return Fail("replay", status, "--");
  std::optional<OutputDirectory> out;
  if (!arguments.out.empty()) {
    absl::StatusOr<OutputDirectory> opened =
        OutputDirectory::Open(arguments.out);
    if (!opened.ok()) {
      return Fail("replay",
                  absl::InvalidArgumentError(opened.status().message()),
                  "--out ");
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
  std::vector<ReplayResult> results;
  ProgressLine line;
  for (const std::string& policy : arguments.policies) {
    options.policy = policy;
    ReplayResult& result = results.emplace_back();
    status.Update(Replay(*recording, options, &result,
                         {.progress =
                              [&](const ReplayProgress& progress) {
                                line.Show(ProgressText(policy, progress));
                              }})
                      .status());
    // A damaged trace is replayed up to the damage, under each policy.
    if (!status.ok() && result.counters.events == 0) {
      results.pop_back();
      break;
    }
  }
  line.Show("");
  std::optional<uint64_t> real_needless_bytes;
  if (!results.empty()) {
    if (arguments.truth) {
      real_needless_bytes = RealNeedlessBytes(*recording, results);
    }
    PrintTables(arguments, *recording, results, real_needless_bytes);
    if (arguments.truth) {
      status.Update(CheckTruthsTime(*recording, results.front()));
    }
  }
  if (!status.ok()) FailReading("replay", status);
  if (out && !results.empty()) {
    const absl::Status written =
        WriteFiles(*out, *recording, results, real_needless_bytes);
    if (!written.ok()) return Fail("replay", written, "--out ");
  }
  return status.ok() ? kExitSuccess : kExitFailure;
}

}  // namespace

std::function<int()> AddReplayCommand(CLI::App& app) {
  CLI::App& command = *app.add_subcommand(
      "replay",
      "Does again, under each policy, what a real guest's allocator did: what "
      "would the host have got back?");
  const auto arguments = std::make_shared<ReplayArguments>();
  command
      .add_option("path", arguments->path,
                  "A trace, or the folder of a recording")
      ->type_name("PATH")
      ->required();
  AddChoice<Placement>(
      command, "--placement",
      {{std::string(Name(Placement::kRecorded)), Placement::kRecorded},
       {std::string(Name(Placement::kNative)), Placement::kNative}},
      arguments->options.placement,
      "recorded: pages lie where the trace has them; guestmm: where our "
      "allocator puts them [recorded]");
  command
      .add_option("--policies,--policy", arguments->policies,
                  "Which to run, separated by commas; real: what the guest's "
                  "kernel reported, as recorded [off,v12,linux,adaptive]")
      ->delimiter(',');
  AddPolicyArguments(command, arguments->policy);
  ReplayOptions& options = arguments->options;
  AddChoice<Order>(
      command, "--granule", {{"4KiB", Order(0)}, {"2MiB", kPageblockOrder}},
      options.granule,
      "What the host maps at a time: 2MiB where huge pages back the guest "
      "[2MiB]");
  CLI::Option* const in_virtual_time = command.add_flag_callback(
      "--virtual", [&options] { options.mode = ReplayMode::kVirtual; },
      "What the host holds is by a model; no guest is too large [this]");
  command
      .add_flag_callback(
          "--real", [&options] { options.mode = ReplayMode::kReal; },
          "With real RAM: allocations are written to, reports are discarded, "
          "what the host holds is its kernel's word")
      ->excludes(in_virtual_time);
  AddParsed(command, "--speed", "X|max", ParseSpeed, options.speed,
            "Seconds of the trace in a second, at most; what comes out is the "
            "same [max]");
  AddParsed(command, "--touch", "FLAGS", ParseTouch, options.touch,
            "Which allocations the guest touches, by gfp flags, as in "
            "GFP_HIGHUSER_MOVABLE,GFP_KERNEL|__GFP_ZERO: of what commas "
            "separate one, of what '|' joins all; with less than all what is "
            "resident is a lower bound [all]");
  AddParsed(command, "--memory", "MAP", MemoryMap::Parse, arguments->memory,
            "Where RAM is, in place of the iomem beside the trace, as in "
            "0-2G,4G-5G");
  AddInteger(command, "--skip-bad", 0, ~uint64_t{0}, arguments->skip_bad,
             "Malformed lines to skip [0]");
  AddSeconds(command, "--tail", Nanoseconds(0), kLongestReplay, arguments->tail,
             "Seconds to go on after the trace's end [0]");
  command.add_flag("--truth", arguments->truth,
                   "Compare with what the real guest's kernel reported");
  command
      .add_option("--out", arguments->out,
                  "Write report.html, summary.json, series.csv and trace.json "
                  "to this folder")
      ->type_name("DIR");
  return [arguments] { return RunReplayCommand(*arguments); };
}

}  // namespace guestmm::tools
