#ifndef GUESTMM_MECHANISM_MECHANISMS_H_
#define GUESTMM_MECHANISM_MECHANISMS_H_

// The mechanisms that a machine can run, made from their specs.
//
//   constexpr auto kOption = MechanismOption::kMechanisms;
//   absl::StatusOr<MechanismSpec> spec =
//       ParseMechanism(kOption, "reporting:linux:order=5");
//   absl::StatusOr<std::unique_ptr<Mechanism>> mechanism =
//       MakeMechanism(kOption, *spec, {.policy = PolicyContext(granule)});
//   absl::Status status = machine.StartMechanism(*std::move(mechanism));

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "guestmm/base/export.h"
#include "guestmm/machine/mechanism.h"
#include "guestmm/mechanism/mechanism_spec.h"
#include "guestmm/reporting/policies.h"
#include "guestmm/reporting/reporting_policy.h"

namespace GUESTMM_EXPORT guestmm {

class Reporter;

// The mechanisms that a machine runs (MakeMechanism).
inline constexpr std::array kMachineMechanisms = {kMechanismOff,
                                                  kMechanismReporting};

// Hands nothing back.
class OffMechanism final : public Mechanism {
 public:
  std::string_view name() const override { return kMechanismOff; }
  std::string text() const override { return std::string(kMechanismOff); }
  absl::Status Start(Machine&) override { return absl::OkStatus(); }
  void Stop() override {}
  bool AtRest() const override { return true; }
  void SetTarget(uint64_t) override {}
  MechanismCounters counters() const override { return {}; }
  absl::Status CheckInvariants() const override { return absl::OkStatus(); }
};

// Free page reporting by a policy. Ignores targets.
class ReportingMechanism final : public Mechanism {
 public:
  using MakeReportingPolicy =
      std::function<absl::StatusOr<std::unique_ptr<ReportingPolicy>>()>;

  // `text` is how the mechanism is written; `make_policy` is called by each
  // Start.
  ReportingMechanism(std::string text, MakeReportingPolicy make_policy);
  ~ReportingMechanism() override;

  std::string_view name() const override { return kMechanismReporting; }
  std::string text() const override { return text_; }
  // The error of `make_policy` or of Machine::StartReporting.
  absl::Status Start(Machine& machine) override;
  void Stop() override;
  bool AtRest() const override;
  void SetTarget(uint64_t) override {}
  // Of the reporter: its acknowledged and failed reports.
  MechanismCounters counters() const override;
  absl::Status CheckInvariants() const override;

 private:
  // Null unless the guest is reporting.
  const Reporter* reporter() const;

  const std::string text_;
  const MakeReportingPolicy make_policy_;
  Machine* machine_ = nullptr;
};

// The host and the defaults that an experiment adds to specs.
struct MechanismContext {
  // The host that the policy works on.
  PolicyContext policy;
  // Used for parameters of policies that a spec does not set.
  PolicyDefaults defaults = {};
};

// The policy of `spec`. OptionError of `option` for an unknown policy and for a
// parameter; of its flag for one of the context's defaults. REQUIRES:
// spec.is_reporting() (CHECKed).
absl::StatusOr<std::unique_ptr<ReportingPolicy>> MakePolicy(
    MechanismOption option, const MechanismSpec& spec,
    const MechanismContext& context);

// The mechanism of `spec`: off, or reporting, whose policy is made by its
// start. limit and real are not run on a machine, an experiment computes them;
// for those an OptionError.
absl::StatusOr<std::unique_ptr<Mechanism>> MakeMechanism(
    MechanismOption option, const MechanismSpec& spec,
    const MechanismContext& context);

// Checks that each name is among `names`, that each policy can be made, and
// that each of the context's defaults is a parameter of at least one of them.
// The error is an OptionError.
absl::Status CheckMechanisms(const MechanismList& list,
                             std::span<const std::string_view> names,
                             const MechanismContext& context);

}  // namespace guestmm

#endif  // GUESTMM_MECHANISM_MECHANISMS_H_
