#include <cstddef>
#include <filesystem>
#include <iostream>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "guestmm/experiment/report/costs_file.h"
#include "guestmm/experiment/report/output_directory.h"
#include "guestmm/machine/model/calibrate.h"
#include "tools/guestmm/commands.h"
#include "tools/guestmm/exit_status.h"
#include "tools/guestmm/progress.h"
#include "tools/guestmm/table.h"

namespace guestmm::tools {
namespace {

int RunCalibrateCommand(const std::string& out) {
  // Opened first, so that an unwritable --out is reported before measuring.
  const std::filesystem::path file(out);
  std::optional<OutputDirectory> folder;
  if (!out.empty()) {
    absl::StatusOr<OutputDirectory> opened = OutputDirectory::Open(
        file.has_parent_path() ? file.parent_path().string() : ".");
    if (!opened.ok()) {
      return Fail("calibrate",
                  absl::InvalidArgumentError(opened.status().message()),
                  "--out=");
    }
    folder = *std::move(opened);
  }

  absl::StatusOr<Calibration> calibration;
  {
    ProgressLine line;
    calibration = Calibrate([&](std::string_view what) {
      line.Show(absl::StrCat("measuring ", std::string(what)));
    });
  }
  if (!calibration.ok()) return Fail("calibrate", calibration.status());
  Table table({"cost", "ns", "default", ""});
  for (size_t i = 0; i < CostFields().size(); ++i) {
    const Field<CostModel>& field = CostFields()[i];
    table.AddRow(
        {absl::StrFormat("%-20s  %s", field.name(), field.text()),
         field.Format(calibration->costs), field.Format(CostModel()),
         calibration->sources[i].measured ? "measured" : "not measured"});
  }
  std::cout << table;
  if (!folder) return kExitSuccess;
  const absl::Status written =
      folder->Write(file.filename().string(), CostsJson(calibration->costs));
  if (!written.ok()) return Fail("calibrate", written, "--out=");
  std::cout << "\nwritten to " << out << ", for guestmm compare --costs\n";
  return kExitSuccess;
}

}  // namespace

std::function<int()> AddCalibrateCommand(CLI::App& app) {
  CLI::App& command = *app.add_subcommand(
      "calibrate",
      "Measures the costs that guestmm compare charges in virtual time on this "
      "machine: the allocator, page faults, discards. Costs that a process "
      "cannot measure, such as VM exits, keep their defaults.");
  const auto out = std::make_shared<std::string>();
  command.add_option("--out", *out, "Write the costs to this file")
      ->type_name("FILE");
  return [out] { return RunCalibrateCommand(*out); };
}

}  // namespace guestmm::tools
