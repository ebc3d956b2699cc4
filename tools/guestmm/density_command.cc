#include <cstdint>
#include <functional>
#include <iostream>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_format.h"
#include "guestmm/experiment/density/density.h"
#include "guestmm/experiment/report/output_directory.h"
#include "tools/guestmm/arguments.h"
#include "tools/guestmm/commands.h"
#include "tools/guestmm/exit_status.h"
#include "tools/guestmm/policy_arguments.h"
#include "tools/guestmm/progress.h"
#include "tools/guestmm/table.h"

namespace guestmm::tools {
namespace {

// The command line's options.
struct DensityArguments {
  DensityOptions options;
  PolicyArguments policy;
  std::string out;
};

void PrintTable(const DensityResult& result) {
  const DensitySetup& setup = result.setup;
  std::cout << absl::StrFormat(
      "density: guests of %s on a host of %s, each touching %s or more, "
      "freeing it and then %s; in %s time, seed %d\n\n",
      FormatBytes(setup.guest_bytes), FormatBytes(setup.host_bytes),
      FormatBytes(setup.workload_min_bytes),
      setup.options.idle_activity ? "idling" : "silent",
      setup.real_time ? "real" : "virtual", setup.options.seed);
  const int limit = result.rows.back().guests;
  Table table({"policy", "guests that fit", "resident at end", "handed back",
               "reports", "madvise calls", "share of limit", "time"});
  for (const DensityRow& row : result.rows) {
    table.AddRow({row.policy, std::to_string(row.guests),
                  FormatBytes(row.resident_bytes),
                  row.discarded_bytes ? FormatBytes(*row.discarded_bytes) : "-",
                  row.reports ? std::to_string(*row.reports) : "-",
                  row.discard_calls ? std::to_string(*row.discard_calls) : "-",
                  limit > 0
                      ? absl::StrFormat("%.0f %%", 100.0 * row.guests / limit)
                      : "-",
                  row.seconds ? absl::StrFormat("%.1f s", *row.seconds) : "-"});
  }
  std::cout << table;
  for (const DensityRow& row : result.rows) {
    if (row.stopped.empty()) continue;
    std::cout << "\n"
              << row.policy << " stopped early: " << row.stopped << "\n";
  }
}

int RunDensityCommand(const DensityArguments& arguments) {
  // Finds all errors of the command line before anything is written or run.
  DensityOptions options = arguments.options;
  options.policy_parameters = arguments.policy.parameters;
  const absl::StatusOr<DensitySetup> setup =
      ResolveDensity(options, AvailableMemory());
  if (!setup.ok()) {
    const bool named = setup.status().message().substr(0, 2) == "--";
    return Fail("density", setup.status(), named ? "" : "--");
  }
  std::optional<OutputDirectory> out;
  if (!arguments.out.empty()) {
    absl::StatusOr<OutputDirectory> opened =
        OutputDirectory::Open(arguments.out);
    if (!opened.ok()) {
      return Fail("density",
                  absl::InvalidArgumentError(opened.status().message()),
                  "--out=");
    }
    out = *std::move(opened);
  }

  absl::StatusOr<DensityResult> result;
  {
    ProgressLine line;
    result = RunDensity(*setup, [&](const DensityProgress& progress) {
      line.Show(
          absl::StrFormat("%s: launching guest %d %s %s of %s resident",
                          progress.policy, progress.guest,
                          Bar(static_cast<double>(progress.resident_bytes),
                              static_cast<double>(progress.host_bytes)),
                          FormatBytes(progress.resident_bytes),
                          FormatBytes(progress.host_bytes)));
    });
  }
  if (!result.ok()) return Fail("density", result.status());
  PrintTable(*result);
  if (!out) return kExitSuccess;
  absl::Status written = out->Write("series.csv", DensitySeriesCsv(*result));
  written.Update(out->Write("summary.json", DensitySummaryJson(*result)));
  if (!written.ok()) return Fail("density", written, "--out=");
  std::cout << "\nwritten to " << out->path().string()
            << ": summary.json, series.csv\n";
  return kExitSuccess;
}

}  // namespace

std::function<int()> AddDensityCommand(CLI::App& app) {
  CLI::App& command = *app.add_subcommand(
      "density",
      "How many guests fit on a host if each touches most of its memory and "
      "frees it? The experiment of the v12 cover letter, on real memory and in "
      "virtual time.");
  const auto arguments = std::make_shared<DensityArguments>();
  DensityOptions& options = arguments->options;
  AddList(command, "--policies", options.policies,
          "Policies to run, separated by commas [off,v12,linux,adaptive]");
  AddList(command, "--mechanisms", options.mechanisms,
          "The same as mechanisms, e.g. off,reporting:linux:order=5 [those of "
          "--policies]");
  AddPolicyArguments(command, arguments->policy);
  AddFields(command, DensityFields(), options);
  command
      .add_option("--out", arguments->out,
                  "Folder for summary.json and series.csv [none]")
      ->type_name("DIR");
  return [arguments] { return RunDensityCommand(*arguments); };
}

}  // namespace guestmm::tools
