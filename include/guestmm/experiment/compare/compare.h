#ifndef GUESTMM_EXPERIMENT_COMPARE_COMPARE_H_
#define GUESTMM_EXPERIMENT_COMPARE_COMPARE_H_

// Runs the same work without reporting and under each of several policies, and
// measures how much free memory the host gets back, how soon, and at what cost
// to the guest.
//
//   boot | the workload | rest: no vCPU does anything | last look
//
// Without reporting the workload runs for its duration. What it did in that
// time is the amount of work of all other runs, however long it takes them.
//
// A workload may be a recording, replayed on the recorded pages. What the real
// kernel reported is then a row beside the policies, in the same model.
//
// In virtual time a guest is its allocator and a model: touching, faulting
// back, discarding, the reporter's work and its locks have costs (CostModel),
// charged to the vCPUs that they delay. The same options give the same result
// to the byte. In real time vCPUs are threads, and the guest has RAM.

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "guestmm/base/export.h"
#include "guestmm/base/fields.h"
#include "guestmm/base/units.h"
#include "guestmm/buddy/placement.h"
#include "guestmm/experiment/replay/replay.h"
#include "guestmm/host/accounting/host_info.h"
#include "guestmm/host/accounting/run_info.h"
#include "guestmm/machine/model/cost_model.h"
#include "guestmm/reporting/policies.h"
#include "guestmm/workload/recipes.h"

namespace GUESTMM_EXPORT guestmm {

enum class CompareMode { kVirtual, kReal };

struct CompareOptions {
  // Each as ParsePolicy takes it ("linux:order=5"), or off, which is always
  // run, and first. Empty: `mechanisms`, or if that is empty too all policies
  // but v12-hotplug, which is v12 while memory is neither added nor removed.
  std::vector<std::string> policies = {};
  // The same as ParseMechanism takes it ("reporting:linux:order=5"). Only one
  // of the two may be set; ResolveCompare sets `policies` and empties this.
  std::vector<std::string> mechanisms = {};
  // Names of WorkloadInfos, or paths of recordings (ReadRecording) with a '/'
  // in them. Empty: the workloads that run by default; in real time
  // page_fault1.
  std::vector<std::string> workloads = {};
  uint64_t seed = 1;
  CompareMode mode = CompareMode::kVirtual;
  // The guest's kernel, for its page allocator. Unset: 5.3, which v12 was
  // posted for. Recordings are followed by its rules too, but by those of their
  // own kernel if it is unset or 5.3.
  std::optional<KernelVersion> kernel = {};

  PolicyDefaults policy_parameters = {};
  // The smallest free block that counts as reportable. Unset: the order of
  // policy_parameters, or 9.
  std::optional<Order> reportable_order = {};
  // The unit in which the host maps memory (HostLedger): 2 MiB where huge pages
  // back the guest. In real time Order(0) or kPageblockOrder. Unset: GranuleOf.
  std::optional<Order> granule = {};
  // In virtual time: the host's khugepaged makes split huge pages whole again.
  bool khugepaged = false;
  // In virtual time. A recording's vCPUs are charged nothing.
  CostModel costs = {};

  // Unset: each workload's own. A recording always has its own.
  std::optional<uint64_t> guest_bytes = {};
  std::optional<uint64_t> vcpus = {};
  std::optional<double> duration_seconds = {};
  // Between the end of the work and the last look. Unset: RestSecondsOf.
  std::optional<double> rest_seconds = {};
  // In real time: the number of runs of each policy. Rows are medians. Policies
  // take turns, so that what else the machine does affects all alike.
  uint64_t repeats = 5;
  // In real time: the number of fresh processes that do all that, one after
  // another, since a process has its memory laid out once for all of its
  // repeats. More than one needs CompareHooks::run_process.
  uint64_t processes = 1;
};
// All members but lists and the costs.
const Fields<CompareOptions>& CompareFields();

// The options' kernel, or the default.
KernelVersion KernelOf(const CompareOptions& options);
// True if a workload of CompareOptions is the path of a recording.
bool IsRecording(std::string_view workload);
// The options' granule, or that workload's default: 4 KiB; for a recording
// 2 MiB, as the VMMs map whose figures it may bring.
Order GranuleOf(const CompareOptions& options, std::string_view workload);
// The options' rest, or that workload's default: 60, and in real time 10; for a
// recording 0, since it ends with whatever its guest did last.
double RestSecondsOf(const CompareOptions& options, std::string_view workload);

// A column is unset where it has no meaning, or nothing was measured.
struct CompareRow {
  std::string workload;
  // "off", a policy, "real" (what a recording's kernel reported), or "limit":
  // an ideal host that has every free page at once, at no cost. The footprint
  // of limit is the memory that the guest had in use, of all runs the least: no
  // run's footprint is under it.
  std::string policy;

  // The share of free memory that the host has at the last look: of all free
  // blocks; and of free blocks of the reportable order or more in zones above
  // their low watermark.
  std::optional<double> host_share_of_free;
  std::optional<double> host_share_of_reportable;
  // From the end of the work until that percentage of what came back to the
  // host after it had come back.
  std::optional<double> time_to_50_s;
  std::optional<double> time_to_90_s;
  std::optional<double> time_to_99_s;
  // Resident memory integrated from boot, or from a recording's start, to the
  // last look.
  double footprint_gib_min = 0;
  // Bytes reported, over those of them that needed it (HostLedger).
  std::optional<double> reported_over_needed;
  // Faults of the host within a second of the discard (HostLedger).
  std::optional<uint64_t> refaults_1s;
  std::optional<uint64_t> reports;
  std::optional<uint64_t> kicks;
  std::optional<uint64_t> discard_calls;
  // The times for which the reporter held zone locks.
  std::optional<double> lock_max_us;
  std::optional<double> lock_mean_us;
  // Allocations that failed while memory was isolated.
  std::optional<uint64_t> failed_while_isolated;
  // The work of the workload after its warm-up, in its own unit: the same in
  // all runs, unless allocations failed or a run was cut off after ten times
  // the duration. And the time that it took: the mean of the vCPUs, as each
  // stops when it has done its part.
  std::optional<uint64_t> work;
  std::optional<double> duration_seconds;
  // Work per second, as a share of off's. Where the work is the same, that is
  // off's duration over this one.
  std::optional<double> work_share_of_off;
  // The least and the most of several processes.
  std::optional<double> work_share_of_off_min;
  std::optional<double> work_share_of_off_max;

  // In virtual time: shares of all vCPUs' time until the end of the work that
  // were lost to the hook; to the reporter's work and its locks; to kicks,
  // interrupts and discards; and, beyond what off lost, to the host's faults
  // and its clearing of pages.
  struct Loss {
    double hook = 0;
    double isolation = 0;
    double discard = 0;
    double fault_back = 0;
    double zeroing = 0;
  };
  std::optional<Loss> loss;
};

// The guest at one instant of a run.
struct CompareSample {
  std::string workload;
  std::string policy;
  uint64_t repeat = 1;  // from 1, through all processes
  double seconds = 0;
  uint64_t resident_bytes = 0;
  uint64_t free_bytes = 0;
  // As in CompareRow. Unset in real time and for a recording.
  std::optional<double> host_share_of_free;
};

// A workload that is a recording: its guest, and how much of it could be
// replayed.
struct CompareRecording {
  std::string workload;
  uint64_t guest_bytes = 0;
  double duration_seconds = 0;
  ReplayCounters counters;
  std::vector<std::string> files;  // Recording::files
};

struct CompareResult {
  CompareOptions options;  // resolved
  std::vector<CompareRecording> recordings;
  HostInfo host;
  RunInfo run;  // for the caller to fill in
  std::vector<CompareRow> rows;
  std::vector<CompareSample> samples;
  // False if the experiment was stopped, or a run failed: it has the runs that
  // were done, as far as off was among them.
  bool complete = true;
  // The first error, where other runs were done.
  absl::Status status = {};
};

// The result of a process that ran the whole experiment once.
struct CompareProcess {
  std::vector<CompareRow> rows;
  std::vector<CompareSample> samples;
};

struct CompareProgress {
  // The run that is under way in this process; empty for a process.
  std::string_view workload = {};
  std::string_view policy = {};
  // Runs, or processes.
  double done = 0;
  double whole = 1;
  // The number of the process under way, from 1, if there are several; 0 for a
  // run.
  uint64_t process = 0;
};

struct CompareHooks {
  // In virtual time: the runs that are under way at a time, each on a thread of
  // its own; at least 1. Does not affect the result. Unset: as many as the
  // machine has processors.
  std::optional<uint64_t> jobs = {};
  // Called from time to time, and after each run, by one thread at a time.
  std::function<void(const CompareProgress&)> progress = {};
  // Runs the experiment in a fresh process, as RunCompareProcess does. Called
  // once for each of options.processes, if there are several.
  std::function<absl::StatusOr<CompareProcess>()> run_process = {};
  // Asked from time to time, on any thread. Once it returns true, no run is
  // begun, those under way are ended, and the result is not complete. The
  // caller ends the process that runs.
  std::function<bool()> stopped = {};
};

// Fills in every default that does not depend on the workload. The error is an
// OptionError. `available`: AvailableMemory's answer, which real guests must
// fit in; for them its error, unless that is unknown.
absl::StatusOr<CompareOptions> ResolveCompare(
    const CompareOptions& options, const absl::StatusOr<uint64_t>& available);

// Runs the experiment: for each workload a row for off, one for each policy,
// one for the real kernel if the workload is a recording that has its reports,
// and one for the limit. With options.processes > 1, in as many fresh
// processes, one after another: each row is then the median of theirs.
//
// The error is of a guest that could not be made or measured or that lost
// memory in use, or of a recording (ReadRecording, Replay). Internal, with its
// number, for a process that failed. Where the runs that were done make a row,
// it is CompareResult::status. REQUIRES: `resolved` comes from
// ResolveCompare; hooks.run_process is set if there are several processes.
absl::StatusOr<CompareResult> RunCompare(const CompareOptions& resolved,
                                         const CompareHooks& hooks = {});

// Runs `command`, a path and its arguments, to its end with --out=FOLDER
// appended, and reads the files that it leaves there as `guestmm compare` does.
// Its stdout is discarded. The error says how it ended and quotes the
// last line of its stderr.
absl::StatusOr<CompareProcess> RunCompareProcess(
    const std::vector<std::string>& command);

// The text of summary.json:
//
//   schema_version  1
//   experiment      "compare"
//   mode            "virtual" or "real"
//   config          what repeats the run: policies, policy_parameters by
//   policy,
//                   workloads by name, reportable_order, granule_bytes, rest_s,
//                   repeats, processes, costs_ns by CostFields, and the hash
//                   of these as calibrate writes them. A workload has
//                   guest_bytes, nodes, vcpus and duration_s; a recording
//                   guest_bytes, duration_s, granule_bytes, rest_s and its
//                   ReplayCounters
//   seed
//   versions, host  where it ran
//   run             by which command, when, on which files (RunInfo)
//   complete        CompareResult::complete
//   rows            an object for each CompareRow: workload; mechanism, e.g.
//                   "off" or "reporting:linux:order=5"; policy, the same
//                   without "reporting:" and parameters, e.g. "linux"; and each
//                   column by the name of its member
//
// Fractions are rounded to six decimals. What is unset is null.
std::string CompareSummaryJson(const CompareResult& result);
// The text of series.csv: a heading, then a line for each CompareSample. What
// is unset is empty.
std::string CompareSeriesCsv(const CompareResult& result);

// The rows of a summary.json, and the samples of a series.csv, rounded as they
// are there. InvalidArgument begins with `file` and names the field, or the
// line, that is wrong.
absl::StatusOr<std::vector<CompareRow>> ParseCompareSummary(
    std::string_view file, std::string_view text);
absl::StatusOr<std::vector<CompareSample>> ParseCompareSeries(
    std::string_view file, std::string_view text);

}  // namespace guestmm

#endif  // GUESTMM_EXPERIMENT_COMPARE_COMPARE_H_
