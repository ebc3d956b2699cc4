// What docs/policies.md promises for all workloads. Takes minutes.

#include <gtest/gtest.h>

#include <cstdint>
#include <map>
#include <optional>
#include <string>

#include "guestmm/experiment/compare/compare.h"
#include "guestmm/workload/recipes.h"

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
    // burst and page_cache touch again nearly all that they free, and any
    // policy reports it: 3 and 2 % are lost to the host's faults.
    EXPECT_GE(adaptive.work_share_of_off, 0.97);
    // page_cache touches again most of the small blocks that linux does not
    // report: 0.6 % more is lost there, 0.3 % or less elsewhere.
    EXPECT_GE(*adaptive.work_share_of_off,
              *by_policy["linux"].work_share_of_off -
                  (workload == "page_cache" ? 0.006 : 0.004));
  }
  for (const char* workload : {"fragmenter", "build"}) {
    EXPECT_LE(rows[workload]["adaptive"].footprint_gib_min,
              0.85 * rows[workload]["linux"].footprint_gib_min)
        << workload;
  }
}

// A sandbox of 2 GiB once began one burst less under adaptive than without
// reporting in the same time, so that adaptive's footprint was under the limit.
TEST(CompareLongTest, NoRunHasAFootprintUnderTheLimit) {
  for (const WorkloadInfo& workload : WorkloadInfos()) {
    // Those on 30 and 60 GiB are the same workload.
    if (workload.vcpus > 2) continue;
    for (const uint64_t guest_bytes : {512 * kMiB, 2 * kGiB}) {
      for (const uint64_t seed : {1, 2}) {
        // Two of large guests would take minutes.
        if (seed == 2 && guest_bytes == 2 * kGiB) continue;
        SCOPED_TRACE(testing::Message()
                     << workload.name << " " << guest_bytes << " " << seed);
        const bool fast = workload.warmup_seconds > 0;
        const auto options =
            ResolveCompare({.policies = {"v12", "linux", "adaptive"},
                            .workloads = {workload.name},
                            .seed = seed,
                            .guest_bytes = guest_bytes,
                            .duration_seconds =
                                fast ? std::optional<double>(1) : std::nullopt},
                           AvailableMemory());
        ASSERT_EQ(options.status(), absl::OkStatus());
        const auto result = RunCompare(*options, {});
        ASSERT_EQ(result.status(), absl::OkStatus());
        const CompareRow& limit = result->rows.back();
        ASSERT_EQ(limit.policy, "limit");
        for (const CompareRow& row : result->rows) {
          EXPECT_GE(row.footprint_gib_min, limit.footprint_gib_min)
              << row.policy;
          if (row.policy != "adaptive") continue;
          EXPECT_GE(row.work_share_of_off, 0.95);
        }
      }
    }
  }
}

}  // namespace
}  // namespace guestmm::compare_long_test
