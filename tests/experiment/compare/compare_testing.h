#ifndef GUESTMM_TESTS_EXPERIMENT_COMPARE_COMPARE_TESTING_H_
#define GUESTMM_TESTS_EXPERIMENT_COMPARE_COMPARE_TESTING_H_

// Small comparisons, and their rows.

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "guestmm/base/units.h"
#include "guestmm/experiment/compare/compare.h"
#include "tests/testing/planted_policies.h"

namespace guestmm {

// On a machine with memory enough.
inline absl::StatusOr<CompareResult> TryCompare(const CompareOptions& options) {
  const auto resolved = ResolveCompare(options, kTiB);
  EXPECT_EQ(resolved.status(), absl::OkStatus());
  return RunCompare(*resolved, {});
}
inline CompareResult RunOk(const CompareOptions& options) {
  absl::StatusOr<CompareResult> result = TryCompare(options);
  EXPECT_EQ(result.status(), absl::OkStatus());
  return *std::move(result);
}

// The first row of a policy.
inline const CompareRow& RowOf(const CompareResult& result,
                               std::string_view policy) {
  const auto row = std::find_if(
      result.rows.begin(), result.rows.end(),
      [&](const CompareRow& each) { return each.policy == policy; });
  EXPECT_NE(row, result.rows.end()) << policy;
  return *row;
}

// Why the options are refused.
inline std::string ErrorOf(const CompareOptions& options,
                           uint64_t available_bytes = kTiB) {
  const absl::Status status = ResolveCompare(options, available_bytes).status();
  EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
  return std::string(status.message());
}

// With the planted policies registered.
class PlantedCompareTest : public testing::Test {
 protected:
  PlantedCompareTest() { RegisterPlantedPolicies(); }

  // A guest of 128 MiB that runs for 4 s and rests for 5 s.
  static CompareOptions Small(std::string workload) {
    return {.policies = {"v12"},
            .workloads = {std::move(workload)},
            .policy_parameters = {{"threshold", "2"}},
            .guest_bytes = 128 * kMiB,
            .vcpus = 1,
            .duration_seconds = 4,
            .rest_seconds = 5};
  }
};

}  // namespace guestmm

#endif  // GUESTMM_TESTS_EXPERIMENT_COMPARE_COMPARE_TESTING_H_
