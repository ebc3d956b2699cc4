#include "guestmm/experiment/compare/compare.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <latch>
#include <memory>
#include <new>
#include <numeric>
#include <span>
#include <system_error>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "guestmm/base/check.h"
#include "guestmm/base/lock.h"
#include "guestmm/mechanism/mechanism_spec.h"
#include "guestmm/trace/recording.h"
#include "guestmm/workload/recipes.h"
#include "src/experiment/compare/compare_rows.h"
#include "src/experiment/compare/compare_run.h"

namespace guestmm {
namespace {

Nanoseconds FromSeconds(double seconds) {
  return Nanoseconds(std::llround(seconds * 1e9));
}

absl::StatusOr<CompareSetup> SetUp(const CompareOptions& options,
                                   const std::string& name) {
  absl::StatusOr<MechanismList> mechanisms =
      ParseMechanisms(MechanismOption::kPolicies, options.policies);
  if (!mechanisms.ok()) return mechanisms.status();
  CompareSetup setup = {.name = name,
                        .mechanisms = std::move(mechanisms->specs),
                        .granule = GranuleOf(options, name),
                        .rest = FromSeconds(RestSecondsOf(options, name))};
  if (IsRecording(name)) {
    absl::StatusOr<Recording> recording = ReadRecording(name);
    if (!recording.ok()) return recording.status();
    if (!recording->reports.empty()) {
      setup.mechanisms.push_back({.name = std::string(kMechanismReal)});
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
  // The warm-up keeps its share of a duration that the options set.
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

// Sets the columns of `run` that are relative to the run without reporting.
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

// A workload, and the amount of work that its first run without reporting
// defines for all others; the error of that run if it failed.
struct Comparison {
  CompareSetup setup;
  absl::StatusOr<WorkAmount> amount = WorkAmount();
  std::latch amount_known{1};
};

bool Stopped(const CompareHooks& hooks) {
  return hooks.stopped && hooks.stopped();
}

// One run to be done.
struct Task {
  Comparison* comparison;
  size_t policy;    // of the setup's mechanisms
  uint64_t repeat;  // from 1
  absl::StatusOr<CompareRun> run = CompareRun();

  const CompareSetup& setup() const { return comparison->setup; }
  const MechanismSpec& mechanism() const { return setup().mechanisms[policy]; }
  // As --policies takes it.
  std::string name() const {
    return mechanism().text(MechanismOption::kPolicies);
  }
  // True for the run that ends by the clock.
  bool defines_amount() const { return policy == 0 && repeat == 1; }
};

// The row of an ideal host for `tasks`, one repeat of a workload: what is in
// use is resident, and nothing that is free. Runs differ in what they have in
// use only by how long the same work takes; the least is a lower bound for all.
CompareRow Limit(const std::vector<Task*>& tasks) {
  const Task& least = **std::min_element(
      tasks.begin(), tasks.end(), [](const Task* a, const Task* b) {
        return a->run->in_use_gib_min < b->run->in_use_gib_min;
      });
  CompareRow row;
  row.workload = least.run->row.workload;
  row.policy = kMechanismLimit;
  row.host_share_of_free = 1;
  row.host_share_of_reportable = 1;
  row.footprint_gib_min = least.run->in_use_gib_min;
  return row;
}

// All runs, by workload, then by repeat. Each repeat begins with another
// policy, the first with off.
std::vector<Task> MakeTasks(
    const CompareOptions& options,
    const std::vector<std::unique_ptr<Comparison>>& comparisons) {
  const uint64_t repeats =
      options.mode == CompareMode::kReal ? options.repeats : 1;
  std::vector<Task> tasks;
  for (const std::unique_ptr<Comparison>& comparison : comparisons) {
    const size_t policies = comparison->setup.mechanisms.size();
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
    return RunRecording(options, setup, task.mechanism(), progress);
  }
  const WorkAmount* amount = nullptr;
  if (!task.defines_amount()) {
    task.comparison->amount_known.wait();
    if (!task.comparison->amount.ok()) return task.comparison->amount.status();
    amount = &*task.comparison->amount;
  }
  return options.mode == CompareMode::kVirtual
             ? RunVirtually(options, setup, task.mechanism(), amount, progress)
             : RunForReal(options, setup, task.mechanism(), task.repeat, amount,
                          progress);
}

// Run, with what the machine does not have as a status: other tasks may wait
// for this one's end.
absl::StatusOr<CompareRun> RunWithinMachine(const CompareOptions& options,
                                            const Task& task,
                                            const RunProgress& progress) {
  try {
    return Run(options, task, progress);
  } catch (const std::bad_alloc&) {
    return absl::ResourceExhaustedError("out of memory");
  } catch (const std::system_error& error) {
    return absl::ResourceExhaustedError(
        absl::StrCat("out of threads: ", error.what()));
  }
}

// Runs all of `tasks`. In virtual time runs share only the amount of work, so
// as many as hooks.jobs go on at a time, those that define an amount first.
void RunTasks(const CompareOptions& options, std::vector<Task>& tasks,
              const CompareHooks& hooks) {
  const bool parallel = options.mode == CompareMode::kVirtual;
  std::vector<Task*> order;
  order.reserve(tasks.size());
  for (Task& task : tasks) order.push_back(&task);
  if (parallel) {
    std::stable_partition(order.begin(), order.end(),
                          [](const Task* t) { return t->defines_amount(); });
  }
  std::atomic<size_t> next{0};
  Mutex telling;
  std::vector<double> done(order.size());  // of each task; under `telling`
  const auto work = [&] {
    for (size_t i = next++; i < order.size(); i = next++) {
      Task& task = *order[i];
      const auto report = [&](double share) {
        if (hooks.progress) {
          const LockHolder hold(telling);
          done[i] = share;
          hooks.progress(
              {.workload = task.setup().name,
               .policy = task.name(),
               .done = std::accumulate(done.begin(), done.end(), 0.0),
               .whole = static_cast<double>(order.size())});
        }
        return !Stopped(hooks);
      };
      if (Stopped(hooks)) {
        task.run = absl::CancelledError("stopped");
      } else {
        task.run = RunWithinMachine(options, task, report);
      }
      if (task.defines_amount()) {
        if (task.run.ok()) {
          task.comparison->amount = task.run->amount;
        } else {
          task.comparison->amount = task.run.status();
        }
        task.comparison->amount_known.count_down();
      }
      if (task.run.ok()) report(1);
    }
  };
  std::vector<std::jthread> threads;
  const size_t wanted =
      parallel ? hooks.jobs.value_or(std::thread::hardware_concurrency()) : 1;
  try {
    for (size_t i = 1; i < std::min(wanted, order.size()); ++i) {
      threads.emplace_back(work);
    }
  } catch (const std::system_error&) {
    // The threads that there are do all of the work.
  }
  work();
}

// Adds the rows and samples of `tasks`, those of one workload, to `result`.
// Runs that were stopped are left out, and all of a repeat where off is one of
// them.
void AddRows(const CompareOptions& options, std::span<Task> tasks,
             CompareResult& result) {
  const size_t policies = tasks.front().setup().mechanisms.size();
  // By policy, then by repeat.
  std::vector<std::vector<CompareRow>> rows(policies);
  std::vector<CompareRow> limits;
  for (; !tasks.empty(); tasks = tasks.subspan(policies)) {
    std::vector<Task*> done;
    for (Task& task : tasks.first(policies)) {
      if (task.run.ok()) done.push_back(&task);
    }
    const auto off =
        std::find_if(done.begin(), done.end(),
                     [](const Task* task) { return task->policy == 0; });
    if (off == done.end()) continue;
    const CompareRun& off_run = *(*off)->run;
    for (Task* const task : done) {
      CompareWithOff(options, task->setup(), off_run, *task->run);
      rows[task->policy].push_back(task->run->row);
      result.samples.insert(result.samples.end(), task->run->samples.begin(),
                            task->run->samples.end());
    }
    limits.push_back(Limit(done));
    if (off_run.recording) result.recordings.push_back(*off_run.recording);
  }
  rows.push_back(limits);
  for (const std::vector<CompareRow>& of_policy : rows) {
    if (!of_policy.empty()) result.rows.push_back(MedianRow(of_policy));
  }
}

absl::StatusOr<CompareResult> RunProcesses(const CompareOptions& resolved,
                                           const CompareHooks& hooks) {
  GUESTMM_CHECK(hooks.run_process != nullptr) << "nothing runs processes";
  std::vector<CompareProcess> processes;
  absl::Status status;
  for (uint64_t i = 1; i <= resolved.processes && !Stopped(hooks); ++i) {
    if (hooks.progress) {
      hooks.progress({.done = static_cast<double>(i - 1),
                      .whole = static_cast<double>(resolved.processes),
                      .process = i});
    }
    absl::StatusOr<CompareProcess> process = hooks.run_process();
    if (!process.ok() && Stopped(hooks)) break;
    if (!process.ok()) {
      // The options are right, whatever the process says.
      status = absl::InternalError(absl::StrCat("process ", i, " of ",
                                                resolved.processes, ": ",
                                                process.status().message()));
      break;
    }
    processes.push_back(*std::move(process));
  }
  if (!status.ok() && processes.empty()) return status;
  absl::StatusOr<CompareResult> result = MergeProcesses(resolved, processes);
  if (result.ok()) result->status = status;
  return result;
}

}  // namespace

absl::StatusOr<CompareResult> RunCompare(const CompareOptions& resolved,
                                         const CompareHooks& hooks) {
  GUESTMM_CHECK(resolved.reportable_order.has_value())
      << "options were not resolved";
  if (resolved.processes > 1) return RunProcesses(resolved, hooks);
  std::vector<std::unique_ptr<Comparison>> comparisons;
  for (const std::string& name : resolved.workloads) {
    absl::StatusOr<CompareSetup> setup = SetUp(resolved, name);
    if (!setup.ok()) return setup.status();
    comparisons.push_back(std::make_unique<Comparison>());
    comparisons.back()->setup = *std::move(setup);
  }
  std::vector<Task> tasks = MakeTasks(resolved, comparisons);
  RunTasks(resolved, tasks, hooks);
  CompareResult result;
  for (const Task& task : tasks) {
    if (task.run.ok()) continue;
    result.complete = false;
    const absl::Status& status = task.run.status();
    if (absl::IsCancelled(status)) continue;
    result.status.Update(absl::Status(
        status.code(), absl::StrCat(task.setup().name, ", ", task.name(), ": ",
                                    status.message())));
  }

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
  if (!result.status.ok() && result.rows.empty()) return result.status;
  return result;
}

}  // namespace guestmm
