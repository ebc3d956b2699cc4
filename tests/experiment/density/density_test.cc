#include "guestmm/experiment/density/density.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "guestmm/reporting/policies.h"
#include "guestmm/reporting/v12_policy.h"
#include "nlohmann/json.hpp"

namespace guestmm::density_test {
namespace {

using testing::AllOf;
using testing::EndsWith;
using testing::HasSubstr;
using testing::StartsWith;

// Guests of 102 MiB on a host of 308 MiB. At this size 16 blocks of 2 or 4 MiB,
// which v12 waits for, are half of a guest.
DensityOptions SmallDensity() {
  return {.scale = kMinScale,
          .policies = {"off", "v12:order=6"},
          .settle_seconds = 1,
          .max_guests = 40};
}

DensityResult RunOk(const DensityOptions& options) {
  const auto setup = ResolveDensity(options, AvailableMemory());
  EXPECT_EQ(setup.status(), absl::OkStatus());
  absl::StatusOr<DensityResult> result = RunDensity(*setup, {});
  EXPECT_EQ(result.status(), absl::OkStatus());
  return *std::move(result);
}

TEST(DensityTest, ReportingHoldsAtLeastThreeTimesTheGuests) {
  const DensityResult result = RunOk(SmallDensity());
  ASSERT_EQ(result.rows.size(), 3u);
  const DensityRow& off = result.rows[0];
  const DensityRow& v12 = result.rows[1];
  const DensityRow& limit = result.rows[2];

  EXPECT_EQ(off.policy, "off");
  EXPECT_GE(off.guests, 2);
  EXPECT_LE(off.guests, 3);
  EXPECT_EQ(off.reported_bytes, 0u);
  EXPECT_EQ(off.discard_calls, 0u);

  EXPECT_EQ(v12.policy, "v12:order=6");
  EXPECT_GE(v12.guests, 3 * off.guests);
  EXPECT_GT(v12.reports, 0u);
  EXPECT_GT(v12.discard_calls, 0u);

  EXPECT_EQ(limit.policy, "limit");
  EXPECT_GE(limit.guests, v12.guests);
  EXPECT_EQ(limit.reports, std::nullopt);

  // No guest that counts was ever over the budget.
  for (const DensityRow& row : result.rows) {
    EXPECT_EQ(row.launches.size(), static_cast<size_t>(row.guests));
    for (const DensityLaunch& launch : row.launches) {
      EXPECT_LE(launch.host_peak_bytes, result.setup.host_bytes);
      EXPECT_GE(launch.workload_bytes, result.setup.workload_min_bytes);
      EXPECT_GE(launch.resident_bytes, result.setup.footprint_bytes);
    }
  }
}

// A guest that has come to rest holds its footprint and what v12 leaves: fewer
// than 16 blocks a zone, and what it loses.
TEST(DensityTest, FinishedGuestsHoldLittleMoreThanTheirFootprint) {
  const DensityResult result =
      RunOk({.scale = 0.125, .policies = {"v12"}, .max_guests = 2});
  EXPECT_EQ(result.rows[0].guests, 2);
  for (const DensityLaunch& launch : result.rows[0].launches) {
    EXPECT_LE(launch.resident_bytes, result.setup.footprint_bytes + 160 * kMiB);
  }
}

// The negative control: with the discard left out, reporting gains nothing.
TEST(DensityTest, WithoutTheDiscardReportingHoldsNoMoreGuests) {
  DensityOptions options = SmallDensity();
  options.hypervisor = HypervisorKind::kNone;
  const DensityResult result = RunOk(options);
  EXPECT_EQ(result.rows[1].guests, result.rows[0].guests);
  EXPECT_GT(result.rows[1].reported_bytes, 0u);
  EXPECT_EQ(result.rows[1].discarded_bytes, 0u);
  EXPECT_EQ(result.rows[1].discard_calls, 0u);
}

// The granules that policies of the name "granule" were made with, in order.
std::vector<Order>& Granules() {
  static std::vector<Order> granules;
  static const bool registered = [] {
    RegisterPolicy("granule", [](const PolicyContext& context) {
      granules.push_back(context.granule);
      return std::make_unique<V12Policy>(V12Options{});
    });
    return true;
  }();
  static_cast<void>(registered);
  return granules;
}

TEST(DensityTest, PoliciesAreMadeWithTheHostsGranule) {
  Granules();
  DensityOptions options = SmallDensity();
  options.policies = {"granule"};
  options.max_guests = 1;
  options.huge_pages = HugePages::kForbid;
  RunOk(options);
  EXPECT_EQ(Granules().back(), Order(0));
  if (ReadHostInfo().thp == "never") return;
  options.huge_pages = HugePages::kAdvise;
  RunOk(options);
  EXPECT_EQ(Granules().back(), kPageblockOrder);
}

TEST(DensityTest, EveryRunOfASeedIsTheSame) {
  DensityOptions options = SmallDensity();
  options.policies = {"off", "v12:order=6", "linux:order=6", "adaptive"};
  options.settle_seconds = 3;
  options.max_guests = 5;
  const DensityResult first = RunOk(options);
  EXPECT_GT(first.rows[3].reported_bytes, 0u);
  const DensityResult again = RunOk(options);
  EXPECT_EQ(DensitySummaryJson(first), DensitySummaryJson(again));
  EXPECT_EQ(DensitySeriesCsv(first), DensitySeriesCsv(again));
  options.seed = 2;
  options.max_guests = 1;
  const DensityResult other = RunOk(options);
  EXPECT_NE(first.rows[0].launches[0].workload_bytes,
            other.rows[0].launches[0].workload_bytes);
}

TEST(DensityTest, InVirtualTimeAGuestSettlesForTheWholeTime) {
  DensityOptions options = SmallDensity();
  options.policies = {"off"};
  options.settle_seconds = 1000;
  options.idle_activity = false;
  options.max_guests = 1;
  const DensityRow row = RunOk(options).rows[0];
  EXPECT_GT(*row.seconds, 1000);
  // The workload takes less than a second.
  EXPECT_LT(*row.seconds, 1001);
}

TEST(DensityTest, RunsInRealTimeToo) {
  DensityOptions options = SmallDensity();
  options.policies = {"v12"};
  options.real_time = true;
  options.max_guests = 2;
  const DensityResult result = RunOk(options);
  EXPECT_EQ(result.rows[0].guests, 2);
  EXPECT_GT(result.rows[0].reported_bytes, 0u);
  EXPECT_THAT(DensitySummaryJson(result), HasSubstr("\"mode\": \"real\""));
}

TEST(DensityTest, StopsAtMaxGuestsAndNamesTheReason) {
  DensityOptions options = SmallDensity();
  options.policies = {"v12"};
  options.max_guests = 2;
  const DensityResult result = RunOk(options);
  EXPECT_EQ(result.rows[0].guests, 2);
  EXPECT_EQ(result.rows[0].stopped, "max-guests 2");
  // So does the limit's, which is the sum of its guests.
  const DensityRow& limit = result.rows[1];
  EXPECT_EQ(limit.guests, 2);
  EXPECT_EQ(limit.stopped, "max-guests 2");
  ASSERT_EQ(limit.launches.size(), 2u);
  const DensityLaunch& first = limit.launches[0];
  const DensityLaunch& second = limit.launches[1];
  EXPECT_EQ(limit.reported_bytes, first.workload_bytes + second.workload_bytes);
  EXPECT_EQ(limit.discarded_bytes, limit.reported_bytes);
  EXPECT_EQ(first.resident_bytes, second.resident_bytes);
  EXPECT_EQ(limit.resident_bytes, 2 * first.resident_bytes);
  EXPECT_EQ(first.host_peak_bytes, first.resident_bytes + first.workload_bytes);
  EXPECT_EQ(second.host_peak_bytes,
            limit.resident_bytes + second.workload_bytes);
}

TEST(DensityTest, ReportsProgress) {
  DensityOptions options = SmallDensity();
  options.policies = {"off"};
  int calls = 0;
  int last_guest = 0;
  int most_guests = 0;
  ASSERT_EQ(RunDensity(*ResolveDensity(options, AvailableMemory()),
                       [&](const DensityProgress& progress) {
                         ++calls;
                         EXPECT_EQ(progress.policy, "off");
                         EXPECT_GE(progress.guest, last_guest);
                         last_guest = progress.guest;
                         most_guests = progress.most_guests;
                         EXPECT_GT(progress.resident_bytes, 0u);
                       })
                .status(),
            absl::OkStatus());
  EXPECT_GT(calls, 10);
  EXPECT_GE(last_guest, 3);
  EXPECT_GT(most_guests, last_guest);
}

TEST(DensityTest, AStoppedRunHasTheRowsThatWereDone) {
  DensityOptions options = SmallDensity();
  options.policies = {"off", "v12", "linux"};
  options.max_guests = 1;
  std::string policy;
  const auto result = RunDensity(
      *ResolveDensity(options, AvailableMemory()),
      [&](const DensityProgress& progress) { policy = progress.policy; },
      [&] { return policy == "v12"; });
  ASSERT_EQ(result.status(), absl::OkStatus());
  EXPECT_FALSE(result->complete);
  ASSERT_EQ(result->rows.size(), 2u);
  EXPECT_EQ(result->rows[0].policy, "off");
  EXPECT_EQ(result->rows[1].policy, "limit");
  for (const DensitySample& sample : result->samples) {
    EXPECT_EQ(sample.policy, "off");
  }
  EXPECT_EQ(nlohmann::json::parse(DensitySummaryJson(*result))["complete"],
            false);
}

TEST(DensityTest, SummaryKeepsItsContract) {
  DensityOptions options = SmallDensity();
  options.seed = 42;
  options.max_guests = 2;
  const DensityResult result = RunOk(options);
  const nlohmann::json summary =
      nlohmann::json::parse(DensitySummaryJson(result));
  EXPECT_EQ(summary["schema_version"], 1);
  EXPECT_EQ(summary["experiment"], "density");
  EXPECT_EQ(summary["seed"], 42);
  EXPECT_EQ(summary["config"]["scale"], kMinScale);
  EXPECT_EQ(summary["config"]["policy_parameters"]["v12:order=6"]["threshold"],
            16);
  EXPECT_GT(summary["host"]["memory_bytes"], 0);
  EXPECT_GT(summary["host"]["page_size"], 0);
  EXPECT_TRUE(summary["host"]["kernel"].is_string());
  EXPECT_TRUE(summary["host"]["thp"].is_string());
  EXPECT_TRUE(summary["versions"]["guestmm"].is_string());
  ASSERT_EQ(summary["rows"].size(), 3u);
  for (const auto& row : summary["rows"]) {
    for (const char* key :
         {"mechanism", "policy", "guests", "resident_bytes", "reported_bytes",
          "reports", "discard_calls", "seconds"}) {
      EXPECT_TRUE(row.contains(key)) << key;
    }
  }
  EXPECT_EQ(summary["rows"][0]["mechanism"], "off");
  EXPECT_EQ(summary["rows"][1]["mechanism"], "reporting:v12:order=6");
  EXPECT_EQ(summary["rows"][1]["policy"], "v12");
  EXPECT_EQ(summary["rows"][2]["mechanism"], "limit");
  EXPECT_TRUE(summary["rows"][2]["reports"].is_null());
  EXPECT_EQ(summary["rows"][0]["launches"].size(),
            summary["rows"][0]["guests"]);
}

TEST(DensityTest, AMechanismIsItsPolicy) {
  DensityOptions options = SmallDensity();
  options.policies = {"v12:order=6"};
  const DensityResult by_policy = RunOk(options);
  options.policies = {};
  options.mechanisms = {"reporting:v12:order=6"};
  const DensityResult by_mechanism = RunOk(options);
  EXPECT_EQ(DensitySummaryJson(by_mechanism), DensitySummaryJson(by_policy));
  EXPECT_EQ(DensitySeriesCsv(by_mechanism), DensitySeriesCsv(by_policy));
}

TEST(DensityTest, SeriesHasARowForEachMeasurement) {
  DensityOptions options = SmallDensity();
  options.policies = {"off"};
  const DensityResult result = RunOk(options);
  const std::string csv = DensitySeriesCsv(result);
  EXPECT_THAT(csv, AllOf(StartsWith("workload,policy,mechanism,"),
                         HasSubstr("\n,off,off,,"), EndsWith(",,,\n")));
  EXPECT_EQ(std::count(csv.begin(), csv.end(), '\n'),
            static_cast<int64_t>(result.samples.size()) + 1);
}

}  // namespace
}  // namespace guestmm::density_test
