#ifndef GUESTMM_TOOLS_GUESTMM_EXPERIMENT_OUTPUT_H_
#define GUESTMM_TOOLS_GUESTMM_EXPERIMENT_OUTPUT_H_

// Where an experiment's results go: a table on standard output, or one of its
// files there, and all of its files to a folder.

#include <chrono>
#include <cstdint>
#include <ctime>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "guestmm/buddy/placement.h"
#include "guestmm/experiment/report/output_directory.h"
#include "guestmm/host/accounting/run_info.h"

namespace guestmm::tools {

// Of an experiment's heading: "on Linux 6.12, "; nothing for 5.3, the default.
std::string KernelPhrase(KernelVersion kernel);

// The files that every experiment has.
inline constexpr char kSummaryFile[] = "summary.json";
inline constexpr char kSeriesFile[] = "series.csv";

class ExperimentOutput {
 public:
  // Adds --out, --force, --json, --csv and --quiet to `command`. `files`: the
  // names of the experiment's files. This must outlive parsing. REQUIRES:
  // `command` has --wide.
  void AddOptions(CLI::App& command, std::vector<std::string> files);

  bool has_folder() const { return out_.has_value(); }
  // True if nothing but errors, and what --json and --csv ask for, is printed.
  bool quiet() const { return quiet_; }

  // Opens the folder, if one is asked for. The error is of --out, as an
  // InvalidArgument. The run begins here.
  absl::Status Open();
  // This command and its run so far, which read `inputs`.
  RunInfo Run(std::vector<std::string> inputs) const;
  // Prints the results, by `print_table` or as one of `files`, and writes
  // `files` to the folder, if there is one. The error is OutputDirectory's.
  // Without rows the run was interrupted: one line on stderr says so, in place
  // of the table and the folder's files.
  absl::Status Put(bool has_rows, std::span<const ResultFile> files,
                   absl::FunctionRef<void()> print_table) const;

 private:
  std::string command_;
  std::vector<std::string> files_;
  std::optional<std::string> out_;
  bool force_ = false;
  // The file that is printed in place of the table.
  std::string printed_;
  bool quiet_ = false;
  std::optional<OutputDirectory> folder_;
  std::time_t date_ = 0;
  std::chrono::steady_clock::time_point start_;
};

// Prints one line on stderr if `available`, AvailableMemory's answer, is
// unknown: then nothing keeps an experiment on real memory within it.
void TellUnknownMemory(const char* command,
                       const absl::StatusOr<uint64_t>& available);

// Prints, below a table, that the command was interrupted, or ended by an
// error, `status`.
void PrintIncomplete(const absl::Status& status);

// The end of a command whose results were put out: prints the error that ended
// it, if one did, and returns the exit status.
int Finish(const char* command, const absl::Status& status, bool complete);

}  // namespace guestmm::tools

#endif  // GUESTMM_TOOLS_GUESTMM_EXPERIMENT_OUTPUT_H_
