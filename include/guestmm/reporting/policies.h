#ifndef GUESTMM_REPORTING_POLICIES_H_
#define GUESTMM_REPORTING_POLICIES_H_

// Policies by name, with their parameters, as `--policies` takes them:
//
//   off,linux,linux:order=5:delay=0.5
//
// RegisterPolicy adds one; MakePolicy is the only checked way to make one.

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "guestmm/base/export.h"
#include "guestmm/base/fields.h"
#include "guestmm/reporting/reporting_policy.h"

namespace GUESTMM_EXPORT guestmm {

// A parameter of a policy as text: {"order", "5"}.
struct PolicyParameter {
  std::string name;
  std::string value;

  bool operator==(const PolicyParameter&) const = default;
};

// Parameters for every policy of a run, as the flags --order, --delay, ... set
// them. A policy takes those that it declares and that its own text does not
// set.
using PolicyDefaults = std::vector<PolicyParameter>;

// The name of a policy, and its parameters.
struct PolicySpec {
  std::string name;
  std::vector<PolicyParameter> parameters = {};
  PolicyDefaults defaults = {};
  // The option that errors name, and what stands before Text() in its value,
  // e.g. "reporting:".
  std::string option = "policies";
  std::string prefix = {};

  // NAME[:KEY=VALUE]..., without the defaults. Two settings of one policy have
  // different texts, so the text names the row of a result.
  std::string Text() const;
};

// Splits `text`, which is `prefix` and then NAME[:KEY=VALUE]..., into its
// parts, whose names and values MakePolicy checks. `option` and `prefix` are
// PolicySpec's. OptionError if a part is empty or missing, or if a parameter
// stands twice.
absl::StatusOr<PolicySpec> ParsePolicy(std::string_view text,
                                       PolicyDefaults defaults = {},
                                       std::string_view option = "policies",
                                       std::string_view prefix = "");

// The host that a policy works on. Users do not set it.
struct PolicyContext {
  explicit PolicyContext(Order host_granule) : granule(host_granule) {}

  // The unit in which the host maps memory; a smaller discard splits it.
  Order granule;

  // The state of a policy that was at work before, which it continues from.
  // Unset: it starts anew. Only linux uses it.
  std::optional<ResumedReporting> resumed = {};
};

// Policies by name. Not thread-safe.
class PolicyRegistry {
 public:
  template <typename Options>
  using Maker = std::function<absl::StatusOr<std::unique_ptr<ReportingPolicy>>(
      const Options& options, const PolicyContext& context)>;

  // With those of the library: v12, v12-hotplug, linux, adaptive.
  PolicyRegistry();

  // Adds the policy `name` with the parameters `fields`. `make` is given
  // options within the fields' bounds; the messages of its errors are rules
  // over more than one of them: "order must be ...". REQUIRES: no policy has
  // that name (CHECKed); `fields` outlives this.
  template <typename Options>
  void Register(const std::string& name, const Fields<Options>& fields,
                std::type_identity_t<Maker<Options>> make) {
    Add({.name = name,
         .parameters = fields.Names(),
         .make = [&fields, make = std::move(make)](
                     const PolicySpec& spec, const std::vector<Given>& given,
                     const PolicyContext& context)
             -> absl::StatusOr<std::unique_ptr<ReportingPolicy>> {
           Options options;
           for (const Given& parameter : given) {
             const absl::Status status =
                 fields.Find(parameter.name)->Parse(options, parameter.value);
             if (!status.ok()) return BadValue(spec, parameter, status);
           }
           return make(options, context);
         }});
  }
  // Adds a policy without parameters.
  void Register(std::string name,
                std::function<std::unique_ptr<ReportingPolicy>(
                    const PolicyContext& context)>
                    make);

  // The library's first, then in the order of registration.
  std::vector<std::string> Names() const;
  // The names of a policy's parameters; empty if it is not registered.
  std::vector<std::string> ParametersOf(std::string_view name) const;

  // Makes a policy. An OptionError of spec.option for an unknown policy or
  // parameter, and for a value that is out of bounds; of the flag if the value
  // is a default.
  absl::StatusOr<std::unique_ptr<ReportingPolicy>> Make(
      const PolicySpec& spec, const PolicyContext& context) const;

 private:
  struct Given : PolicyParameter {
    bool is_default;
  };
  struct Kind {
    std::string name;
    std::vector<std::string> parameters;
    std::function<absl::StatusOr<std::unique_ptr<ReportingPolicy>>(
        const PolicySpec& spec, const std::vector<Given>& given,
        const PolicyContext& context)>
        make;

    bool Has(std::string_view parameter) const;
  };

  static absl::Status BadValue(const PolicySpec& spec, const Given& parameter,
                               const absl::Status& rule);
  void Add(Kind kind);
  const Kind* Find(std::string_view name) const;

  std::vector<Kind> kinds_;
};

// The registry that everything which takes policies by name uses.
PolicyRegistry& Policies();

// Policies().Register: see docs/write-a-policy.md. Call it before other threads
// use policies, e.g. first thing in main.
template <typename... Arguments>
void RegisterPolicy(std::string name, const Arguments&... arguments) {
  Policies().Register(std::move(name), arguments...);
}

// Policies().Names.
std::vector<std::string> PolicyNames();

// Policies().Make.
absl::StatusOr<std::unique_ptr<ReportingPolicy>> MakePolicy(
    const PolicySpec& spec, const PolicyContext& context);

}  // namespace guestmm

#endif  // GUESTMM_REPORTING_POLICIES_H_
