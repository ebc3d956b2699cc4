#include <cstddef>
#include <iostream>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "guestmm/base/output_file.h"
#include "guestmm/experiment/report/costs_file.h"
#include "guestmm/machine/model/calibrate.h"
#include "tools/guestmm/arguments.h"
#include "tools/guestmm/commands.h"
#include "tools/guestmm/exit_status.h"
#include "tools/guestmm/progress.h"
#include "tools/guestmm/table.h"
#include "tools/guestmm/terminal.h"

namespace guestmm::tools {
namespace {

struct CalibrateArguments {
  std::optional<std::string> out;
  bool force = false;
};

// Says on stderr what cannot be trusted, and why.
void Warn(const std::vector<UnsteadyMeasurement>& unsteady) {
  for (const UnsteadyMeasurement& part : unsteady) {
    TellError(absl::StrFormat(
        "guestmm calibrate: %s: the repetitions of a measurement differ by "
        "%.0f %%, and up to %d took more than twice the median: other work "
        "runs on this machine",
        part.what, 100 * part.spread, part.outliers));
  }
}

int RunCalibrateCommand(const CalibrateArguments& arguments) {
  const std::optional<std::string>& out = arguments.out;
  // Created first, so that an unwritable --out is reported before measuring.
  std::optional<OutputFile> file;
  if (out) {
    absl::StatusOr<OutputFile> created = OutputFile::Create(*out);
    if (!created.ok()) {
      return Fail("calibrate",
                  absl::InvalidArgumentError(created.status().message()),
                  "--out=");
    }
    file.emplace(*std::move(created));
  }

  absl::StatusOr<Calibration> calibration;
  {
    Progress progress;
    calibration = Calibrate([&](std::string_view what) {
      progress.Show(absl::StrCat("measuring ", std::string(what)),
                    std::nullopt);
    });
  }
  if (!calibration.ok()) return Fail("calibrate", calibration.status());
  Table table({"cost", "ns", "default", "source", {"meaning", 1}});
  for (size_t i = 0; i < CostFields().size(); ++i) {
    const Field<CostModel>& field = CostFields()[i];
    table.AddRow(
        {field.name(), field.Format(calibration->costs),
         field.Format(CostModel()),
         calibration->sources[i].measured ? "measured" : "not measured",
         field.text()});
  }
  std::cout << table;
  Warn(calibration->unsteady);
  if (!file) return kExitSuccess;
  if (!calibration->unsteady.empty() && !arguments.force) {
    return Fail("calibrate",
                absl::FailedPreconditionError(
                    *out + ": not written, as the costs are not to be trusted; "
                           "try again on an idle machine, or give --force"),
                "--out=");
  }
  absl::Status written = file->Write(CostsJson(calibration->costs));
  written.Update(file->Commit());
  if (!written.ok()) return Fail("calibrate", written, "--out=");
  std::cout << "\n"
            << Wrap(absl::StrCat("written to ", *out,
                                 ", for guestmm compare --costs"),
                    OutputColumns())
            << "\n";
  return kExitSuccess;
}

}  // namespace

std::function<int()> AddCalibrateCommand(CLI::App& app) {
  CLI::App& command = *app.add_subcommand(
      "calibrate",
      "Measures the costs that guestmm compare charges in virtual time on this "
      "machine: the allocator, page faults, discards. Costs that a process "
      "cannot measure, such as VM exits, keep their defaults.");
  command.footer(
      "guestmm calibrate --out costs.json\n"
      "guestmm compare --costs costs.json");
  const auto arguments = std::make_shared<CalibrateArguments>();
  command
      .add_option("--out", arguments->out,
                  "Write the costs to this file, unless this machine is too "
                  "busy to trust them")
      ->type_name("FILE");
  command.add_flag("--force", arguments->force, "Write them even so")
      ->needs("--out");
  AddWide(command);
  return [arguments] { return RunCalibrateCommand(*arguments); };
}

}  // namespace guestmm::tools
