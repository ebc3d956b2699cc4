#ifndef GUESTMM_REPORTING_POLICIES_H_
#define GUESTMM_REPORTING_POLICIES_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string_view>

#include "absl/status/statusor.h"
#include "guestmm/base/units.h"
#include "guestmm/reporting/reporting_policy.h"

namespace guestmm {

// What experiments may set of a policy; each policy has its own defaults.
struct PolicyParameters {
  std::optional<Order> order = {};
  std::optional<uint64_t> threshold = {};
  std::optional<size_t> capacity = {};
};

// The most blocks in one report: of 4 MiB each they fill a virtqueue chain's
// 2^32 bytes (virtio 1.3 §2.7.5.2).
inline constexpr size_t kMaxReportCapacity = 1024;

// The names of all policies.
std::span<const std::string_view> PolicyNames();

// A policy by its name. NotFound names those there are; InvalidArgument, the
// parameter that is out of bounds.
absl::StatusOr<std::unique_ptr<ReportingPolicy>> MakePolicy(
    std::string_view name, const PolicyParameters& parameters);

}  // namespace guestmm

#endif  // GUESTMM_REPORTING_POLICIES_H_
