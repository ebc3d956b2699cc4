#include "guestmm/reporting/policies.h"

#include <array>
#include <chrono>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "guestmm/reporting/linux_policy.h"
#include "guestmm/reporting/v12_policy.h"

namespace guestmm {
namespace {

constexpr std::array<std::string_view, 3> kNames = {"v12", "v12-hotplug",
                                                    "linux"};

double Seconds(Nanoseconds time) {
  return std::chrono::duration<double>(time).count();
}

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
  return std::make_unique<LinuxPolicy>(options);
}

}  // namespace

std::span<const std::string_view> PolicyNames() { return kNames; }

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
        absl::StrCat("delay ", Seconds(*parameters.delay),
                     " s: allowed is 0 to ", Seconds(kMaxReportDelay), " s"));
  }
  if (name == "v12") return MakeV12(parameters, /*hotplug=*/false);
  if (name == "v12-hotplug") return MakeV12(parameters, /*hotplug=*/true);
  if (name == "linux") return MakeLinux(parameters);
  std::vector<std::string> known(kNames.begin(), kNames.end());
  return absl::NotFoundError(
      absl::StrCat("there is no policy \"", std::string(name),
                   "\"; known are: ", absl::StrJoin(known, ", ")));
}

}  // namespace guestmm
