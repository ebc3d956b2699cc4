#include "guestmm/mechanism/mechanism_spec.h"

#include <algorithm>
#include <array>
#include <span>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "guestmm/base/option_error.h"

namespace guestmm {
namespace {

constexpr std::string_view kReportingPrefix = "reporting:";

constexpr std::array kMechanisms = {kMechanismOff, kMechanismLimit,
                                    kMechanismReal, kMechanismReporting};

bool IsMechanism(std::string_view name) {
  return std::find(kMechanisms.begin(), kMechanisms.end(), name) !=
         kMechanisms.end();
}

std::vector<std::string> Split(std::string_view text, char by) {
  return absl::StrSplit(absl::string_view(text.data(), text.size()), by);
}

using Parse = absl::StatusOr<MechanismSpec> (*)(std::string_view option,
                                                std::string_view text);

absl::StatusOr<std::vector<MechanismSpec>> ParseList(std::string_view option,
                                                     std::string_view list,
                                                     std::string_view what,
                                                     Parse parse) {
  if (list.empty()) {
    return OptionError(option, list,
                       absl::StrCat("must be one or more ", std::string(what),
                                    ", separated by commas"));
  }
  std::vector<MechanismSpec> specs;
  for (const std::string& text : Split(list, ',')) {
    absl::StatusOr<MechanismSpec> spec = parse(option, text);
    if (!spec.ok()) return spec.status();
    if (std::find(specs.begin(), specs.end(), *spec) != specs.end()) {
      return OptionError(option, text, "must be given once");
    }
    specs.push_back(*std::move(spec));
  }
  return specs;
}

// `parts` is POLICY[:KEY=VALUE]..., which follows `prefix` in the grammar of
// `text`.
absl::StatusOr<MechanismSpec> ParseReporting(
    std::string_view option, std::string_view text, const std::string& prefix,
    std::span<const std::string> parts) {
  const auto malformed = [&] {
    return OptionError(
        option, text,
        absl::StrCat("must be written ", prefix, "POLICY[:KEY=VALUE]..."));
  };
  if (parts.empty() || parts[0].empty() ||
      parts[0].find('=') != std::string::npos) {
    return malformed();
  }
  MechanismSpec spec = {.name = std::string(kMechanismReporting),
                        .choice = parts[0]};
  for (const std::string& part : parts.subspan(1)) {
    const size_t equals = part.find('=');
    if (equals == 0 || equals == std::string::npos ||
        equals + 1 == part.size()) {
      return malformed();
    }
    const std::string key = part.substr(0, equals);
    for (const auto& parameter : spec.parameters) {
      if (parameter.first == key) {
        return OptionError(option, text,
                           absl::StrCat("must set ", key, " once"));
      }
    }
    spec.parameters.emplace_back(key, part.substr(equals + 1));
  }
  return spec;
}

// A policy, or the name of a mechanism without one.
absl::StatusOr<MechanismSpec> ParsePolicy(std::string_view option,
                                          std::string_view text) {
  const std::vector<std::string> parts = Split(text, ':');
  if (parts.front() == kMechanismReporting) {
    return ParseReporting(option, text, "", {});
  }
  if (IsMechanism(parts.front())) return ParseMechanism(option, text);
  return ParseReporting(option, text, "", parts);
}

}  // namespace

std::string MechanismSpec::text() const {
  std::string text = name;
  if (!choice.empty()) absl::StrAppend(&text, ":", choice);
  for (const auto& [key, value] : parameters) {
    absl::StrAppend(&text, ":", key, "=", value);
  }
  return text;
}

absl::StatusOr<MechanismSpec> ParseMechanism(std::string_view option,
                                             std::string_view text) {
  const std::vector<std::string> parts = Split(text, ':');
  if (parts.front() == kMechanismReporting) {
    return ParseReporting(option, text, std::string(kReportingPrefix),
                          std::span(parts).subspan(1));
  }
  if (!IsMechanism(parts.front())) {
    return OptionError(
        option, text,
        absl::StrCat("must be one of ",
                     absl::StrJoin(kMechanisms, ", ",
                                   [](std::string* out, std::string_view name) {
                                     out->append(name);
                                   })));
  }
  if (parts.size() > 1) {
    return OptionError(option, text,
                       absl::StrCat("must be just ", parts.front(),
                                    ", which has no parameters"));
  }
  return MechanismSpec{.name = parts.front()};
}

absl::StatusOr<std::vector<MechanismSpec>> ParseMechanisms(
    std::string_view option, std::string_view list) {
  return ParseList(option, list, "mechanisms", ParseMechanism);
}

absl::StatusOr<std::vector<MechanismSpec>> ParsePolicies(
    std::string_view option, std::string_view list) {
  return ParseList(option, list, "policies", ParsePolicy);
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
