#include "guestmm/sim/compare.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <set>
#include <span>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "guestmm/base/check.h"
#include "src/sim/compare_run.h"
#include "src/sim/compare_workloads.h"

namespace guestmm {
namespace {

constexpr uint64_t kSmallestComparedGuest = 64 * kMiB;
constexpr uint64_t kLargestGuest = kTiB;
constexpr uint64_t kMostVcpus = 64;
constexpr double kLongestSeconds = 3600;
constexpr uint64_t kMostRepeats = 1000;

absl::Status NoSuch(std::string_view option, const std::string& name,
                    std::string_view kind,
                    const std::vector<std::string>& allowed) {
  return absl::InvalidArgumentError(
      absl::StrCat(std::string(option), " ", name.empty() ? "\"\"" : name,
                   ": there is no such ", std::string(kind), "; allowed are ",
                   absl::StrJoin(allowed, ", ")));
}

absl::Status EachOnce(std::string_view option,
                      const std::vector<std::string>& names) {
  std::set<std::string> seen;
  for (const std::string& name : names) {
    if (!seen.insert(name).second) {
      return absl::InvalidArgumentError(absl::StrCat(
          std::string(option), " ", name, ": allowed is each once"));
    }
  }
  return absl::OkStatus();
}

// Puts "off" first.
absl::Status ResolvePolicies(CompareOptions& options) {
  if (absl::Status status = EachOnce("policies", options.policies);
      !status.ok()) {
    return status;
  }
  if (options.policies.empty()) {
    options.policies = PolicyNames();
    std::erase(options.policies, "v12-hotplug");
  }
  std::vector<std::string> resolved = {std::string(kPolicyOff)};
  for (const std::string& policy : options.policies) {
    if (policy == kPolicyOff) continue;
    const absl::Status status =
        MakePolicy(policy, options.policy_parameters).status();
    if (absl::IsNotFound(status)) {
      std::vector<std::string> allowed = PolicyNames();
      allowed.insert(allowed.begin(), std::string(kPolicyOff));
      return NoSuch("policies", policy, "policy", allowed);
    }
    if (!status.ok()) return status;
    resolved.push_back(policy);
  }
  options.policies = std::move(resolved);
  return absl::OkStatus();
}

absl::Status ResolveWorkloads(CompareOptions& options) {
  if (absl::Status status = EachOnce("workloads", options.workloads);
      !status.ok()) {
    return status;
  }
  std::vector<std::string> known;
  std::vector<std::string> by_default;
  for (const CompareWorkload& workload : CompareWorkloads()) {
    known.push_back(workload.name);
    if (workload.by_default) by_default.push_back(workload.name);
  }
  for (const std::string& name : options.workloads) {
    if (std::find(known.begin(), known.end(), name) == known.end()) {
      return NoSuch("workloads", name, "workload", known);
    }
  }
  if (options.workloads.empty()) options.workloads = by_default;
  return absl::OkStatus();
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
  if (options.granule != Order(0) && options.granule != kPageblockOrder) {
    status.Update(absl::InvalidArgumentError(
        absl::StrCat("granule ", FormatBytes(options.granule.bytes()),
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
  status.Update(CheckSeconds("rest", options.rest_seconds));
  status.Update(CheckCount("repeats", options.repeats, kMostRepeats));
  return status;
}

Nanoseconds FromSeconds(double seconds) {
  return Nanoseconds(std::llround(seconds * 1e9));
}

CompareSetup SetUp(const CompareOptions& options, const std::string& name) {
  const std::vector<CompareRecipe>& recipes = CompareRecipes();
  const auto recipe = std::find_if(
      recipes.begin(), recipes.end(),
      [&](const CompareRecipe& r) { return r.workload.name == name; });
  GUESTMM_CHECK(recipe != recipes.end()) << "options were not resolved";
  const CompareWorkload& workload = recipe->workload;
  const double duration =
      options.duration_seconds.value_or(workload.duration_seconds);
  // A duration that is asked for has its warm-up in proportion.
  const double warmup =
      duration * workload.warmup_seconds / workload.duration_seconds;
  return {.recipe = &*recipe,
          .guest_bytes = options.guest_bytes.value_or(workload.guest_bytes) /
                         kPageblockOrder.bytes() * kPageblockOrder.bytes(),
          .vcpus = options.vcpus.value_or(workload.vcpus),
          .warmup = FromSeconds(warmup),
          .duration = FromSeconds(duration),
          .rest = FromSeconds(options.rest_seconds)};
}

// A column of `run` that rests on the run without reporting.
void CompareWithOff(const CompareSetup& setup, const CompareRun& off,
                    CompareRun& run) {
  CompareRow& row = run.row;
  if (off.row.work.value_or(0) > 0) {
    row.work_share_of_off =
        static_cast<double>(*row.work) / static_cast<double>(*off.row.work);
  }
  const double all =
      ToSeconds(setup.duration) * 1e9 * static_cast<double>(setup.vcpus);
  if (&run == &off || all == 0) return;
  const auto share = [&](Spent kind) {
    const auto index = static_cast<size_t>(kind);
    return (static_cast<double>(run.spent[index]) -
            static_cast<double>(off.spent[index])) /
           all;
  };
  row.loss = CompareRow::Loss{.hook = share(Spent::kHook),
                              .isolation = share(Spent::kIsolation),
                              .discard = share(Spent::kDiscard),
                              .fault_back = share(Spent::kFaultBack),
                              .zeroing = share(Spent::kZeroing)};
}

// Whoever has every free page back at once, for nothing.
CompareRow Limit(const CompareRun& off) {
  CompareRow row;
  row.workload = off.row.workload;
  row.policy = kPolicyLimit;
  row.host_share_of_free = 1;
  row.host_share_of_reportable = 1;
  row.footprint_gib_min = off.allocated_gib_min;
  return row;
}

// One run to be done.
struct Task {
  const CompareSetup* setup;
  std::string policy;
  absl::StatusOr<CompareRun> run = CompareRun();
};

// Does all of `tasks`, on as many threads as the machine has processors: in
// virtual time no run knows of another.
void RunTasks(const CompareOptions& options, std::vector<Task>& tasks,
              const std::function<void(const CompareProgress&)>& progress) {
  std::atomic<size_t> next{0};
  std::atomic<size_t> finished{0};
  const auto work = [&](bool tells) {
    for (size_t i = next++; i < tasks.size(); i = next++) {
      Task& task = tasks[i];
      task.run =
          RunVirtually(options, *task.setup, task.policy, [&](double done) {
            if (!tells || !progress) return;
            progress({.workload = task.setup->recipe->workload.name,
                      .policy = task.policy,
                      .done = static_cast<double>(finished.load()) + done,
                      .whole = static_cast<double>(tasks.size())});
          });
      ++finished;
    }
  };
  std::vector<std::thread> threads;
  const size_t wanted =
      std::min<size_t>(tasks.size(), std::thread::hardware_concurrency());
  for (size_t i = 1; i < wanted; ++i) threads.emplace_back(work, false);
  work(true);
  for (std::thread& thread : threads) thread.join();
}

}  // namespace

absl::StatusOr<CompareOptions> ResolveCompare(const CompareOptions& options) {
  CompareOptions resolved = options;
  if (!resolved.reportable_order) {
    resolved.reportable_order =
        options.policy_parameters.order.value_or(kPageblockOrder);
  }
  absl::Status status = ResolvePolicies(resolved);
  if (status.ok()) status = ResolveWorkloads(resolved);
  if (status.ok()) status = CheckLimits(resolved);
  if (!status.ok()) return status;
  return resolved;
}

absl::StatusOr<CompareResult> RunCompare(
    const CompareOptions& resolved,
    const std::function<void(const CompareProgress&)>& progress) {
  GUESTMM_CHECK(resolved.reportable_order.has_value())
      << "options were not resolved";
  std::vector<CompareSetup> setups;
  for (const std::string& name : resolved.workloads) {
    setups.push_back(SetUp(resolved, name));
  }
  std::vector<Task> tasks;
  for (const CompareSetup& setup : setups) {
    for (const std::string& policy : resolved.policies) {
      tasks.push_back({.setup = &setup, .policy = policy});
    }
  }
  RunTasks(resolved, tasks, progress);

  CompareResult result;
  result.options = resolved;
  result.host = ReadHostInfo();
  const size_t per_workload = resolved.policies.size();
  for (size_t first = 0; first < tasks.size(); first += per_workload) {
    for (Task& task : std::span(tasks).subspan(first, per_workload)) {
      if (!task.run.ok()) {
        return absl::Status(
            task.run.status().code(),
            absl::StrCat(task.setup->recipe->workload.name, ", ", task.policy,
                         ": ", std::string(task.run.status().message())));
      }
      CompareWithOff(*task.setup, *tasks[first].run, *task.run);
      result.rows.push_back(task.run->row);
      result.samples.insert(result.samples.end(), task.run->samples.begin(),
                            task.run->samples.end());
    }
    result.rows.push_back(Limit(*tasks[first].run));
  }
  return result;
}

}  // namespace guestmm
