#ifndef GUESTMM_MECHANISM_MECHANISM_SPEC_H_
#define GUESTMM_MECHANISM_MECHANISM_SPEC_H_

// How users write a mechanism:
//
//   NAME[:CHOICE][:KEY=VALUE]...
//
//   off                             no memory is handed back
//   limit                           all free memory is, at once and for free
//   real                            what a recording's kernel reported itself
//   reporting:POLICY[:KEY=VALUE]... free page reporting by a policy, e.g.
//                                   reporting:linux:order=5

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace guestmm {

inline constexpr std::string_view kMechanismOff = "off";
inline constexpr std::string_view kMechanismLimit = "limit";
inline constexpr std::string_view kMechanismReal = "real";
inline constexpr std::string_view kMechanismReporting = "reporting";

struct MechanismSpec {
  std::string name = std::string(kMechanismOff);
  // The policy, of reporting; empty otherwise.
  std::string choice = {};
  // Of the policy, in the order in which they were written.
  std::vector<std::pair<std::string, std::string>> parameters = {};

  bool is_reporting() const { return name == kMechanismReporting; }
  // As --mechanisms takes it: a row's `mechanism`.
  std::string text() const;
  // A row's `policy`: the choice if there is one, else the name.
  const std::string& policy() const { return choice.empty() ? name : choice; }

  bool operator==(const MechanismSpec&) const = default;
};

// `text` by the grammar. The error names `option`, e.g. "mechanisms", and the
// text; a policy's name and the values of its parameters are not checked here
// (CheckMechanisms).
absl::StatusOr<MechanismSpec> ParseMechanism(std::string_view option,
                                             std::string_view text);

// The value of --mechanisms: one or more mechanisms, separated by commas.
absl::StatusOr<std::vector<MechanismSpec>> ParseMechanisms(
    std::string_view option, std::string_view list);

// The value of --policies, the same without "reporting:": policies, with
// parameters or without ("linux:order=5"), and the names of other mechanisms.
absl::StatusOr<std::vector<MechanismSpec>> ParsePolicies(
    std::string_view option, std::string_view list);

// Converts the text of one mechanism as --policies takes it ("linux:order=5",
// "off") to that of --mechanisms ("reporting:linux:order=5", "off"), and back.
// Checks nothing.
std::string MechanismText(std::string_view policy_text);
std::string PolicyText(std::string_view mechanism_text);

}  // namespace guestmm

#endif  // GUESTMM_MECHANISM_MECHANISM_SPEC_H_
