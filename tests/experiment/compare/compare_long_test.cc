// What docs/policies.md says came out of all workloads, as far as it is a
// promise: half a minute of work.

#include <gtest/gtest.h>

#include <map>
#include <string>

#include "guestmm/experiment/compare/compare.h"

namespace guestmm::compare_long_test {
namespace {

TEST(CompareLongTest, AdaptiveKeepsItsPromisesInEveryWorkload) {
  const auto options =
      ResolveCompare({.policies = {"linux", "adaptive"}}, AvailableMemory());
  ASSERT_EQ(options.status(), absl::OkStatus());
  const auto result = RunCompare(*options, {});
  ASSERT_EQ(result.status(), absl::OkStatus());
  std::map<std::string, std::map<std::string, CompareRow>> rows;
  for (const CompareRow& row : result->rows) {
    rows[row.workload][row.policy] = row;
  }
  ASSERT_EQ(rows.size(), options->workloads.size());
  for (auto& [workload, by_policy] : rows) {
    SCOPED_TRACE(workload);
    const CompareRow& adaptive = by_policy["adaptive"];
    EXPECT_EQ(adaptive.host_share_of_reportable, 1);
    EXPECT_LE(adaptive.reported_over_needed, 1.05);
    EXPECT_GE(adaptive.work_share_of_off, 0.99);
    // docs/policies.md has the one workload, and why.
    EXPECT_GE(*adaptive.work_share_of_off,
              *by_policy["linux"].work_share_of_off -
                  (workload == "page_fault1" ? 0.002 : 0));
  }
  for (const char* workload : {"fragmenter", "build"}) {
    EXPECT_LE(rows[workload]["adaptive"].footprint_gib_min,
              0.85 * rows[workload]["linux"].footprint_gib_min)
        << workload;
  }
}

}  // namespace
}  // namespace guestmm::compare_long_test
