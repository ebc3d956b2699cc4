#ifndef GUESTMM_MECHANISM_MECHANISM_SPEC_H_
#define GUESTMM_MECHANISM_MECHANISM_SPEC_H_

// The text by which users name a mechanism:
//
//   NAME[:CHOICE][:KEY=VALUE]...
//
//   off                             no memory is handed back
//   limit                           all free memory is, at once and for free
//   real                            what a recording's kernel reported itself
//   reporting:POLICY[:KEY=VALUE]... free page reporting by a policy, e.g.
//                                   reporting:linux:order=5

#include <array>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "guestmm/base/export.h"
#include "guestmm/reporting/policies.h"

namespace GUESTMM_EXPORT guestmm {

inline constexpr std::string_view kMechanismOff = "off";
inline constexpr std::string_view kMechanismLimit = "limit";
inline constexpr std::string_view kMechanismReal = "real";
inline constexpr std::string_view kMechanismReporting = "reporting";
inline constexpr std::array kMechanismNames = {
    kMechanismOff, kMechanismLimit, kMechanismReal, kMechanismReporting};

// The options that take mechanisms. Errors name the one that was given.
enum class MechanismOption {
  kMechanisms,  // as above
  kPolicies,    // the same, but policies are written without "reporting:"
};
// "mechanisms", "policies".
std::string_view Name(MechanismOption option);
// The text before a policy: "reporting:", "".
std::string_view PolicyPrefix(MechanismOption option);

struct MechanismSpec {
  std::string name = std::string(kMechanismOff);
  // The policy, of reporting; empty otherwise.
  std::string choice = {};
  // Of the policy, in the order in which they were written.
  std::vector<PolicyParameter> parameters = {};

  bool is_reporting() const { return name == kMechanismReporting; }
  // As `option` takes it. A row's `mechanism` is --mechanisms' text.
  std::string text(MechanismOption option = MechanismOption::kMechanisms) const;
  // A row's `policy`: the choice if there is one, else the name.
  const std::string& policy() const { return choice.empty() ? name : choice; }

  bool operator==(const MechanismSpec&) const = default;
};

// The value of an option.
struct MechanismList {
  MechanismOption option = MechanismOption::kPolicies;
  std::vector<MechanismSpec> specs = {};

  // Each as --policies takes it.
  std::vector<std::string> policies() const;
};

// `text` as `option` takes it. The OptionError quotes the text; a policy's name
// and the values of its parameters are not checked here (CheckMechanisms), nor
// that it is one of `names`: those are what the error for an unknown name
// lists.
absl::StatusOr<MechanismSpec> ParseMechanism(
    MechanismOption option, std::string_view text,
    std::span<const std::string_view> names = kMechanismNames);

// All of `texts`. An OptionError also if there is none, or if two are the same.
absl::StatusOr<MechanismList> ParseMechanisms(
    MechanismOption option, std::span<const std::string> texts,
    std::span<const std::string_view> names = kMechanismNames);

// The value of --policies or of --mechanisms, whichever is not empty. The error
// is an OptionError: of --mechanisms if both are given, of --policies if
// neither is.
absl::StatusOr<MechanismList> ParseMechanisms(
    std::span<const std::string> policies,
    std::span<const std::string> mechanisms,
    std::span<const std::string_view> names = kMechanismNames);

// Converts the text of one mechanism as --policies takes it ("linux:order=5",
// "off") to that of --mechanisms ("reporting:linux:order=5", "off"), and back.
// Checks nothing.
std::string MechanismText(std::string_view policy_text);
std::string PolicyText(std::string_view mechanism_text);

}  // namespace guestmm

#endif  // GUESTMM_MECHANISM_MECHANISM_SPEC_H_
