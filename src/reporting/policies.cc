#include "guestmm/reporting/policies.h"

#include <algorithm>
#include <chrono>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "guestmm/base/check.h"
#include "guestmm/reporting/adaptive_policy.h"
#include "guestmm/reporting/linux_policy.h"
#include "guestmm/reporting/v12_policy.h"

namespace guestmm {
namespace {

absl::StatusOr<std::unique_ptr<ReportingPolicy>> MakeV12(
    const PolicyParameters& parameters, bool hotplug) {
  V12Options options;
  options.hotplug = hotplug;
  options.order = parameters.order.value_or(options.order);
  options.threshold = parameters.threshold.value_or(options.threshold);
  options.capacity = parameters.capacity.value_or(options.capacity);
  if (options.threshold == 0) {
    return absl::InvalidArgumentError("threshold 0: allowed is 1 or more");
  }
  return std::make_unique<V12Policy>(options);
}

std::unique_ptr<ReportingPolicy> MakeLinux(const PolicyParameters& parameters) {
  LinuxOptions options;
  options.order = parameters.order.value_or(options.order);
  options.delay = parameters.delay.value_or(options.delay);
  options.capacity = parameters.capacity.value_or(options.capacity);
  options.settled = parameters.settled;
  return std::make_unique<LinuxPolicy>(options);
}

// It looks at every region of a block that is freed.
constexpr Order kSmallestAdaptiveOrder{5};

absl::StatusOr<std::unique_ptr<ReportingPolicy>> MakeAdaptive(
    const PolicyParameters& parameters) {
  AdaptiveOptions options;
  options.order = parameters.order.value_or(options.order);
  if (options.order < kSmallestAdaptiveOrder) {
    return absl::InvalidArgumentError(absl::StrCat(
        "order ", options.order.value(), ": allowed for guestmm is ",
        kSmallestAdaptiveOrder.value(), " to ", kMaxOrder.value(),
        "; what is smaller is for its floor"));
  }
  options.granule = parameters.granule.value_or(options.granule);
  if (options.granule > options.order) {
    return absl::InvalidArgumentError(
        absl::StrCat("order ", options.order.value(),
                     ": allowed for guestmm with a granule of ",
                     FormatBytes(options.granule.bytes()), " is ",
                     options.granule.value(), " to ", kMaxOrder.value()));
  }
  options.floor = std::clamp(parameters.floor.value_or(options.floor),
                             options.granule, options.order);
  options.delay = parameters.delay.value_or(options.delay);
  if (options.delay < std::chrono::milliseconds(1)) {
    return absl::InvalidArgumentError(
        absl::StrCat("delay ", ToSeconds(options.delay),
                     " s: allowed for guestmm is 0.001 s or more"));
  }
  options.capacity = parameters.capacity.value_or(options.capacity);
  return std::make_unique<AdaptivePolicy>(options);
}

struct NamedPolicy {
  std::string name;
  PolicyFactory make;
};

std::vector<NamedPolicy>& Policies() {
  static std::vector<NamedPolicy> policies = {
      {"v12",
       [](const PolicyParameters& parameters) {
         return MakeV12(parameters, /*hotplug=*/false);
       }},
      {"v12-hotplug",
       [](const PolicyParameters& parameters) {
         return MakeV12(parameters, /*hotplug=*/true);
       }},
      {"linux",
       [](const PolicyParameters& parameters) {
         return MakeLinux(parameters);
       }},
      {"adaptive", MakeAdaptive},
  };
  return policies;
}

}  // namespace

void RegisterPolicy(std::string name, PolicyFactory make) {
  for (const NamedPolicy& policy : Policies()) {
    GUESTMM_CHECK(policy.name != name) << "there is a policy " << name;
  }
  Policies().push_back({.name = std::move(name), .make = std::move(make)});
}

std::vector<std::string> PolicyNames() {
  std::vector<std::string> names;
  for (const NamedPolicy& policy : Policies()) names.push_back(policy.name);
  return names;
}

absl::StatusOr<std::unique_ptr<ReportingPolicy>> MakePolicy(
    std::string_view name, const PolicyParameters& parameters) {
  if (parameters.order && *parameters.order > kMaxOrder) {
    return absl::InvalidArgumentError(
        absl::StrCat("order ", parameters.order->value(), ": allowed is 0 to ",
                     kMaxOrder.value()));
  }
  if (parameters.capacity && (*parameters.capacity == 0 ||
                              *parameters.capacity > kMaxReportCapacity)) {
    return absl::InvalidArgumentError(
        absl::StrCat("capacity ", *parameters.capacity, ": allowed is 1 to ",
                     kMaxReportCapacity));
  }
  if (parameters.delay && (*parameters.delay < Nanoseconds(0) ||
                           *parameters.delay > kMaxReportDelay)) {
    return absl::InvalidArgumentError(
        absl::StrCat("delay ", ToSeconds(*parameters.delay),
                     " s: allowed is 0 to ", ToSeconds(kMaxReportDelay), " s"));
  }
  for (const NamedPolicy& policy : Policies()) {
    if (policy.name == name) return policy.make(parameters);
  }
  return absl::NotFoundError(
      absl::StrCat("there is no policy \"", std::string(name),
                   "\"; known are: ", absl::StrJoin(PolicyNames(), ", ")));
}

}  // namespace guestmm
