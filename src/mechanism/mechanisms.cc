#include "guestmm/mechanism/mechanisms.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "guestmm/base/check.h"
#include "guestmm/base/choices.h"
#include "guestmm/base/option_error.h"
#include "guestmm/machine/machine.h"
#include "guestmm/reporting/reporter.h"

namespace guestmm {
namespace {

template <typename Range>
bool Contains(const Range& range, std::string_view text) {
  return std::find(range.begin(), range.end(), text) != range.end();
}

// Those of `policies` that have the parameter.
std::vector<std::string> PoliciesWith(const std::vector<std::string>& policies,
                                      std::string_view parameter) {
  std::vector<std::string> with;
  for (const std::string& policy : policies) {
    if (Contains(Policies().ParametersOf(policy), parameter)) {
      with.push_back(policy);
    }
  }
  return with;
}

// The texts that `option` takes for the mechanisms `names`.
std::vector<std::string> Choices(MechanismOption option,
                                 std::span<const std::string_view> names) {
  std::vector<std::string> choices;
  for (const std::string_view name : names) {
    if (option == MechanismOption::kPolicies && name == kMechanismReporting) {
      const std::vector<std::string> policies = PolicyNames();
      choices.insert(choices.end(), policies.begin(), policies.end());
    } else {
      choices.emplace_back(name);
    }
  }
  return choices;
}

}  // namespace

ReportingMechanism::ReportingMechanism(std::string text,
                                       MakeReportingPolicy make_policy)
    : text_(std::move(text)), make_policy_(std::move(make_policy)) {}

ReportingMechanism::~ReportingMechanism() { Stop(); }

absl::Status ReportingMechanism::Start(Machine& machine) {
  GUESTMM_CHECK(machine_ == nullptr) << text_ << " is started already";
  absl::StatusOr<std::unique_ptr<ReportingPolicy>> policy = make_policy_();
  if (!policy.ok()) return policy.status();
  absl::Status status = machine.StartReporting(*std::move(policy));
  if (status.ok()) machine_ = &machine;
  return status;
}

void ReportingMechanism::Stop() {
  if (machine_ != nullptr) std::exchange(machine_, nullptr)->StopReporting();
}

const Reporter* ReportingMechanism::reporter() const {
  return machine_ == nullptr ? nullptr : machine_->reporter();
}

bool ReportingMechanism::AtRest() const {
  return reporter() == nullptr || reporter()->AtRest();
}

MechanismCounters ReportingMechanism::counters() const {
  if (reporter() == nullptr) return {};
  const ReporterCounters counters = reporter()->counters();
  return {.requests = counters.reports,
          .failed_requests = counters.failed_reports,
          .bytes = counters.reported_bytes};
}

// The machine checks the policy, with the rest of the reporter's state.
absl::Status ReportingMechanism::CheckInvariants() const {
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<ReportingPolicy>> MakePolicy(
    MechanismOption option, const MechanismSpec& spec,
    const MechanismContext& context) {
  GUESTMM_CHECK(spec.is_reporting()) << spec.text() << " has no policy";
  return MakePolicy({.name = spec.choice,
                     .parameters = spec.parameters,
                     .defaults = context.defaults,
                     .option = std::string(Name(option)),
                     .prefix = std::string(PolicyPrefix(option))},
                    context.policy);
}

absl::StatusOr<std::unique_ptr<Mechanism>> MakeMechanism(
    MechanismOption option, const MechanismSpec& spec,
    const MechanismContext& context) {
  if (spec.is_reporting()) {
    return std::make_unique<ReportingMechanism>(
        spec.text(),
        [option, spec, context] { return MakePolicy(option, spec, context); });
  }
  if (spec.name == kMechanismOff) return std::make_unique<OffMechanism>();
  return OptionError(Name(option), spec.text(option),
                     "must be off or reporting: no machine runs the others");
}

absl::Status CheckMechanisms(const MechanismList& list,
                             std::span<const std::string_view> names,
                             const MechanismContext& context) {
  const std::vector<std::string> policies = PolicyNames();
  std::vector<std::string> named;
  for (const MechanismSpec& spec : list.specs) {
    const bool allowed = Contains(names, spec.name);
    const bool unknown_policy = list.option == MechanismOption::kPolicies &&
                                spec.is_reporting() &&
                                !Contains(policies, spec.choice);
    if (!allowed || unknown_policy) {
      return OptionError(
          Name(list.option), spec.text(list.option),
          MustBeOneOf(spec.is_reporting() ? spec.choice : spec.name,
                      Choices(list.option, names)));
    }
    if (!spec.is_reporting()) continue;
    absl::Status status = MakePolicy(list.option, spec, context).status();
    if (!status.ok()) return status;
    named.push_back(spec.choice);
  }
  for (const PolicyParameter& parameter : context.defaults) {
    if (PoliciesWith(named, parameter.name).empty()) {
      return OptionError(
          parameter.name, parameter.value,
          absl::StrCat(
              "must be given with a policy that has it: ",
              absl::StrJoin(PoliciesWith(policies, parameter.name), ", ")));
    }
  }
  return absl::OkStatus();
}

}  // namespace guestmm
