#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <iostream>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "guestmm/base/signal_cleanup.h"
#include "guestmm/experiment/density/density.h"
#include "guestmm/experiment/report/output_directory.h"
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
struct DensityArguments {
  DensityOptions options;
  PolicyArguments policy;
  ExperimentOutput output;
};

// The share of an experiment that is done. Each policy is an equal part, which
// ends, at the latest, with as many guests as fit under the limit.
class DensityShare {
 public:
  explicit DensityShare(size_t policies) : policies_(policies) {}

  double After(const DensityProgress& at) {
    if (at.policy != policy_) {
      if (!policy_.empty()) ++done_;
      policy_ = at.policy;
    }
    const double guests =
        at.most_guests == 0 ? 0
                            : std::min(1.0, (at.guest - 1.0) / at.most_guests);
    return (static_cast<double>(done_) + guests) /
           static_cast<double>(policies_);
  }

 private:
  const size_t policies_;
  std::string policy_;
  size_t done_ = 0;
};

void PrintTable(const DensityResult& result) {
  const DensitySetup& setup = result.setup;
  std::cout << WrapClauses(
      absl::StrFormat(
          "density: guests of %s on a host of %s, each touching %s or more, "
          "freeing it and then %s; %sin %s time, seed %d\n\n",
          FormatBytes(setup.guest_bytes), FormatBytes(setup.host_bytes),
          FormatBytes(setup.workload_min_bytes),
          setup.options.idle_activity ? "idling" : "silent",
          KernelPhrase(setup.options.kernel),
          setup.real_time ? "real" : "virtual", setup.options.seed),
      OutputColumns());
  // More guests would fit under a limit that --max-guests ended.
  const DensityRow& last = result.rows.back();
  const int limit = last.stopped.empty() ? last.guests : 0;
  Table table({"policy",
               "guests that fit",
               "resident at end",
               "handed back",
               {"reports", 1},
               {"madvise calls", 2},
               "share of limit",
               "time"});
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
              << Wrap(absl::StrCat(row.policy, " stopped early: ", row.stopped),
                      OutputColumns())
              << "\n";
  }
  if (!result.complete) PrintIncomplete(result.status);
}

int RunDensityCommand(DensityArguments& arguments) {
  // Finds all errors of the command line before anything is written or run.
  DensityOptions options = arguments.options;
  options.policy_parameters = arguments.policy.parameters;
  const absl::StatusOr<uint64_t> available = AvailableMemory();
  const absl::StatusOr<DensitySetup> setup = ResolveDensity(options, available);
  if (!setup.ok()) return Fail("density", setup.status());
  TellUnknownMemory("density", available);
  ExperimentOutput& output = arguments.output;
  absl::Status status = output.Open();
  if (!status.ok()) return Fail("density", status);

  const InterruptWatch watch;
  absl::StatusOr<DensityResult> result;
  {
    Progress progress(output.quiet());
    DensityShare share(setup->options.policies.size());
    result = RunDensity(
        *setup,
        [&](const DensityProgress& at) {
          progress.Show(
              absl::StrCat("launching guests under ", std::string(at.policy)),
              share.After(at),
              absl::StrFormat("guest %d: %s", at.guest,
                              FormatBytes(at.resident_bytes)));
        },
        [&] { return watch.interrupted(); });
  }
  if (!result.ok()) return Fail("density", result.status());
  result->run = output.Run({});
  const ResultFile files[] = {
      {kSummaryFile, [&] { return DensitySummaryJson(*result); }},
      {kSeriesFile, [&] { return DensitySeriesCsv(*result); }}};
  // The limit's row, the last, needs no run.
  const bool has_rows = result->rows.size() > 1;
  status = output.Put(has_rows, files, [&] { PrintTable(*result); });
  if (!status.ok()) return Fail("density", status);
  return Finish("density", result->status, result->complete);
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
  command.footer(
      "guestmm density\n"
      "guestmm density --policies linux,linux:order=5:delay=500ms,adaptive\n"
      "guestmm density --scale 1 --out results\n"
      "guestmm density --vmm /tmp/balloon");
  command.option_defaults()->group("Policies");
  AddList(command, "--policies", options.policies,
          "Policies to run, separated by commas [off,v12,linux,adaptive]");
  AddList(command, "--mechanisms", options.mechanisms,
          "The same as mechanisms, e.g. off,reporting:linux:order=5 [those of "
          "--policies]");
  AddPolicyArguments(command, arguments->policy);
  command.option_defaults()->group("Guests and host");
  AddFields(command, DensityFields(), options);
  command.option_defaults()->group("Output");
  AddWide(command);
  arguments->output.AddOptions(command, {kSummaryFile, kSeriesFile});
  command.callback([&command, &options] {
    if (options.guest_bytes && options.host_bytes) {
      RefuseUnused(command, {"--scale"},
                   "with both --guest-memory and --host-memory");
    }
  });
  return [arguments] { return RunDensityCommand(*arguments); };
}

}  // namespace guestmm::tools
