#ifndef GUESTMM_EXPERIMENT_COMPARE_COMPARE_H_
#define GUESTMM_EXPERIMENT_COMPARE_COMPARE_H_

// Reporting policies side by side: the same work, done without reporting and
// under each policy. How much free memory does the host get back, how soon, at
// what cost to the guest?
//
//   boot | the workload | rest: no vCPU does anything | look
//
// Without reporting the workload runs for its duration; what it did in that
// time is the amount of work of all other runs, however long it takes them.
//
// A workload may be a recording, replayed on the recorded pages: then what the
// real kernel reported stands beside the policies, in the same model.
//
// In virtual time a guest is its allocator and a model: what touching, faulting
// back, discarding, the reporter's work and its locks cost (CostModel) is
// charged to the vCPUs that they delay, and the same options are the same
// result to the byte. For real, vCPUs are threads, and the guest has RAM.

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "guestmm/base/units.h"
#include "guestmm/experiment/replay/replay.h"
#include "guestmm/host/accounting/host_info.h"
#include "guestmm/machine/model/cost_model.h"
#include "guestmm/reporting/policies.h"
#include "guestmm/workload/recipes.h"

namespace guestmm {

enum class CompareMode { kVirtual, kReal };

struct CompareOptions {
  // By name; empty: all there are, but v12-hotplug, which is v12 where no
  // memory comes or goes. "off" is always run first, named or not.
  std::vector<std::string> policies = {};
  // By name, as WorkloadInfos has them, or a recording by its path, with a
  // '/' in it, as ReadRecording takes it; empty: those that are run by default,
  // and for real page_fault1 alone.
  std::vector<std::string> workloads = {};
  uint64_t seed = 1;
  CompareMode mode = CompareMode::kVirtual;

  PolicyParameters policy_parameters = {};
  // The smallest free block that counts as reportable. Absent: the order of
  // policy_parameters, or 9.
  std::optional<Order> reportable_order = {};
  // What the host maps at a time: Order(0) for 4 KiB or kPageblockOrder for
  // huge pages. Absent: GranuleOf.
  std::optional<Order> granule = {};
  // In virtual time; a recording's vCPUs are charged nothing.
  CostModel costs = {};

  // Absent: each workload's own, which a recording always has.
  std::optional<uint64_t> guest_bytes = {};
  std::optional<uint64_t> vcpus = {};
  std::optional<double> duration_seconds = {};
  // Between the end of the workload and the last look. Absent: RestSecondsOf.
  std::optional<double> rest_seconds = {};
  // For real: how often each policy has its turn; rows are medians. Policies
  // take turns, so that what the machine does meanwhile happens to all.
  uint64_t repeats = 5;
  // For real: how many fresh processes do all that, one after another, since
  // the layout of a process's memory is the same in all of its repeats. Started
  // by `guestmm compare`, not by RunCompare.
  uint64_t processes = 1;
};

// Whether a workload of CompareOptions is a recording's path.
bool IsRecording(std::string_view workload);
// The options', or that workload's own: 4 KiB, and of a recording 2 MiB, since
// that is what VMMs have, whose figures it may bring.
Order GranuleOf(const CompareOptions& options, std::string_view workload);
// The same: 60, and for real 10; of a recording 0, since what its guest did in
// the end is in it.
double RestSecondsOf(const CompareOptions& options, std::string_view workload);

// Columns that have no meaning for a row, or of which there is nothing to tell,
// are absent.
struct CompareRow {
  std::string workload;
  // "off", a policy, "real" (what a recording's kernel did), or "limit": an
  // ideal whose host has every free page at once, at no cost. Its footprint is
  // what the guest had in use, in whichever run that was least: no run's
  // footprint is under it.
  std::string policy;

  // At the end, the share of free memory that the host has: of everything on
  // free lists; and of free blocks of the reportable order or more in zones
  // above their low watermark.
  std::optional<double> host_share_of_free;
  std::optional<double> host_share_of_reportable;
  // From the end of the workload until that much of what came back to the host
  // from then on had come.
  std::optional<double> time_to_50_s;
  std::optional<double> time_to_90_s;
  std::optional<double> time_to_99_s;
  // What was resident, from boot, or a recording's start, to the last look.
  double footprint_gib_min = 0;
  // Bytes reported, over those in granules that needed it (HostLedger).
  std::optional<double> reported_over_needed;
  // Granules touched again within a second of their discard.
  std::optional<uint64_t> refaults_1s;
  std::optional<uint64_t> reports;
  std::optional<uint64_t> kicks;
  std::optional<uint64_t> discard_calls;
  // How long the reporter held zones' locks.
  std::optional<double> lock_max_us;
  std::optional<double> lock_mean_us;
  // Allocations that failed while memory was isolated for the host.
  std::optional<uint64_t> failed_while_isolated;
  // What the workload did after its warm-up, in its own unit, which is the same
  // in all runs but for allocations that failed; and how long it took, as the
  // mean of the vCPUs.
  std::optional<uint64_t> work;
  std::optional<double> duration_seconds;
  // Work per second, as a share of the same without reporting: where the work
  // is the same, off's duration over this one.
  std::optional<double> work_share_of_off;
  // Of several processes, the least and the most.
  std::optional<double> work_share_of_off_min;
  std::optional<double> work_share_of_off_max;

  // In virtual time: what vCPUs lost, as a share of all their time: in the
  // hook; to the reporter's own work and its locks; to kicks, interrupts and
  // discards; and, beyond what it was without reporting, to the host's faults
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

// The guest at one moment of a run.
struct CompareSample {
  std::string workload;
  std::string policy;
  uint64_t repeat = 1;  // from 1, on and on through all processes
  double seconds = 0;
  uint64_t resident_bytes = 0;
  uint64_t free_bytes = 0;
  // As in CompareRow; in virtual time, but not of a recording.
  std::optional<double> host_share_of_free;
};

// A workload that is a recording: its guest, and what could be followed of it.
struct CompareRecording {
  std::string workload;
  uint64_t guest_bytes = 0;
  double duration_seconds = 0;
  ReplayCounters counters;
};

struct CompareResult {
  CompareOptions options;  // resolved
  std::vector<CompareRecording> recordings;
  HostInfo host;
  std::vector<CompareRow> rows;
  std::vector<CompareSample> samples;
};

struct CompareProgress {
  std::string_view workload;
  std::string_view policy;
  // Of all that is to be run.
  double done = 0;
  double whole = 1;
};

// The options with every default filled in that does not depend on the
// workload. InvalidArgument begins with the name of the option as the command
// line has it and its value, and says what is allowed. `available_bytes`: what
// the machine has free, for real guests.
absl::StatusOr<CompareOptions> ResolveCompare(const CompareOptions& options,
                                              uint64_t available_bytes);

// Runs the experiment: for each workload a row for off, one for each policy,
// one for the real kernel if the workload is a recording that has its reports,
// and one for the limit. The error is of a guest that could not be made or
// measured or that lost memory in use, or of a recording (ReadRecording,
// Replay). REQUIRES: `resolved` comes from ResolveCompare.
absl::StatusOr<CompareResult> RunCompare(
    const CompareOptions& resolved,
    const std::function<void(const CompareProgress&)>& progress);

// summary.json and series.csv of `result`.
std::string CompareSummaryJson(const CompareResult& result);
std::string CompareSeriesCsv(const CompareResult& result);

// The rows of a summary.json, and the samples of a series.csv, numbers as
// rounded there. InvalidArgument begins with the name `file` and names what is
// wrong in it.
absl::StatusOr<std::vector<CompareRow>> ParseCompareSummary(
    std::string_view file, std::string_view text);
absl::StatusOr<std::vector<CompareSample>> ParseCompareSeries(
    std::string_view file, std::string_view text);

// One result of what several processes, one after another, found with the same
// options: rows are the medians of their rows, with the least and the most
// share of work. FailedPrecondition if their rows are not of the same workloads
// and policies. REQUIRES: there is a process; `resolved` comes from
// ResolveCompare.
struct CompareProcess {
  std::vector<CompareRow> rows;
  std::vector<CompareSample> samples;
};
absl::StatusOr<CompareResult> MergeProcesses(
    const CompareOptions& resolved, std::span<const CompareProcess> processes);

}  // namespace guestmm

#endif  // GUESTMM_EXPERIMENT_COMPARE_COMPARE_H_
