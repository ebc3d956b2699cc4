#include "guestmm/reporting/policies.h"

#include <algorithm>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "guestmm/base/check.h"
#include "guestmm/base/choices.h"
#include "guestmm/base/option_error.h"
#include "guestmm/reporting/adaptive_policy.h"
#include "guestmm/reporting/linux_policy.h"
#include "guestmm/reporting/v12_policy.h"

namespace guestmm {
namespace {

absl::Status SpecError(const PolicySpec& spec, std::string_view rule) {
  return OptionError(spec.option, absl::StrCat(spec.prefix, spec.Text()), rule);
}

absl::StatusOr<std::unique_ptr<ReportingPolicy>> MakeAdaptive(
    AdaptiveOptions options, const PolicyContext& context) {
  options.granule = context.granule;
  return std::make_unique<AdaptivePolicy>(options);
}

}  // namespace

std::string PolicySpec::Text() const {
  std::string text = name;
  for (const PolicyParameter& parameter : parameters) {
    absl::StrAppend(&text, ":", parameter.name, "=", parameter.value);
  }
  return text;
}

absl::StatusOr<PolicySpec> ParsePolicy(std::string_view text,
                                       PolicyDefaults defaults,
                                       std::string_view option,
                                       std::string_view prefix) {
  PolicySpec spec = {.name = {},
                     .defaults = std::move(defaults),
                     .option = std::string(option),
                     .prefix = std::string(prefix)};
  const absl::Status malformed = OptionError(
      option, text,
      absl::StrCat("must be written ", spec.prefix, "POLICY[:KEY=VALUE]..."));
  if (!text.starts_with(prefix)) return malformed;
  const std::string_view policy = text.substr(prefix.size());
  const std::vector<std::string> parts =
      absl::StrSplit(absl::string_view(policy.data(), policy.size()), ':');
  spec.name = parts.front();
  if (spec.name.empty() || spec.name.find('=') != std::string::npos) {
    return malformed;
  }
  for (auto part = parts.begin() + 1; part != parts.end(); ++part) {
    const size_t equals = part->find('=');
    if (equals == 0 || equals == std::string::npos ||
        equals + 1 == part->size()) {
      return malformed;
    }
    PolicyParameter parameter = {.name = part->substr(0, equals),
                                 .value = part->substr(equals + 1)};
    for (const PolicyParameter& other : spec.parameters) {
      if (other.name == parameter.name) {
        return OptionError(option, text,
                           absl::StrCat("must set ", other.name, " once"));
      }
    }
    spec.parameters.push_back(std::move(parameter));
  }
  return spec;
}

PolicyRegistry::PolicyRegistry() {
  Register("v12", V12Fields(), [](const V12Options& options, auto&) {
    return std::make_unique<V12Policy>(options);
  });
  Register("v12-hotplug", V12Fields(), [](V12Options options, auto&) {
    options.hotplug = true;
    return std::make_unique<V12Policy>(options);
  });
  Register("linux", LinuxFields(),
           [](const LinuxOptions& options, const PolicyContext& context) {
             return std::make_unique<LinuxPolicy>(options, context.resumed);
           });
  Register("adaptive", AdaptiveFields(), MakeAdaptive);
}

void PolicyRegistry::Register(std::string name,
                              std::function<std::unique_ptr<ReportingPolicy>(
                                  const PolicyContext& context)>
                                  make) {
  Add({.name = std::move(name),
       .parameters = {},
       .make = [make = std::move(make)](
                   const PolicySpec&, const std::vector<Given>&,
                   const PolicyContext& context) { return make(context); }});
}

std::vector<std::string> PolicyRegistry::Names() const {
  std::vector<std::string> names;
  for (const Kind& kind : kinds_) names.push_back(kind.name);
  return names;
}

std::vector<std::string> PolicyRegistry::ParametersOf(
    std::string_view name) const {
  const Kind* const kind = Find(name);
  return kind == nullptr ? std::vector<std::string>() : kind->parameters;
}

absl::StatusOr<std::unique_ptr<ReportingPolicy>> PolicyRegistry::Make(
    const PolicySpec& spec, const PolicyContext& context) const {
  const Kind* const kind = Find(spec.name);
  if (kind == nullptr) {
    return SpecError(spec,
                     absl::StrCat(spec.prefix.empty() ? "" : "the policy ",
                                  MustBeOneOf(spec.name, Names())));
  }
  std::vector<Given> given;
  for (const PolicyParameter& parameter : spec.defaults) {
    if (kind->Has(parameter.name)) given.push_back({parameter, true});
  }
  for (const PolicyParameter& parameter : spec.parameters) {
    if (kind->parameters.empty()) {
      return SpecError(spec, absl::StrCat("must be ", spec.name,
                                          ", which has no parameters"));
    }
    if (!kind->Has(parameter.name)) {
      return SpecError(
          spec, absl::StrCat(parameter.name, " ",
                             MustBeOneOf(parameter.name, kind->parameters)));
    }
    std::erase_if(given, [&](const Given& other) {
      return other.is_default && other.name == parameter.name;
    });
    given.push_back({parameter, false});
  }
  absl::StatusOr<std::unique_ptr<ReportingPolicy>> policy =
      kind->make(spec, given, context);
  if (!policy.ok() && !absl::StartsWith(policy.status().message(), "--")) {
    return SpecError(spec, absl::StrCat(policy.status().message()));
  }
  return policy;
}

bool PolicyRegistry::Kind::Has(std::string_view parameter) const {
  return std::find(parameters.begin(), parameters.end(), parameter) !=
         parameters.end();
}

absl::Status PolicyRegistry::BadValue(const PolicySpec& spec,
                                      const Given& parameter,
                                      const absl::Status& rule) {
  if (parameter.is_default) {
    return OptionError(parameter.name, parameter.value,
                       absl::StrCat(rule.message(), " for ", spec.name));
  }
  return SpecError(spec, absl::StrCat(parameter.name, " ", rule.message()));
}

void PolicyRegistry::Add(Kind kind) {
  GUESTMM_CHECK(Find(kind.name) == nullptr)
      << "there is a policy " << kind.name << " already";
  kinds_.push_back(std::move(kind));
}

const PolicyRegistry::Kind* PolicyRegistry::Find(std::string_view name) const {
  for (const Kind& kind : kinds_) {
    if (kind.name == name) return &kind;
  }
  return nullptr;
}

PolicyRegistry& Policies() {
  static PolicyRegistry registry;
  return registry;
}

std::vector<std::string> PolicyNames() { return Policies().Names(); }

absl::StatusOr<std::unique_ptr<ReportingPolicy>> MakePolicy(
    const PolicySpec& spec, const PolicyContext& context) {
  return Policies().Make(spec, context);
}

}  // namespace guestmm
