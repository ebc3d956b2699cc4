#include <algorithm>
#include <array>
#include <iostream>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "guestmm/base/signal_cleanup.h"
#include "guestmm/experiment/compare/compare.h"
#include "guestmm/experiment/report/costs_file.h"
#include "guestmm/experiment/report/output_directory.h"
#include "guestmm/mechanism/mechanism_spec.h"
#include "guestmm/workload/recipes.h"
#include "tools/guestmm/arguments.h"
#include "tools/guestmm/commands.h"
#include "tools/guestmm/exit_status.h"
#include "tools/guestmm/experiment_output.h"
#include "tools/guestmm/policy_arguments.h"
#include "tools/guestmm/progress.h"
#include "tools/guestmm/table.h"
#include "tools/guestmm/terminal.h"

namespace guestmm::tools {
namespace {

// The command line's options.
struct CompareArguments {
  CompareOptions options;
  PolicyArguments policy;
  std::string costs;
  // Unset: as many as the machine has processors.
  std::optional<uint64_t> jobs;
  ExperimentOutput output;
};

std::string Percent(const std::optional<double>& share, int decimals = 1) {
  return share ? absl::StrFormat("%.*f %%", decimals, 100 * *share) : "-";
}
std::string Number(const std::optional<double>& number, int decimals) {
  return number ? absl::StrFormat("%.*f", decimals, *number) : "-";
}
std::string Count(const std::optional<uint64_t>& count) {
  return count ? std::to_string(*count) : "-";
}
std::string Seconds(const std::optional<double>& seconds) {
  return seconds ? absl::StrFormat("%.2f s", *seconds) : "-";
}

// The columns of how much memory came back, and how soon.
Table GainTable() {
  return Table({"policy",
                "host has of free",
                {"of reportable", 1},
                {"to 50 %", 2},
                "to 90 %",
                {"to 99 %", 2},
                "footprint",
                "reported/needed",
                "refaults 1s"});
}
void AddGain(const CompareRow& row, Table& table) {
  table.AddRow({row.policy, Percent(row.host_share_of_free),
                Percent(row.host_share_of_reportable),
                Seconds(row.time_to_50_s), Seconds(row.time_to_90_s),
                Seconds(row.time_to_99_s),
                absl::StrFormat("%.3f GiB min", row.footprint_gib_min),
                Number(row.reported_over_needed, 3), Count(row.refaults_1s)});
}

// The columns of costs. `spread`: with the least and the most share of several
// processes.
Table CostTable(bool spread) {
  std::vector<Column> columns = {
      "policy",       {"work", 2},         "duration",
      "of off",       {"lost to hook", 2}, {"isolation", 3},
      {"discard", 3}, "fault-back",        {"zeroing", 3},
      "reports",      {"kicks", 3},        "madvise calls",
      "lock max",     {"lock mean", 3},    {"failed", 1}};
  if (spread) columns.insert(columns.begin() + 4, {"least", "most"});
  return Table(std::move(columns));
}
void AddCost(const CompareRow& row, bool spread, Table& table) {
  const auto loss = [&](double CompareRow::Loss::*kind) {
    return row.loss ? Percent((*row.loss).*kind, 2) : "-";
  };
  const auto microseconds = [](const std::optional<double>& time) {
    return time ? absl::StrFormat("%.2f us", *time) : "-";
  };
  std::vector<std::string> cells = {row.policy,
                                    Count(row.work),
                                    Seconds(row.duration_seconds),
                                    Percent(row.work_share_of_off, 2),
                                    loss(&CompareRow::Loss::hook),
                                    loss(&CompareRow::Loss::isolation),
                                    loss(&CompareRow::Loss::discard),
                                    loss(&CompareRow::Loss::fault_back),
                                    loss(&CompareRow::Loss::zeroing),
                                    Count(row.reports),
                                    Count(row.kicks),
                                    Count(row.discard_calls),
                                    microseconds(row.lock_max_us),
                                    microseconds(row.lock_mean_us),
                                    Count(row.failed_while_isolated)};
  if (spread) {
    cells.insert(cells.begin() + 4, {Percent(row.work_share_of_off_min, 2),
                                     Percent(row.work_share_of_off_max, 2)});
  }
  table.AddRow(std::move(cells));
}

// All columns that a recording has.
Table RecordingTable() {
  return Table({"policy",
                "host has of free",
                {"of reportable", 1},
                "footprint",
                "reported/needed",
                "refaults 1s",
                "reports",
                {"madvise calls", 2}});
}
void AddOfRecording(const CompareRow& row, Table& table) {
  table.AddRow({row.policy, Percent(row.host_share_of_free),
                Percent(row.host_share_of_reportable),
                absl::StrFormat("%.3f GiB min", row.footprint_gib_min),
                Number(row.reported_over_needed, 3), Count(row.refaults_1s),
                Count(row.reports), Count(row.discard_calls)});
}

void PrintRecording(const CompareResult& result,
                    const CompareRecording& recording) {
  const std::string& name = recording.workload;
  const ReplayCounters& counters = recording.counters;
  const auto share = [](uint64_t part, uint64_t all) {
    return Percent(static_cast<double>(part) /
                       static_cast<double>(std::max<uint64_t>(all, 1)),
                   2);
  };
  Table table = RecordingTable();
  for (const CompareRow& row : result.rows) {
    if (row.workload == name) AddOfRecording(row, table);
  }
  std::cout
      << WrapClauses(
             absl::StrFormat(
                 "\n%s: a recording of %.1f s of a guest of %s, and %g s of "
                 "rest; granules of %s\ncould not be followed: %s of frees "
                 "unmatched, %s of allocations forced; %d events lost\n\n",
                 name, recording.duration_seconds,
                 FormatBytes(recording.guest_bytes),
                 RestSecondsOf(result.options, name),
                 FormatBytes(GranuleOf(result.options, name).bytes()),
                 share(counters.unmatched_frees, counters.frees),
                 share(counters.forced_placements, counters.allocations),
                 counters.lost_events),
             OutputColumns())
      << table;
}

// The line above all tables: the set-up of the workloads by name. A recording
// has a heading of its own.
std::string Heading(const CompareOptions& options) {
  const auto named = std::find_if_not(options.workloads.begin(),
                                      options.workloads.end(), IsRecording);
  if (named == options.workloads.end()) {
    return absl::StrFormat("compare: in virtual time, seed %d\n", options.seed);
  }
  return absl::StrFormat(
      "compare: %sin %s, granules of %s, seed %d; %g s of rest after each "
      "workload%s\n",
      KernelPhrase(KernelOf(options)),
      options.mode == CompareMode::kVirtual ? "virtual time" : "real time",
      FormatBytes(GranuleOf(options, *named).bytes()), options.seed,
      RestSecondsOf(options, *named),
      options.processes > 1
          ? absl::StrFormat("; medians of %d processes", options.processes)
          : "");
}

void PrintTables(const CompareResult& result) {
  const bool spread = result.options.processes > 1;
  std::cout << WrapClauses(Heading(result.options), OutputColumns());
  for (const WorkloadInfo& workload : WorkloadInfos()) {
    Table gain = GainTable();
    Table cost = CostTable(spread);
    bool any = false;
    for (const CompareRow& row : result.rows) {
      if (row.workload != workload.name) continue;
      any = true;
      AddGain(row, gain);
      if (row.policy != kMechanismLimit) AddCost(row, spread, cost);
    }
    if (!any) continue;
    std::cout << "\n"
              << Wrap(absl::StrCat(workload.name, ": ", workload.description),
                      OutputColumns())
              << "\n\n"
              << gain << "\n"
              << cost;
  }
  for (const CompareRecording& recording : result.recordings) {
    PrintRecording(result, recording);
  }
  if (!result.complete) PrintIncomplete(result.status);
}

absl::Status AsUsage(const absl::Status& status) {
  return absl::InvalidArgumentError(status.message());
}

// The command line of a process that runs the same once: this program, even if
// its file has been replaced, with the options of `command` but for
// --processes, those of its output, and the file that others came from.
std::vector<std::string> CommandOfAProcess(const CLI::App& command) {
  std::vector<std::string> arguments = {"/proc/self/exe", "compare"};
  constexpr std::array kOwn = {"--processes", "--out",   "--force", "--json",
                               "--csv",       "--quiet", "--config"};
  for (const CLI::Option* const option : command.get_options()) {
    const std::string name = option->get_name();
    if (option->count() == 0 ||
        std::find(kOwn.begin(), kOwn.end(), name) != kOwn.end()) {
      continue;
    }
    const bool is_flag = option->get_type_size() == 0;
    arguments.push_back(
        is_flag
            ? name
            : absl::StrCat(name, "=", absl::StrJoin(option->results(), ",")));
  }
  return arguments;
}

// `given`: the parsed command line.
int RunCompareCommand(CompareArguments& arguments, const CLI::App& given) {
  // All options are checked before anything is written or run.
  CompareOptions options = arguments.options;
  options.policy_parameters = arguments.policy.parameters;
  if (!arguments.costs.empty()) {
    const absl::StatusOr<CostModel> costs = ReadCosts(arguments.costs);
    if (!costs.ok())
      return Fail("compare", AsUsage(costs.status()), "--costs=");
    options.costs = *costs;
  }
  const absl::StatusOr<uint64_t> available = AvailableMemory();
  const absl::StatusOr<CompareOptions> resolved =
      ResolveCompare(options, available);
  if (!resolved.ok()) return Fail("compare", resolved.status());
  if (options.mode == CompareMode::kReal) {
    TellUnknownMemory("compare", available);
  }
  ExperimentOutput& output = arguments.output;
  absl::Status status = output.Open();
  if (!status.ok()) return Fail("compare", status);

  const InterruptWatch watch;
  absl::StatusOr<CompareResult> result;
  {
    Progress progress(output.quiet());
    result = RunCompare(
        *resolved,
        {.jobs = arguments.jobs,
         .progress =
             [&](const CompareProgress& at) {
               progress.Show(
                   at.process > 0
                       ? absl::StrCat("process ", at.process, " of ",
                                      resolved->processes)
                       : absl::StrCat("running ", std::string(at.workload)),
                   at.done / at.whole, std::string(at.policy));
             },
         .run_process =
             [&] { return RunCompareProcess(CommandOfAProcess(given)); },
         .stopped = [&] { return watch.interrupted(); }});
  }
  // The options are valid; a recording or a guest is at fault.
  if (!result.ok()) return FailReading("compare", result.status());
  std::vector<std::string> inputs;
  if (!arguments.costs.empty()) inputs.push_back(arguments.costs);
  for (const CompareRecording& recording : result->recordings) {
    inputs.insert(inputs.end(), recording.files.begin(), recording.files.end());
  }
  result->run = output.Run(std::move(inputs));
  const ResultFile files[] = {
      {kSummaryFile, [&] { return CompareSummaryJson(*result); }},
      {kSeriesFile, [&] { return CompareSeriesCsv(*result); }}};
  status =
      output.Put(!result->rows.empty(), files, [&] { PrintTables(*result); });
  if (!status.ok()) return Fail("compare", status);
  return Finish("compare", result->status, result->complete);
}

std::string WorkloadHelp() {
  std::string help =
      "Workloads to run, separated by commas [those marked *; with --real "
      "page_fault1]:";
  for (const WorkloadInfo& workload : WorkloadInfos()) {
    absl::StrAppend(&help, "\n  ", workload.by_default ? "* " : "  ",
                    workload.name, ": ", workload.description);
  }
  absl::StrAppend(&help,
                  "\nor recordings, by a path with a / in it (./procs), as "
                  "guestmm replay reads them: replayed on the recorded pages, "
                  "with the reports of the guest's kernel as policy real. A "
                  "recording has its own guest-memory, vcpus and duration");
  return help;
}

}  // namespace

std::function<int()> AddCompareCommand(CLI::App& app) {
  CLI::App& command = *app.add_subcommand(
      "compare",
      "Runs the same work under several reporting policies: how much free "
      "memory the host gets back, how soon, and at what cost to the guest.");
  const auto arguments = std::make_shared<CompareArguments>();
  CompareOptions& options = arguments->options;
  command.footer(
      "guestmm compare\n"
      "guestmm compare --workloads build,sandbox --out results\n"
      "guestmm compare --policies linux,linux:order=5 --granule 2MiB\n"
      "guestmm compare --workloads ./procs     # a recording of a real guest\n"
      "guestmm compare --real --processes 5");
  command.option_defaults()->group("Policies");
  AddList(command, "--policies", options.policies,
          "Policies to run beside off, separated by commas, e.g. "
          "linux,linux:order=5 [all]");
  AddList(command, "--mechanisms", options.mechanisms,
          "The same as mechanisms, e.g. off,reporting:linux:order=5 [those of "
          "--policies]");
  AddPolicyArguments(command, arguments->policy);
  command.option_defaults()->group("Workloads and guest");
  AddList(command, "--workloads", options.workloads, WorkloadHelp());
  AddFields(command, CompareFields(), options, {"mode"});
  CLI::Option* const in_virtual_time = command.add_flag_callback(
      "--virtual", [&options] { options.mode = CompareMode::kVirtual; },
      "In virtual time: the same options give the same result [default]");
  command
      .add_flag_callback(
          "--real", [&options] { options.mode = CompareMode::kReal; },
          "In real time, with RAM and threads")
      ->excludes(in_virtual_time);
  command
      .add_option("--costs", arguments->costs,
                  "Costs in virtual time, a file that guestmm calibrate "
                  "wrote; -: stdin [built-in defaults]")
      ->transform(InputPath)
      ->type_name("FILE");
  // More threads than that only take memory.
  constexpr uint64_t kMostJobs = 1024;
  AddInteger(command, "--jobs", 1, kMostJobs, arguments->jobs,
             "Runs at a time in virtual time, each on a thread of its own; the "
             "result is the same [one a processor]");
  command.option_defaults()->group("Output");
  AddWide(command);
  arguments->output.AddOptions(command, {kSummaryFile, kSeriesFile});
  command.callback([&command, &options] {
    if (options.mode == CompareMode::kReal) {
      RefuseUnused(command, {"--costs"}, "with --real, which has real ones");
      RefuseUnused(command, {"--jobs"},
                   "with --real, where runs would disturb each other");
    } else {
      RefuseUnused(command, {"--repeats"},
                   "in virtual time; runs are deterministic");
    }
  });
  return
      [arguments, &command] { return RunCompareCommand(*arguments, command); };
}

}  // namespace guestmm::tools
