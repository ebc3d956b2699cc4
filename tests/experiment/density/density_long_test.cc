// The density experiment at sizes where its figures mean something: policies
// with their defaults, up to a minute of work and 4 GiB of memory for each
// test.

#include <gtest/gtest.h>

#include <algorithm>
#include <string>

#include "guestmm/experiment/density/density.h"
#include "guestmm/mechanism/mechanism_spec.h"
#include "nlohmann/json.hpp"

namespace guestmm::density_long_test {
namespace {

DensityResult RunOk(const DensityOptions& options) {
  const auto setup = ResolveDensity(options, AvailableMemory());
  EXPECT_EQ(setup.status(), absl::OkStatus());
  absl::StatusOr<DensityResult> result = RunDensity(*setup, {});
  EXPECT_EQ(result.status(), absl::OkStatus());
  return *std::move(result);
}

TEST(DensityQuarterScaleLongTest, KeepsWhatTheReadmeSays) {
  const DensityResult result =
      RunOk({.scale = 0.25, .policies = {"off", "v12"}});
  const DensityRow& off = result.rows[0];
  const DensityRow& v12 = result.rows[1];
  EXPECT_GE(off.guests, 2);
  EXPECT_LE(off.guests, 3);
  EXPECT_GE(v12.guests, 3 * off.guests);
  for (const DensityLaunch& launch : v12.launches) {
    EXPECT_LE(launch.resident_bytes, result.setup.footprint_bytes + 160 * kMiB);
  }
}

// On a host with little more than one guest's memory, so that each guest comes
// near the budget.
TEST(DensityLongTest, GuestsThatFitAreNeverOverTheBudgetAndFinishSmall) {
  const DensityResult result =
      RunOk({.host_bytes = 614 * kMiB,
             .policies = {"off", "v12", "v12-hotplug", "linux", "adaptive"}});
  const uint64_t small = result.setup.footprint_bytes + 64 * kMiB;
  for (const DensityRow& row : result.rows) {
    SCOPED_TRACE(row.policy);
    EXPECT_EQ(row.stopped, "");
    ASSERT_EQ(row.launches.size(), static_cast<size_t>(row.guests));
    for (const DensityLaunch& launch : row.launches) {
      EXPECT_LE(launch.host_peak_bytes, result.setup.host_bytes);
      EXPECT_GE(launch.workload_bytes, result.setup.workload_min_bytes);
      EXPECT_GE(launch.resident_bytes, result.setup.footprint_bytes);
    }
    // The last guest, which did not fit, is seen to exceed it.
    bool exceeded = row.policy == kMechanismLimit;
    for (const DensitySample& sample : result.samples) {
      if (sample.policy != row.policy) continue;
      if (sample.guests <= row.guests) {
        EXPECT_LE(sample.resident_bytes, result.setup.host_bytes);
      }
      exceeded |= sample.resident_bytes > result.setup.host_bytes;
    }
    EXPECT_TRUE(exceeded);
    if (row.policy == kMechanismOff) {
      EXPECT_EQ(row.guests, 1);
      continue;
    }
    EXPECT_GE(std::count_if(row.launches.begin(), row.launches.end(),
                            [&](const DensityLaunch& launch) {
                              return launch.resident_bytes <= small;
                            }),
              3);
  }
}

// The negative control: with the discard left out, reporting gains nothing.
TEST(DensityLongTest, WithoutTheDiscardNoPolicyHoldsMoreGuests) {
  // A policy's longest delay and more; there is nothing to settle.
  const DensityResult result =
      RunOk({.policies = {"off", "v12", "v12-hotplug", "linux", "adaptive"},
             .hypervisor = HypervisorKind::kNone,
             .settle_seconds = 4});
  for (const DensityRow& row : result.rows) {
    if (row.policy == kMechanismOff || row.policy == kMechanismLimit) continue;
    SCOPED_TRACE(row.policy);
    EXPECT_EQ(row.guests, result.rows[0].guests);
    EXPECT_GT(row.reported_bytes, 0u);
    EXPECT_EQ(row.discarded_bytes, 0u);
    EXPECT_EQ(row.discard_calls, 0u);
  }
}

TEST(DensityLongTest, SummaryHasAllOfFortyGuests) {
  // At this size 16 blocks of 2 or 4 MiB, which v12 waits for, are half of a
  // guest.
  const DensityResult result = RunOk({.scale = kMinScale,
                                      .host_bytes = 1228 * kMiB,
                                      .policies = {"v12"},
                                      .policy_parameters = {{"order", "6"}},
                                      .max_guests = 40});
  const nlohmann::json summary =
      nlohmann::json::parse(DensitySummaryJson(result));
  for (const auto& row : summary["rows"]) {
    EXPECT_EQ(row["guests"], 40);
    EXPECT_EQ(row["stopped"], "max-guests 40");
    ASSERT_EQ(row["launches"].size(), 40u);
    for (const auto& launch : row["launches"]) {
      EXPECT_GE(launch["workload_bytes"], result.setup.workload_min_bytes);
      EXPECT_GE(launch["host_peak_bytes"], launch["workload_bytes"]);
      EXPECT_GE(launch["resident_bytes"], result.setup.footprint_bytes);
    }
    EXPECT_GE(row["resident_bytes"], 40 * result.setup.footprint_bytes);
    EXPECT_LE(row["resident_bytes"], result.setup.host_bytes);
  }
  EXPECT_EQ(result.samples.back().guests, 40);
}

}  // namespace
}  // namespace guestmm::density_long_test
