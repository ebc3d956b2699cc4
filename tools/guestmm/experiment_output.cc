#include "tools/guestmm/experiment_output.h"

#include <ctime>
#include <fstream>
#include <iostream>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "tools/guestmm/exit_status.h"
#include "tools/guestmm/terminal.h"
#include "tools/guestmm/usage_error.h"

namespace guestmm::tools {
namespace {

absl::Status OfOut(const absl::Status& status, absl::StatusCode code) {
  return absl::Status(code, absl::StrCat("--out=", status.message()));
}

}  // namespace

std::string KernelPhrase(KernelVersion kernel) {
  if (kernel == KernelVersion::kV5_3) return "";
  return absl::StrCat("on Linux ",
                      kKernelVersionNames[static_cast<size_t>(kernel)], ", ");
}

void ExperimentOutput::AddOptions(CLI::App& command,
                                  std::vector<std::string> files) {
  command_ = FullName(command);
  files_ = std::move(files);
  CLI::Option* const out =
      command
          .add_option("--out", out_,
                      "Folder for " + absl::StrJoin(files_, ", ") + " [none]")
          ->type_name("DIR");
  command
      .add_flag("--force", force_,
                "Replace the results of another run in --out")
      ->needs(out);
  const auto prints = [&](const char* option, const char* file) {
    return command
        .add_flag_callback(
            option, [this, file] { printed_ = file; },
            absl::StrCat("Print ", file, " in place of the tables"))
        ->excludes("--wide");
  };
  prints("--json", kSummaryFile)->excludes(prints("--csv", kSeriesFile));
  command.add_flag("--quiet", quiet_,
                   "Print errors only, and what --json or --csv asks for");
}

absl::Status ExperimentOutput::Open() {
  date_ = std::time(nullptr);
  start_ = std::chrono::steady_clock::now();
  if (!out_) return absl::OkStatus();
  absl::StatusOr<OutputDirectory> opened =
      OutputDirectory::Open(*out_, files_, force_);
  if (!opened.ok()) {
    return OfOut(opened.status(), absl::StatusCode::kInvalidArgument);
  }
  folder_.emplace(*std::move(opened));
  return absl::OkStatus();
}

RunInfo ExperimentOutput::Run(std::vector<std::string> inputs) const {
  const std::chrono::duration<double> wall =
      std::chrono::steady_clock::now() - start_;
  RunInfo run = {.command = {},
                 .date = std::string(sizeof "2024-02-29T23:59:59Z" - 1, '\0'),
                 .wall_seconds = wall.count(),
                 .inputs = std::move(inputs)};
  tm utc = {};
  gmtime_r(&date_, &utc);
  std::strftime(run.date.data(), run.date.size() + 1, "%Y-%m-%dT%H:%M:%SZ",
                &utc);
  std::ifstream arguments("/proc/self/cmdline", std::ios::binary);
  for (std::string word; std::getline(arguments, word, '\0');) {
    run.command.push_back(word);
  }
  return run;
}

absl::Status ExperimentOutput::Put(
    bool has_rows, std::span<const ResultFile> files,
    absl::FunctionRef<void()> print_table) const {
  const bool has_table = has_rows && printed_.empty() && !quiet_;
  if (has_table) print_table();
  for (const ResultFile& file : files) {
    if (file.name == printed_) std::cout << file.text();
  }
  if (!has_rows) {
    TellError(command_ + ": interrupted; no row was done");
    return absl::OkStatus();
  }
  if (!folder_) return absl::OkStatus();
  const absl::Status status = folder_->Write(files);
  if (!status.ok()) return OfOut(status, status.code());
  if (has_table) {
    std::cout << "\n"
              << Wrap(absl::StrCat("written to ", folder_->path().string(),
                                   ": ", absl::StrJoin(files_, ", ")),
                      OutputColumns())
              << "\n";
  }
  return status;
}

void TellUnknownMemory(const char* command,
                       const absl::StatusOr<uint64_t>& available) {
  if (available.ok()) return;
  TellError(absl::StrCat(
      "guestmm ", command,
      ": the machine's available memory is unknown, so it is not checked: ",
      available.status().message()));
}

void PrintIncomplete(const absl::Status& status) {
  std::cout << "\nincomplete: "
            << (status.ok() ? "interrupted" : "ended by an error")
            << "; these are the rows that were done\n";
}

int Finish(const char* command, const absl::Status& status, bool complete) {
  if (!status.ok()) return FailReading(command, status);
  return complete ? kExitSuccess : kExitInterrupted;
}

}  // namespace guestmm::tools
