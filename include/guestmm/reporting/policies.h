#ifndef GUESTMM_REPORTING_POLICIES_H_
#define GUESTMM_REPORTING_POLICIES_H_

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "guestmm/base/clock.h"
#include "guestmm/base/units.h"
#include "guestmm/reporting/reporting_policy.h"

namespace guestmm {

// What experiments may set of a policy; each policy has its own defaults. What
// a policy does not have it ignores: v12 the delay, the others the threshold.
struct PolicyParameters {
  std::optional<Order> order = {};
  std::optional<uint64_t> threshold = {};
  std::optional<size_t> capacity = {};
  std::optional<Nanoseconds> delay = {};
  // linux's: it was at work before, and is at rest.
  bool settled = false;
  // adaptive's: what the host maps at a time; and the smallest block that is
  // reported, which is taken to be between granule and order.
  std::optional<Order> granule = {};
  std::optional<Order> floor = {};
};

// The most ranges in one report: of 4 MiB each they fill a virtqueue chain's
// 2^32 bytes (virtio 1.3 §2.7.5.2).
inline constexpr size_t kMaxReportCapacity = 1024;

// The longest wait from a request to its pass.
inline constexpr Nanoseconds kMaxReportDelay = std::chrono::hours(1);

using PolicyFactory =
    std::function<absl::StatusOr<std::unique_ptr<ReportingPolicy>>(
        const PolicyParameters& parameters)>;

// Makes one more policy known by its name to everything that takes names
// (docs/write-a-policy.md). REQUIRES: no policy has that name (CHECKed); no
// other thread is using this file.
void RegisterPolicy(std::string name, PolicyFactory make);

// The names of all policies: those of the library first, then as registered.
std::vector<std::string> PolicyNames();

// A policy by its name. NotFound names those there are; InvalidArgument, the
// parameter that is out of bounds.
absl::StatusOr<std::unique_ptr<ReportingPolicy>> MakePolicy(
    std::string_view name, const PolicyParameters& parameters);

}  // namespace guestmm

#endif  // GUESTMM_REPORTING_POLICIES_H_
