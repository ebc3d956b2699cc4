#include "guestmm/mechanism/mechanisms.h"

#include <algorithm>
#include <charconv>
#include <optional>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "guestmm/base/check.h"
#include "guestmm/base/option_error.h"
#include "guestmm/machine/machine.h"
#include "guestmm/reporting/reporter.h"

namespace guestmm {
namespace {

std::optional<uint64_t> ToInteger(const std::string& text) {
  uint64_t value = 0;
  const char* const end = text.data() + text.size();
  const auto [at, error] = std::from_chars(text.data(), end, value);
  if (error != std::errc() || at != end) return std::nullopt;
  return value;
}

// Sets one parameter; what its value must be, or none if it is set.
std::optional<std::string> SetParameter(const std::string& key,
                                        const std::string& text,
                                        PolicyParameters& parameters) {
  if (key == "delay") {
    double seconds = 0;
    const bool valid = absl::SimpleAtod(text, &seconds) && seconds >= 0 &&
                       seconds <= ToSeconds(kMaxReportDelay);
    if (!valid) {
      return absl::StrCat("must be 0 to ", ToSeconds(kMaxReportDelay),
                          " seconds");
    }
    parameters.delay =
        Nanoseconds(static_cast<Nanoseconds::rep>(seconds * 1e9 + 0.5));
    return std::nullopt;
  }
  const std::optional<uint64_t> value = ToInteger(text);
  if (key == "threshold") {
    if (!value) return "must be a whole number";
    parameters.threshold = value;
    return std::nullopt;
  }
  if (key == "capacity") {
    if (!value) return "must be a whole number";
    parameters.capacity = value;
    return std::nullopt;
  }
  if (key == "order" || key == "floor" || key == "granule") {
    const auto highest = static_cast<uint64_t>(kMaxOrder.value());
    if (!value || *value > highest)
      return absl::StrCat("must be 0 to ", highest);
    const Order order(static_cast<int>(*value));
    (key == "order"   ? parameters.order
     : key == "floor" ? parameters.floor
                      : parameters.granule) = order;
    return std::nullopt;
  }
  return std::string(
      "must be one of capacity, delay, floor, granule, order, threshold");
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

absl::Status ReportingMechanism::CheckInvariants() const {
  return reporter() == nullptr ? absl::OkStatus()
                               : reporter()->policy().CheckInvariants();
}

absl::StatusOr<std::unique_ptr<ReportingPolicy>> MakePolicy(
    std::string_view option, const MechanismSpec& spec,
    const MechanismContext& context) {
  GUESTMM_CHECK(spec.is_reporting()) << spec.text() << " has no policy";
  const std::vector<std::string> policies = PolicyNames();
  if (std::find(policies.begin(), policies.end(), spec.choice) ==
      policies.end()) {
    return OptionError(
        option, spec.choice,
        absl::StrCat("must be one of ", absl::StrJoin(policies, ", ")));
  }
  PolicyParameters parameters = context.parameters;
  for (const auto& [key, value] : spec.parameters) {
    if (const auto rule = SetParameter(key, value, parameters)) {
      return OptionError(option, spec.text(), absl::StrCat(key, " ", *rule));
    }
  }
  return MakePolicy(spec.choice, parameters);
}

absl::StatusOr<std::unique_ptr<Mechanism>> MakeMechanism(
    std::string_view option, const MechanismSpec& spec,
    const MechanismContext& context) {
  if (spec.is_reporting()) {
    return std::make_unique<ReportingMechanism>(
        spec.text(), [option = std::string(option), spec, context] {
          return MakePolicy(option, spec, context);
        });
  }
  if (spec.name == kMechanismOff) return std::make_unique<OffMechanism>();
  return OptionError(option, spec.text(),
                     "must be off or reporting: no machine runs the others");
}

absl::Status CheckMechanisms(std::string_view option,
                             std::span<const MechanismSpec> specs,
                             std::span<const std::string_view> names,
                             const MechanismContext& context) {
  for (const MechanismSpec& spec : specs) {
    if (std::find(names.begin(), names.end(), spec.name) == names.end()) {
      std::vector<std::string> allowed(names.begin(), names.end());
      return OptionError(
          option, spec.text(),
          absl::StrCat("must be one of ", absl::StrJoin(allowed, ", ")));
    }
    if (!spec.is_reporting()) continue;
    absl::Status status = MakePolicy(option, spec, context).status();
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

}  // namespace guestmm
