#ifndef GUESTMM_REPORTING_POLICIES_H_
#define GUESTMM_REPORTING_POLICIES_H_

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string_view>

#include "absl/status/statusor.h"
#include "guestmm/base/clock.h"
#include "guestmm/base/units.h"
#include "guestmm/reporting/reporting_policy.h"

namespace guestmm {

// What experiments may set of a policy; each policy has its own defaults. What
// a policy does not have it ignores: "linux" the threshold, the others the
// delay.
struct PolicyParameters {
  std::optional<Order> order = {};
  std::optional<uint64_t> threshold = {};
  std::optional<size_t> capacity = {};
  std::optional<Nanoseconds> delay = {};
};

// The most blocks in one report: of 4 MiB each they fill a virtqueue chain's
// 2^32 bytes (virtio 1.3 §2.7.5.2).
inline constexpr size_t kMaxReportCapacity = 1024;

// The longest wait from a request to its pass.
inline constexpr Nanoseconds kMaxReportDelay = std::chrono::hours(1);

// The names of all policies.
std::span<const std::string_view> PolicyNames();

// A policy by its name. NotFound names those there are; InvalidArgument, the
// parameter that is out of bounds.
absl::StatusOr<std::unique_ptr<ReportingPolicy>> MakePolicy(
    std::string_view name, const PolicyParameters& parameters);

}  // namespace guestmm

#endif  // GUESTMM_REPORTING_POLICIES_H_
