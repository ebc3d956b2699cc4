#include <algorithm>
#include <array>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "guestmm/base/option_error.h"
#include "guestmm/experiment/compare/compare.h"
#include "guestmm/host/accounting/host_info.h"
#include "guestmm/mechanism/experiment.h"
#include "guestmm/mechanism/mechanism_spec.h"
#include "guestmm/mechanism/mechanisms.h"
#include "guestmm/reporting/linux_policy.h"
#include "guestmm/workload/recipes.h"
#include "src/experiment/compare/compare_run.h"

namespace guestmm {
namespace {

constexpr uint64_t kSmallestGuest = 64 * kMiB;
constexpr uint64_t kLargestGuest = kTiB;
constexpr uint64_t kMostVcpus = 64;
constexpr double kLongestSeconds = 3600;
constexpr uint64_t kMostRepeats = 1000;
constexpr uint64_t kMostProcesses = 100;

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

// Turns mechanisms into policies.
absl::Status ResolveMechanisms(CompareOptions& options) {
  if (options.mechanisms.empty()) return absl::OkStatus();
  const std::string list =
      absl::StrJoin(std::exchange(options.mechanisms, {}), ",");
  if (!options.policies.empty()) {
    return OptionError("mechanisms", list, "must be unset with --policies");
  }
  const absl::StatusOr<std::vector<MechanismSpec>> specs =
      ParseMechanisms("mechanisms", list);
  if (!specs.ok()) return specs.status();
  for (const std::string& workload : options.workloads) {
    const absl::Status status = CheckMechanisms(
        "mechanisms", *specs, std::array{kMechanismOff, kMechanismReporting},
        {.policy = PolicyContext(GranuleOf(options, workload)),
         .defaults = options.policy_parameters});
    if (!status.ok()) return status;
  }
  for (const MechanismSpec& spec : *specs) {
    options.policies.push_back(PolicyText(spec.text()));
  }
  return absl::OkStatus();
}

// Puts "off" first.
absl::Status ResolvePolicies(CompareOptions& options) {
  const absl::Status resolved = ResolveMechanisms(options);
  if (!resolved.ok()) return resolved;
  if (options.policies.empty()) {
    options.policies = PolicyNames();
    std::erase(options.policies, "v12-hotplug");
  }
  for (const std::string& workload : options.workloads) {
    const absl::Status status =
        CheckPolicies(options.policies, options.policy_parameters,
                      PolicyContext(GranuleOf(options, workload)));
    if (!status.ok()) return status;
  }
  std::erase(options.policies, kPolicyOff);
  options.policies.insert(options.policies.begin(), std::string(kPolicyOff));
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
  constexpr std::string_view kUnset =
      "must be unset without a workload by name; a recording has its own";
  if (options.guest_bytes) {
    return OptionError("guest-memory", FormatBytes(*options.guest_bytes),
                       kUnset);
  }
  if (options.vcpus) {
    return OptionError("vcpus", absl::StrCat(*options.vcpus), kUnset);
  }
  if (options.duration_seconds) {
    return OptionError("duration", absl::StrCat(*options.duration_seconds),
                       kUnset);
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
                       ", or a recording's path with a / in it"));
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

absl::Status CheckSeconds(std::string_view option,
                          std::optional<double> seconds) {
  if (!seconds || (*seconds >= 0 && *seconds <= kLongestSeconds)) {
    return absl::OkStatus();
  }
  return OptionError(
      option, absl::StrFormat("%g", *seconds),
      absl::StrFormat("must be 0 to %g seconds", kLongestSeconds));
}

absl::Status CheckCount(std::string_view option, uint64_t count,
                        uint64_t high) {
  if (1 <= count && count <= high) return absl::OkStatus();
  return OptionError(option, absl::StrCat(count),
                     absl::StrCat("must be 1 to ", high));
}

absl::Status CheckBounds(const CompareOptions& options) {
  absl::Status status;
  if (options.granule && *options.granule != Order(0) &&
      *options.granule != kPageblockOrder) {
    status.Update(OptionError("granule", FormatBytes(options.granule->bytes()),
                              "must be 4KiB or 2MiB"));
  }
  if (*options.reportable_order > kMaxOrder) {
    status.Update(OptionError(
        "reportable-order", absl::StrCat(options.reportable_order->value()),
        absl::StrCat("must be 0 to ", kMaxOrder.value())));
  }
  if (options.guest_bytes && (*options.guest_bytes < kSmallestGuest ||
                              *options.guest_bytes > kLargestGuest)) {
    status.Update(
        OptionError("guest-memory", FormatBytes(*options.guest_bytes),
                    absl::StrCat("must be ", FormatBytes(kSmallestGuest),
                                 " to ", FormatBytes(kLargestGuest))));
  }
  if (options.vcpus) {
    status.Update(CheckCount("vcpus", *options.vcpus, kMostVcpus));
  }
  status.Update(CheckSeconds("duration", options.duration_seconds));
  status.Update(CheckSeconds("rest", options.rest_seconds));
  status.Update(CheckCount("repeats", options.repeats, kMostRepeats));
  status.Update(CheckCount("processes", options.processes, kMostProcesses));
  if (options.mode == CompareMode::kVirtual && options.processes > 1) {
    status.Update(
        OptionError("processes", absl::StrCat(options.processes),
                    "must be 1 in virtual time; runs are deterministic"));
  }
  return status;
}

// Refuses real guests that this machine cannot hold.
absl::Status CheckMachine(const CompareOptions& options,
                          uint64_t available_bytes) {
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
    if (needed > available_bytes) {
      return OptionError(
          "workloads", workload.name,
          absl::StrCat("must fit in the memory that this machine has "
                       "available, ",
                       FormatBytes(available_bytes), "; in real time it needs ",
                       FormatBytes(needed)));
    }
  }
  return absl::OkStatus();
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
    resolved.reportable_order = DefaultOrder(options.policy_parameters);
  }
  absl::Status status = ResolveWorkloads(resolved);
  if (status.ok()) status = ResolvePolicies(resolved);
  if (status.ok()) status = CheckBounds(resolved);
  if (status.ok() && options.mode == CompareMode::kReal) {
    status = CheckMachine(resolved, available_bytes);
  }
  if (!status.ok()) return status;
  return resolved;
}

}  // namespace guestmm
