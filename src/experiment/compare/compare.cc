#include "guestmm/experiment/compare/compare.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <latch>
#include <memory>
#include <span>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "guestmm/base/check.h"
#include "guestmm/mechanism/experiment.h"
#include "guestmm/trace/recording.h"
#include "guestmm/workload/recipes.h"
#include "src/experiment/compare/compare_median.h"
#include "src/experiment/compare/compare_recording.h"
#include "src/experiment/compare/compare_run.h"

namespace guestmm {
namespace {

constexpr uint64_t kSmallestComparedGuest = 64 * kMiB;
constexpr uint64_t kLargestGuest = kTiB;
constexpr uint64_t kMostVcpus = 64;
constexpr double kLongestSeconds = 3600;
constexpr uint64_t kMostRepeats = 1000;
constexpr uint64_t kMostProcesses = 100;
// What a machine must have beside a real guest: metadata and this program.
constexpr uint64_t kComparedMachineReserve = 256 * kMiB;

// Puts "off" first.
absl::Status ResolvePolicies(CompareOptions& options) {
  if (options.policies.empty()) {
    options.policies = PolicyNames();
    std::erase(options.policies, "v12-hotplug");
  }
  for (const std::string& workload : options.workloads) {
    const absl::Status status = CheckPolicies(
        options.policies, ParametersFor(options, GranuleOf(options, workload)));
    if (!status.ok()) return status;
  }
  std::erase(options.policies, kPolicyOff);
  options.policies.insert(options.policies.begin(), std::string(kPolicyOff));
  return absl::OkStatus();
}

absl::Status CheckRecording(const CompareOptions& options,
                            const std::string& path) {
  if (options.mode == CompareMode::kReal) {
    return absl::InvalidArgumentError(
        absl::StrCat("workloads ", path,
                     ": is a recording; allowed in real time are workloads by "
                     "name (a recording is for guestmm replay --real)"));
  }
  // As series.csv has it.
  if (path.find_first_of(",\r\n") != std::string::npos) {
    return absl::InvalidArgumentError(
        absl::StrCat("workloads ", path,
                     ": allowed is a path without commas and line breaks"));
  }
  return absl::OkStatus();
}

// What nothing would heed.
absl::Status CheckOnlyRecordings(const CompareOptions& options) {
  const auto error = [](const std::string& option) {
    return absl::InvalidArgumentError(
        absl::StrCat(option,
                     ": a recording has its own; this is for workloads "
                     "by name, and there is none"));
  };
  if (options.guest_bytes) {
    return error(
        absl::StrCat("guest-memory ", FormatBytes(*options.guest_bytes)));
  }
  if (options.vcpus) return error(absl::StrCat("vcpus ", *options.vcpus));
  if (options.duration_seconds) {
    return error(absl::StrCat("duration ", *options.duration_seconds));
  }
  return absl::OkStatus();
}

absl::Status ResolveWorkloads(CompareOptions& options) {
  std::vector<std::string> known;
  std::vector<std::string> by_default;
  for (const WorkloadInfo& workload : WorkloadInfos()) {
    known.push_back(workload.name);
    if (workload.by_default) by_default.push_back(workload.name);
  }
  if (options.workloads.empty()) {
    options.workloads = options.mode == CompareMode::kVirtual
                            ? by_default
                            : std::vector<std::string>{"page_fault1"};
  }
  std::vector<std::string> names;
  std::vector<std::string> paths;
  for (const std::string& workload : options.workloads) {
    (IsRecording(workload) ? paths : names).push_back(workload);
  }
  known.emplace_back("the path of a recording, with a / in it");
  absl::Status status = CheckNames("workloads", "workload", names, known);
  status.Update(CheckNames("workloads", "workload", paths, paths));
  for (const std::string& path : paths) {
    if (!status.ok()) break;
    status = CheckRecording(options, path);
  }
  if (status.ok() && names.empty()) status = CheckOnlyRecordings(options);
  return status;
}

absl::Status CheckSeconds(std::string_view option, double seconds) {
  if (seconds >= 0 && seconds <= kLongestSeconds) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrFormat(
      "%s %g: allowed is 0 to %g seconds", option, seconds, kLongestSeconds));
}

absl::Status CheckCount(std::string_view option, uint64_t count,
                        uint64_t high) {
  if (1 <= count && count <= high) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrFormat("%s %d: allowed is 1 to %d", option, count, high));
}

absl::Status CheckLimits(const CompareOptions& options) {
  absl::Status status;
  if (options.granule && *options.granule != Order(0) &&
      *options.granule != kPageblockOrder) {
    status.Update(absl::InvalidArgumentError(
        absl::StrCat("granule ", FormatBytes(options.granule->bytes()),
                     ": allowed are 4KiB, 2MiB")));
  }
  if (*options.reportable_order > kMaxOrder) {
    status.Update(absl::InvalidArgumentError(
        absl::StrCat("reportable-order ", options.reportable_order->value(),
                     ": allowed is 0 to ", kMaxOrder.value())));
  }
  if (options.guest_bytes && (*options.guest_bytes < kSmallestComparedGuest ||
                              *options.guest_bytes > kLargestGuest)) {
    status.Update(absl::InvalidArgumentError(absl::StrFormat(
        "guest-memory %s: allowed is %s to %s",
        FormatBytes(*options.guest_bytes), FormatBytes(kSmallestComparedGuest),
        FormatBytes(kLargestGuest))));
  }
  if (options.vcpus) {
    status.Update(CheckCount("vcpus", *options.vcpus, kMostVcpus));
  }
  if (options.duration_seconds) {
    status.Update(CheckSeconds("duration", *options.duration_seconds));
  }
  if (options.rest_seconds) {
    status.Update(CheckSeconds("rest", *options.rest_seconds));
  }
  status.Update(CheckCount("repeats", options.repeats, kMostRepeats));
  status.Update(CheckCount("processes", options.processes, kMostProcesses));
  if (options.mode == CompareMode::kVirtual && options.processes > 1) {
    status.Update(absl::InvalidArgumentError(absl::StrCat(
        "processes ", options.processes,
        ": allowed in virtual time is 1, where every process finds the same")));
  }
  return status;
}

// What real guests need of the machine.
absl::Status CheckMachine(const CompareOptions& options,
                          uint64_t available_bytes) {
  for (const WorkloadInfo& workload : WorkloadInfos()) {
    if (std::find(options.workloads.begin(), options.workloads.end(),
                  workload.name) == options.workloads.end()) {
      continue;
    }
    if (workload.nodes > 1) {
      return absl::InvalidArgumentError(
          absl::StrFormat("workloads %s: has %d nodes; allowed in real time is "
                          "one",
                          workload.name, workload.nodes));
    }
    const uint64_t needed = options.guest_bytes.value_or(workload.guest_bytes) +
                            kComparedMachineReserve;
    if (needed > available_bytes) {
      return absl::InvalidArgumentError(absl::StrFormat(
          "workloads %s: in real time it needs %s; allowed is what this "
          "machine has available, %s",
          workload.name, FormatBytes(needed), FormatBytes(available_bytes)));
    }
  }
  return absl::OkStatus();
}

Nanoseconds FromSeconds(double seconds) {
  return Nanoseconds(std::llround(seconds * 1e9));
}

absl::StatusOr<CompareSetup> SetUp(const CompareOptions& options,
                                   const std::string& name) {
  CompareSetup setup = {.name = name,
                        .policies = options.policies,
                        .granule = GranuleOf(options, name),
                        .rest = FromSeconds(RestSecondsOf(options, name))};
  if (IsRecording(name)) {
    absl::StatusOr<Recording> recording = ReadRecording(name);
    if (!recording.ok()) return recording.status();
    if (!recording->reports.empty()) {
      setup.policies.emplace_back(kPolicyReal);
    }
    setup.recording = std::make_shared<const Recording>(*std::move(recording));
    return setup;
  }
  const std::vector<WorkloadRecipe>& recipes = WorkloadRecipes();
  const auto recipe = std::find_if(
      recipes.begin(), recipes.end(),
      [&](const WorkloadRecipe& r) { return r.workload.name == name; });
  GUESTMM_CHECK(recipe != recipes.end()) << "options were not resolved";
  const WorkloadInfo& workload = recipe->workload;
  const double duration =
      options.duration_seconds.value_or(workload.duration_seconds);
  // A duration that is asked for has its warm-up in proportion.
  const double warmup =
      duration * workload.warmup_seconds / workload.duration_seconds;
  setup.recipe = &*recipe;
  setup.guest_bytes = options.guest_bytes.value_or(workload.guest_bytes) /
                      kPageblockOrder.bytes() * kPageblockOrder.bytes();
  setup.vcpus = options.vcpus.value_or(workload.vcpus);
  setup.warmup = FromSeconds(warmup);
  setup.duration = FromSeconds(duration);
  return setup;
}

double WorkPerSecond(const CompareRow& row) {
  const double seconds = row.duration_seconds.value_or(0);
  return seconds > 0 ? static_cast<double>(*row.work) / seconds : 0;
}

// The columns of `run` that rest on the run without reporting beside it.
void CompareWithOff(const CompareOptions& options, const CompareSetup& setup,
                    const CompareRun& off, CompareRun& run) {
  CompareRow& row = run.row;
  const double speed = WorkPerSecond(row);
  const double off_speed = WorkPerSecond(off.row);
  if (off_speed > 0) row.work_share_of_off = speed / off_speed;
  const double all =
      ToSeconds(run.work_end) * 1e9 * static_cast<double>(setup.vcpus);
  if (&run == &off || all == 0 || options.mode == CompareMode::kReal) return;
  const auto share = [&](CostKind kind) {
    const auto index = static_cast<size_t>(kind);
    return (static_cast<double>(run.spent[index]) -
            static_cast<double>(off.spent[index])) /
           all;
  };
  row.loss = CompareRow::Loss{.hook = share(CostKind::kHook),
                              .isolation = share(CostKind::kIsolation),
                              .discard = share(CostKind::kDiscard),
                              .fault_back = share(CostKind::kFaultBack),
                              .zeroing = share(CostKind::kZeroing)};
}

// A workload, and the work that its first run without reporting defines for all
// others.
struct Comparison {
  CompareSetup setup;
  absl::StatusOr<WorkAmount> amount = WorkAmount();
  std::latch amount_known{1};
};

// One run to be done.
struct Task {
  Comparison* comparison;
  size_t policy;    // of the setup's
  uint64_t repeat;  // from 1
  absl::StatusOr<CompareRun> run = CompareRun();

  const CompareSetup& setup() const { return comparison->setup; }
  const std::string& name() const { return setup().policies[policy]; }
  // By the clock, and first of all.
  bool defines_amount() const { return policy == 0 && repeat == 1; }
};

// The row of an ideal host beside `tasks`, the runs of one workload: it holds
// what is in use, and nothing that is free. Runs of the same work have the same
// in use but for how long it takes them; the least is a bound on all.
CompareRow Limit(std::span<const Task> tasks) {
  const auto least = std::min_element(
      tasks.begin(), tasks.end(), [](const Task& a, const Task& b) {
        return a.run->in_use_gib_min < b.run->in_use_gib_min;
      });
  CompareRow row;
  row.workload = least->run->row.workload;
  row.policy = kPolicyLimit;
  row.host_share_of_free = 1;
  row.host_share_of_reportable = 1;
  row.footprint_gib_min = least->run->in_use_gib_min;
  return row;
}

// All runs, those of a workload together and those of a repeat of it, each with
// another policy first: in the first repeat it is off.
std::vector<Task> MakeTasks(
    const CompareOptions& options,
    const std::vector<std::unique_ptr<Comparison>>& comparisons) {
  const uint64_t repeats =
      options.mode == CompareMode::kReal ? options.repeats : 1;
  std::vector<Task> tasks;
  for (const std::unique_ptr<Comparison>& comparison : comparisons) {
    const size_t policies = comparison->setup.policies.size();
    for (uint64_t repeat = 1; repeat <= repeats; ++repeat) {
      for (size_t i = 0; i < policies; ++i) {
        tasks.push_back({.comparison = comparison.get(),
                         .policy = (i + repeat - 1) % policies,
                         .repeat = repeat});
      }
    }
  }
  return tasks;
}

absl::StatusOr<CompareRun> Run(const CompareOptions& options, const Task& task,
                               const RunProgress& progress) {
  const CompareSetup& setup = task.setup();
  if (setup.recording != nullptr) {
    return RunRecording(options, setup, task.name(), progress);
  }
  const WorkAmount* amount = nullptr;
  if (!task.defines_amount()) {
    task.comparison->amount_known.wait();
    if (!task.comparison->amount.ok()) return task.comparison->amount.status();
    amount = &*task.comparison->amount;
  }
  return options.mode == CompareMode::kVirtual
             ? RunVirtually(options, setup, task.name(), amount, progress)
             : RunForReal(options, setup, task.name(), task.repeat, amount,
                          progress);
}

// Does all of `tasks`. In virtual time runs share nothing but the amount of
// work, so there they run on all processors, first those that define it.
void RunTasks(const CompareOptions& options, std::vector<Task>& tasks,
              const std::function<void(const CompareProgress&)>& progress) {
  const bool parallel = options.mode == CompareMode::kVirtual;
  std::vector<Task*> order;
  for (Task& task : tasks) order.push_back(&task);
  if (parallel) {
    std::stable_partition(order.begin(), order.end(),
                          [](const Task* t) { return t->defines_amount(); });
  }
  std::atomic<size_t> next{0};
  std::atomic<size_t> finished{0};
  const auto work = [&](bool notifies) {
    for (size_t i = next++; i < order.size(); i = next++) {
      Task& task = *order[i];
      const auto report = [&](double done) {
        if (!notifies || !progress) return;
        progress({.workload = task.setup().name,
                  .policy = task.name(),
                  .done = static_cast<double>(finished.load()) + done,
                  .whole = static_cast<double>(order.size())});
      };
      task.run = Run(options, task, report);
      if (task.defines_amount()) {
        if (task.run.ok()) {
          task.comparison->amount = task.run->amount;
        } else {
          task.comparison->amount = task.run.status();
        }
        task.comparison->amount_known.count_down();
      }
      ++finished;
    }
  };
  std::vector<std::thread> threads;
  const size_t wanted = parallel ? std::thread::hardware_concurrency() : 1;
  for (size_t i = 1; i < std::min(wanted, order.size()); ++i) {
    threads.emplace_back(work, false);
  }
  work(true);
  for (std::thread& thread : threads) thread.join();
}

// Adds the rows and samples of one workload, whose tasks are `tasks`.
void AddRows(const CompareOptions& options, std::span<Task> tasks,
             CompareResult& result) {
  const size_t policies = tasks.front().setup().policies.size();
  // By policy, then by repeat.
  std::vector<std::vector<CompareRow>> rows(policies);
  std::vector<CompareRow> limits;
  for (; !tasks.empty(); tasks = tasks.subspan(policies)) {
    const std::span<Task> repeat = tasks.first(policies);
    const CompareRun& off =
        *std::find_if(repeat.begin(), repeat.end(), [](const Task& task) {
           return task.policy == 0;
         })->run;
    for (Task& task : repeat) {
      CompareWithOff(options, task.setup(), off, *task.run);
      rows[task.policy].push_back(task.run->row);
      result.samples.insert(result.samples.end(), task.run->samples.begin(),
                            task.run->samples.end());
    }
    limits.push_back(Limit(repeat));
    if (off.recording) result.recordings.push_back(*off.recording);
  }
  for (const std::vector<CompareRow>& of_policy : rows) {
    result.rows.push_back(MedianRow(of_policy));
  }
  result.rows.push_back(MedianRow(limits));
}

}  // namespace

bool IsRecording(std::string_view workload) {
  return workload.find('/') != std::string_view::npos;
}

Order GranuleOf(const CompareOptions& options, std::string_view workload) {
  return options.granule.value_or(IsRecording(workload) ? kPageblockOrder
                                                        : Order(0));
}

double RestSecondsOf(const CompareOptions& options, std::string_view workload) {
  if (options.rest_seconds) return *options.rest_seconds;
  if (IsRecording(workload)) return 0;
  return options.mode == CompareMode::kVirtual ? 60 : 10;
}

absl::StatusOr<CompareOptions> ResolveCompare(const CompareOptions& options,
                                              uint64_t available_bytes) {
  CompareOptions resolved = options;
  if (!resolved.reportable_order) {
    resolved.reportable_order =
        options.policy_parameters.order.value_or(kPageblockOrder);
  }
  absl::Status status = ResolveWorkloads(resolved);
  if (status.ok()) status = ResolvePolicies(resolved);
  if (status.ok()) status = CheckLimits(resolved);
  if (status.ok() && options.mode == CompareMode::kReal) {
    status = CheckMachine(resolved, available_bytes);
  }
  if (!status.ok()) return status;
  return resolved;
}

absl::StatusOr<CompareResult> RunCompare(
    const CompareOptions& resolved,
    const std::function<void(const CompareProgress&)>& progress) {
  GUESTMM_CHECK(resolved.reportable_order.has_value())
      << "options were not resolved";
  std::vector<std::unique_ptr<Comparison>> comparisons;
  for (const std::string& name : resolved.workloads) {
    absl::StatusOr<CompareSetup> setup = SetUp(resolved, name);
    if (!setup.ok()) return setup.status();
    comparisons.push_back(std::make_unique<Comparison>());
    comparisons.back()->setup = *std::move(setup);
  }
  std::vector<Task> tasks = MakeTasks(resolved, comparisons);
  RunTasks(resolved, tasks, progress);
  for (const Task& task : tasks) {
    if (task.run.ok()) continue;
    const absl::Status& status = task.run.status();
    return absl::Status(status.code(),
                        absl::StrCat(task.setup().name, ", ", task.name(), ": ",
                                     status.message()));
  }

  CompareResult result;
  result.options = resolved;
  result.host = ReadHostInfo();
  for (std::span<Task> left = tasks; !left.empty();) {
    const auto next = std::find_if(
        left.begin(), left.end(),
        [&](const Task& t) { return t.comparison != left.front().comparison; });
    const auto count = static_cast<size_t>(next - left.begin());
    AddRows(resolved, left.first(count), result);
    left = left.subspan(count);
  }
  return result;
}

}  // namespace guestmm
