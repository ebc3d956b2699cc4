#include "tools/guestmm/density_command.h"

#include <cstdint>
#include <cstdio>
#include <iostream>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_format.h"
#include "guestmm/experiment/density/density.h"
#include "guestmm/experiment/report/output_directory.h"
#include "tools/guestmm/arguments.h"
#include "tools/guestmm/exit_status.h"
#include "tools/guestmm/policy_arguments.h"
#include "tools/guestmm/progress.h"
#include "tools/guestmm/table.h"

namespace guestmm::tools {
namespace {

// What the command line said.
struct DensityArguments {
  DensityOptions options;
  std::optional<uint64_t> seed;
  std::optional<uint64_t> max_guests;
  std::optional<double> settle;
  PolicyArguments policy;
  std::string out;

  DensityOptions ToOptions() const {
    DensityOptions result = options;
    result.seed = seed.value_or(options.seed);
    if (max_guests) result.max_guests = static_cast<int>(*max_guests);
    result.settle_seconds = settle.value_or(options.settle_seconds);
    result.policy_parameters = policy.parameters;
    return result;
  }
};

void PrintTable(const DensityResult& result) {
  const DensityOptions& options = result.options;
  std::cout << absl::StrFormat(
      "density: guests of %s on a host of %s (scale %g), each touching %s or "
      "more, freeing it and %s; seed %d\n\n",
      FormatBytes(options.guest_bytes), FormatBytes(options.host_bytes),
      *options.scale, FormatBytes(options.workload_min_bytes),
      options.idle_activity ? "then idling" : "then silent", options.seed);
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
  // Everything that can be wrong is found before anything is written or run.
  const absl::StatusOr<DensityOptions> resolved =
      ResolveDensity(arguments.ToOptions(), AvailableMemory());
  if (!resolved.ok()) return Fail("density", resolved.status(), "--");
  std::optional<OutputDirectory> out;
  if (!arguments.out.empty()) {
    absl::StatusOr<OutputDirectory> opened =
        OutputDirectory::Open(arguments.out);
    if (!opened.ok()) {
      return Fail("density",
                  absl::InvalidArgumentError(opened.status().message()),
                  "--out ");
    }
    out = *std::move(opened);
  }

  absl::StatusOr<DensityResult> result;
  {
    ProgressLine line;
    result = RunDensity(*resolved, [&](const DensityProgress& progress) {
      line.Show(
          absl::StrFormat("%s: launching guest %d %s %s of %s resident",
                          progress.policy, progress.guest,
                          Bar(static_cast<double>(progress.resident_bytes),
                              static_cast<double>(progress.host_bytes)),
                          FormatBytes(progress.resident_bytes),
                          FormatBytes(progress.host_bytes)));
    });
  }
  if (!result.ok()) return Fail("density", result.status(), "");
  PrintTable(*result);
  if (!out) return kExitSuccess;
  absl::Status written = out->Write("series.csv", DensitySeriesCsv(*result));
  written.Update(out->Write("summary.json", DensitySummaryJson(*result)));
  if (!written.ok()) return Fail("density", written, "--out ");
  std::cout << "\nwritten to " << out->path().string()
            << ": summary.json, series.csv\n";
  return kExitSuccess;
}

}  // namespace

std::function<int()> AddDensityCommand(CLI::App& app) {
  CLI::App& command = *app.add_subcommand(
      "density",
      "How many guests that touch most of their memory and free it fit on a "
      "host? The experiment of the v12 cover letter, on real memory.");
  const auto arguments = std::make_shared<DensityArguments>();
  DensityOptions& options = arguments->options;
  AddNumber(command, "--scale", options.scale,
            "Multiplies every size: 1 is guests of 5 GiB on 15 GiB "
            "[what free memory allows, at most 0.1]");
  AddBytes(command, "--guest-memory", options.guest_bytes,
           "Memory of a guest, before scaling");
  AddBytes(command, "--host-memory", options.host_bytes,
           "Memory of the host, before scaling");
  AddBytes(command, "--footprint", options.footprint_bytes,
           "What a guest's kernel keeps in use, before scaling");
  AddBytes(command, "--workload-min", options.workload_min_bytes,
           "The least that a workload touches, before scaling");
  command
      .add_option("--policies", options.policies,
                  "Which to run, separated by commas [off,v12]")
      ->delimiter(',');
  AddInteger(command, "--seed", 0, ~uint64_t{0}, arguments->seed,
             "Draws sizes and orders [1]");
  AddPolicyArguments(command, arguments->policy);
  AddChoice<HypervisorKind>(
      command, "--hypervisor",
      {{"madvise", HypervisorKind::kMadvise}, {"none", HypervisorKind::kNone}},
      options.hypervisor,
      "madvise: discards; none: acknowledges and keeps "
      "everything [madvise]");
  command
      .add_option("--vmm", options.vmm_socket,
                  "The guests' balloons are those of the VMM that listens "
                  "there (guestmm vmm), their memory is in memfds [none]")
      ->type_name("PATH")
      ->check([](const std::string& path) {
        return path.empty() ? "allowed is the path of a socket" : "";
      });
  AddChoice<HugePages>(command, "--huge-pages",
                       {{"host", HugePages::kHostDefault},
                        {"advise", HugePages::kAdvise},
                        {"forbid", HugePages::kForbid}},
                       options.huge_pages,
                       "Transparent huge pages behind guest RAM: as the host's "
                       "setting says, advised, or forbidden [host]");
  AddChoice<bool>(command, "--idle-activity", {{"on", true}, {"off", false}},
                  options.idle_activity,
                  "Whether a guest whose workload has ended still takes and "
                  "frees a little memory, as an idle guest does; v12 starts no "
                  "run but by a free [on]");
  AddNumber(command, "--settle", arguments->settle,
            "Seconds to wait, at most, until a guest gives nothing more back "
            "[10]");
  AddInteger(command, "--max-guests", 1, 100000, arguments->max_guests,
             "Stop a policy's row here [100]");
  command
      .add_option("--out", arguments->out,
                  "Write summary.json and series.csv to this folder")
      ->type_name("DIR");
  return [arguments] { return RunDensityCommand(*arguments); };
}

}  // namespace guestmm::tools
