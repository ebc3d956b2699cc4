#include <algorithm>
#include <chrono>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "guestmm/base/choices.h"
#include "guestmm/base/option_error.h"
#include "guestmm/buddy/kernel_version_field.h"
#include "guestmm/experiment/compare/compare.h"
#include "guestmm/host/accounting/host_info.h"
#include "guestmm/mechanism/mechanism_spec.h"
#include "guestmm/mechanism/mechanisms.h"
#include "guestmm/reporting/linux_policy.h"
#include "guestmm/workload/recipes.h"
#include "src/experiment/compare/compare_run.h"

namespace guestmm {
namespace {

// The default of the policies' order, or 9. An invalid one is refused with the
// policies.
Order DefaultOrder(const PolicyDefaults& defaults) {
  LinuxOptions options = {.order = kPageblockOrder};
  for (const PolicyParameter& parameter : defaults) {
    if (parameter.name != "order") continue;
    LinuxFields().Set(options, parameter.name, parameter.value).IgnoreError();
  }
  return options.order;
}

// Turns mechanisms into policies, and puts "off" first.
absl::Status ResolvePolicies(CompareOptions& options) {
  if (options.policies.empty() && options.mechanisms.empty()) {
    options.policies = PolicyNames();
    std::erase(options.policies, "v12-hotplug");
  }
  const absl::StatusOr<MechanismList> list =
      ParseMechanisms(options.policies, std::exchange(options.mechanisms, {}),
                      kMachineMechanisms);
  if (!list.ok()) return list.status();
  for (const std::string& workload : options.workloads) {
    const absl::Status status =
        CheckMechanisms(*list, kMachineMechanisms,
                        {.policy = PolicyContext(GranuleOf(options, workload)),
                         .defaults = options.policy_parameters});
    if (!status.ok()) return status;
  }
  options.policies = list->policies();
  std::erase(options.policies, kMechanismOff);
  options.policies.insert(options.policies.begin(), std::string(kMechanismOff));
  return absl::OkStatus();
}

absl::Status CheckRecording(const CompareOptions& options,
                            const std::string& path) {
  if (options.mode == CompareMode::kReal) {
    return OptionError("workloads", path,
                       "must be a workload by name in real time; a recording "
                       "is replayed by guestmm replay --real");
  }
  // series.csv does not quote.
  if (path.find_first_of(",\r\n") != std::string::npos) {
    return OptionError("workloads", path,
                       "must be a path without commas and line breaks");
  }
  return absl::OkStatus();
}

// Refuses what no workload would use.
absl::Status CheckOnlyRecordings(const CompareOptions& options) {
  for (const char* const name :
       {"kernel", "guest-memory", "vcpus", "duration"}) {
    const std::string value = CompareFields().Format(options, name);
    // A recording may be followed by the rules of another kernel.
    const bool is_kernel = std::string_view(name) == "kernel";
    if (value.empty() ||
        (is_kernel && options.kernel != KernelVersion::kV5_3)) {
      continue;
    }
    return OptionError(
        name, value,
        "must be unset without a workload by name; a recording has its own");
  }
  return absl::OkStatus();
}

// Refuses what is neither a workload's name nor a path, and what is named
// twice.
absl::Status CheckWorkloadNames(const std::vector<std::string>& workloads,
                                const std::vector<std::string>& known) {
  std::set<std::string_view> seen;
  for (const std::string& workload : workloads) {
    if (!IsRecording(workload) &&
        std::find(known.begin(), known.end(), workload) == known.end()) {
      return OptionError(
          "workloads", workload,
          absl::StrCat("must be one of ", absl::StrJoin(known, ", "),
                       ", or a recording's path with a / in it",
                       DidYouMean(workload, known)));
    }
    if (!seen.insert(workload).second) {
      return OptionError("workloads", workload, "must be named once");
    }
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
  absl::Status status = CheckWorkloadNames(options.workloads, known);
  bool any_name = false;
  for (const std::string& workload : options.workloads) {
    if (!IsRecording(workload)) {
      any_name = true;
    } else if (status.ok()) {
      status = CheckRecording(options, workload);
    }
  }
  if (status.ok() && !any_name) status = CheckOnlyRecordings(options);
  return status;
}

absl::Status CheckProcesses(const CompareOptions& options) {
  if (options.mode == CompareMode::kReal || options.processes == 1) {
    return absl::OkStatus();
  }
  return OptionError("processes", absl::StrCat(options.processes),
                     "must be 1 in virtual time; runs are deterministic");
}

// Refuses a khugepaged that has no effect on any of the workloads.
absl::Status CheckHost(const CompareOptions& options) {
  Order granule;
  for (const std::string& workload : options.workloads) {
    granule = std::max(granule, GranuleOf(options, workload));
  }
  return CheckKhugepaged(granule, options.khugepaged);
}

// Refuses real guests that this machine cannot hold, or map.
absl::Status CheckMachine(const CompareOptions& options,
                          const absl::StatusOr<uint64_t>& available) {
  const absl::Status status =
      CheckRealHost(options.granule.value_or(Order(0)), options.khugepaged);
  if (!status.ok()) return status;
  const absl::StatusOr<uint64_t> allowed = AllowedMemory(available);
  if (!allowed.ok()) return allowed.status();
  for (const WorkloadInfo& workload : WorkloadInfos()) {
    if (std::find(options.workloads.begin(), options.workloads.end(),
                  workload.name) == options.workloads.end()) {
      continue;
    }
    if (workload.nodes > 1) {
      return OptionError(
          "workloads", workload.name,
          absl::StrCat("must have one node in real time; it has ",
                       workload.nodes));
    }
    const uint64_t needed =
        options.guest_bytes.value_or(workload.guest_bytes) + kMachineReserve;
    if (needed > *allowed) {
      return OptionError(
          "workloads", workload.name,
          absl::StrCat("must fit in the memory that this machine has "
                       "available, ",
                       FormatBytes(*allowed), "; in real time it needs ",
                       FormatBytes(needed)));
    }
  }
  return absl::OkStatus();
}

}  // namespace

const Fields<CompareOptions>& CompareFields() {
  using Options = CompareOptions;
  const FieldKind seconds =
      FieldKind::Seconds(Nanoseconds(0), std::chrono::hours(1));
  static const Fields<Options> fields = {
      {"seed", &Options::seed, FieldKind::Count(),
       "Seed of the workloads, and of the order of events at the same instant"},
      {"mode", &Options::mode, FieldKind::Choice({"virtual", "real"}),
       "Time: virtual, where the same options give the same result, or real, "
       "with RAM and threads"},
      {"kernel", &Options::kernel, KernelVersionKind(),
       "Linux version whose page allocator the guest has: its per-CPU lists "
       "and the order of its free lists [5.3, which v12 was posted for; for "
       "a recording its own]"},
      {"reportable-order", &Options::reportable_order, FieldKind::Orders(),
       "Order of the smallest free block that counts as reportable [--order, "
       "or 9]"},
      {"granule", &Options::granule, FieldKind::Granule(),
       "Unit in which the host maps memory: 2MiB where huge pages back the "
       "guest, which smaller discards split [4KiB; for a recording 2MiB]"},
      {"khugepaged", &Options::khugepaged, FieldKind::Switch(),
       "Whether the host's khugepaged makes split huge pages whole again, 16 "
       "MiB every 10 seconds"},
      {"guest-memory", &Options::guest_bytes, FieldKind::Bytes(64 * kMiB, kTiB),
       "Memory of the guest [each workload's own]"},
      {"vcpus", &Options::vcpus, FieldKind::Count(1, 64),
       "vCPUs of the guest [each workload's own]"},
      {"duration", &Options::duration_seconds,
       FieldKind::Seconds(std::chrono::milliseconds(1), std::chrono::hours(1)),
       "Time that a workload runs without reporting; under a policy it does "
       "the same work [each workload's own]"},
      {"rest", &Options::rest_seconds, seconds,
       "Time of rest after the work, until the last look [60; with --real 10; "
       "for a recording 0]"},
      {"repeats", &Options::repeats, FieldKind::Count(1, 1000),
       "--real: runs of each policy; a row is their medians"},
      {"processes", &Options::processes, FieldKind::Count(1, 100),
       "--real: fresh processes that do all that, one after another, since a "
       "process has its memory laid out once; a row is the medians of theirs"},
  };
  return fields;
}

bool IsRecording(std::string_view workload) {
  return workload.find('/') != std::string_view::npos;
}

KernelVersion KernelOf(const CompareOptions& options) {
  return options.kernel.value_or(KernelVersion::kV5_3);
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

absl::StatusOr<CompareOptions> ResolveCompare(
    const CompareOptions& options, const absl::StatusOr<uint64_t>& available) {
  CompareOptions resolved = options;
  if (!resolved.reportable_order) {
    resolved.reportable_order = DefaultOrder(options.policy_parameters);
  }
  absl::Status status = CompareFields().Check(options);
  if (status.ok()) status = ResolveWorkloads(resolved);
  if (status.ok()) status = ResolvePolicies(resolved);
  if (status.ok()) status = CheckProcesses(resolved);
  if (status.ok()) {
    status = options.mode == CompareMode::kReal
                 ? CheckMachine(resolved, available)
                 : CheckHost(resolved);
  }
  if (!status.ok()) return status;
  return resolved;
}

}  // namespace guestmm
