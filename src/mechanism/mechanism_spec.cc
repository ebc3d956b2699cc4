#include "guestmm/mechanism/mechanism_spec.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "guestmm/base/choices.h"
#include "guestmm/base/option_error.h"

namespace guestmm {
namespace {

constexpr std::string_view kReportingPrefix = "reporting:";

bool IsMechanism(std::string_view name) {
  return std::find(kMechanismNames.begin(), kMechanismNames.end(), name) !=
         kMechanismNames.end();
}

absl::StatusOr<MechanismSpec> ParseReporting(MechanismOption option,
                                             std::string_view text) {
  absl::StatusOr<PolicySpec> spec =
      ParsePolicy(text, /*defaults=*/{}, Name(option), PolicyPrefix(option));
  if (!spec.ok()) return spec.status();
  return MechanismSpec{.name = std::string(kMechanismReporting),
                       .choice = std::move(spec->name),
                       .parameters = std::move(spec->parameters)};
}

}  // namespace

std::string_view Name(MechanismOption option) {
  return option == MechanismOption::kMechanisms ? "mechanisms" : "policies";
}

std::string_view PolicyPrefix(MechanismOption option) {
  return option == MechanismOption::kMechanisms ? kReportingPrefix
                                                : std::string_view();
}

std::string MechanismSpec::text(MechanismOption option) const {
  std::string text = name;
  if (!choice.empty()) absl::StrAppend(&text, ":", choice);
  for (const PolicyParameter& parameter : parameters) {
    absl::StrAppend(&text, ":", parameter.name, "=", parameter.value);
  }
  return option == MechanismOption::kMechanisms ? text : PolicyText(text);
}

std::vector<std::string> MechanismList::policies() const {
  std::vector<std::string> texts;
  for (const MechanismSpec& spec : specs) {
    texts.push_back(spec.text(MechanismOption::kPolicies));
  }
  return texts;
}

absl::StatusOr<MechanismSpec> ParseMechanism(
    MechanismOption option, std::string_view text,
    std::span<const std::string_view> names) {
  const std::string name(text.substr(0, text.find(':')));
  // --policies names no mechanism "reporting": it takes that for a policy.
  const bool is_known = IsMechanism(name);
  if (name == kMechanismReporting ||
      (option == MechanismOption::kPolicies && !is_known)) {
    return ParseReporting(option, text);
  }
  if (!is_known) {
    return OptionError(Name(option), text,
                       MustBeOneOf(name, {names.begin(), names.end()}));
  }
  if (name != text) {
    return OptionError(
        Name(option), text,
        absl::StrCat("must be just ", name, ", which has no parameters"));
  }
  return MechanismSpec{.name = name};
}

absl::StatusOr<MechanismList> ParseMechanisms(
    MechanismOption option, std::span<const std::string> texts,
    std::span<const std::string_view> names) {
  const std::string list = absl::StrJoin(texts, ",");
  if (list.empty()) {
    return OptionError(
        Name(option), list,
        absl::StrCat("must be one or more ", std::string(Name(option)),
                     ", separated by commas"));
  }
  MechanismList result = {.option = option};
  for (const std::string& text : texts) {
    absl::StatusOr<MechanismSpec> spec = ParseMechanism(option, text, names);
    if (!spec.ok()) return spec.status();
    if (std::find(result.specs.begin(), result.specs.end(), *spec) !=
        result.specs.end()) {
      return OptionError(Name(option), text, "must be given once");
    }
    result.specs.push_back(*std::move(spec));
  }
  return result;
}

absl::StatusOr<MechanismList> ParseMechanisms(
    std::span<const std::string> policies,
    std::span<const std::string> mechanisms,
    std::span<const std::string_view> names) {
  if (mechanisms.empty()) {
    return ParseMechanisms(MechanismOption::kPolicies, policies, names);
  }
  if (!policies.empty()) {
    return OptionError(Name(MechanismOption::kMechanisms),
                       absl::StrJoin(mechanisms, ","),
                       "must be unset with --policies");
  }
  return ParseMechanisms(MechanismOption::kMechanisms, mechanisms, names);
}

std::string MechanismText(std::string_view policy_text) {
  if (IsMechanism(policy_text)) return std::string(policy_text);
  return absl::StrCat(std::string(kReportingPrefix), std::string(policy_text));
}

std::string PolicyText(std::string_view mechanism_text) {
  if (mechanism_text.starts_with(kReportingPrefix)) {
    mechanism_text.remove_prefix(kReportingPrefix.size());
  }
  return std::string(mechanism_text);
}

}  // namespace guestmm
