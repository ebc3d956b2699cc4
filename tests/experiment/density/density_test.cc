#include "guestmm/experiment/density/density.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "guestmm/reporting/policies.h"
#include "guestmm/reporting/v12_policy.h"
#include "nlohmann/json.hpp"

namespace guestmm::density_test {
namespace {

using testing::HasSubstr;
using testing::StartsWith;

// Guests of 104 MiB on a host of 308 MiB.
DensityOptions SmallDensity() { return {.scale = kMinScale, .max_guests = 40}; }

DensityResult RunOk(const DensityOptions& options) {
  const auto resolved = ResolveDensity(options, AvailableMemory());
  EXPECT_EQ(resolved.status(), absl::OkStatus());
  absl::StatusOr<DensityResult> result = RunDensity(*resolved, {});
  EXPECT_EQ(result.status(), absl::OkStatus());
  return *std::move(result);
}

TEST(DensityTest, ReportingHoldsAtLeastThreeTimesTheGuests) {
  DensityOptions options = SmallDensity();
  // At this size 16 blocks of 2 or 4 MiB are more than half of a guest.
  options.policy_parameters = {.order = Order(6)};
  const DensityResult result = RunOk(options);
  ASSERT_EQ(result.rows.size(), 3u);
  const DensityRow& off = result.rows[0];
  const DensityRow& v12 = result.rows[1];
  const DensityRow& limit = result.rows[2];

  EXPECT_EQ(off.policy, "off");
  EXPECT_GE(off.guests, 2);
  EXPECT_LE(off.guests, 3);
  EXPECT_EQ(off.reported_bytes, 0u);
  EXPECT_EQ(off.discard_calls, 0u);

  EXPECT_EQ(v12.policy, "v12");
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
      EXPECT_LE(launch.host_peak_bytes, result.options.host_bytes);
      EXPECT_GE(launch.workload_bytes, result.options.workload_min_bytes);
      EXPECT_GE(launch.resident_bytes, result.options.footprint_bytes);
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
    EXPECT_LE(launch.resident_bytes,
              result.options.footprint_bytes + 160 * kMiB);
  }
}

// The negative control: with the discard left out, reporting gains nothing.
TEST(DensityTest, WithoutTheDiscardReportingHoldsNoMoreGuests) {
  DensityOptions options = SmallDensity();
  options.policies = {"off", "v12"};
  options.hypervisor = HypervisorKind::kNone;
  const DensityResult result = RunOk(options);
  EXPECT_EQ(result.rows[1].guests, result.rows[0].guests);
  EXPECT_GT(result.rows[1].reported_bytes, 0u);
  EXPECT_EQ(result.rows[1].discarded_bytes, 0u);
  EXPECT_EQ(result.rows[1].discard_calls, 0u);
}

// The granules that policies of the name "granule" were made with, in order.
std::vector<std::optional<Order>>& Granules() {
  static std::vector<std::optional<Order>> granules;
  static const bool registered = [] {
    RegisterPolicy("granule",
                   [](const PolicyParameters& parameters)
                       -> absl::StatusOr<std::unique_ptr<ReportingPolicy>> {
                     granules.push_back(parameters.granule);
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

TEST(DensityTest, StopsAtMaxGuestsAndSaysSo) {
  DensityOptions options = SmallDensity();
  options.policies = {"v12"};
  options.max_guests = 2;
  const DensityResult result = RunOk(options);
  EXPECT_EQ(result.rows[0].guests, 2);
  EXPECT_EQ(result.rows[0].stopped, "max-guests 2");
}

TEST(DensityTest, ReportsProgress) {
  DensityOptions options = SmallDensity();
  options.policies = {"off"};
  int calls = 0;
  int last_guest = 0;
  ASSERT_EQ(RunDensity(*ResolveDensity(options, AvailableMemory()),
                       [&](const DensityProgress& progress) {
                         ++calls;
                         EXPECT_EQ(progress.policy, "off");
                         EXPECT_GE(progress.guest, last_guest);
                         last_guest = progress.guest;
                         EXPECT_GT(progress.resident_bytes, 0u);
                       })
                .status(),
            absl::OkStatus());
  EXPECT_GT(calls, 10);
  EXPECT_GE(last_guest, 3);
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
  EXPECT_EQ(summary["config"]["policy_parameters"]["v12"]["threshold"], 16);
  EXPECT_GT(summary["host"]["memory_bytes"], 0);
  EXPECT_GT(summary["host"]["page_size"], 0);
  EXPECT_TRUE(summary["host"]["kernel"].is_string());
  EXPECT_TRUE(summary["host"]["thp"].is_string());
  EXPECT_TRUE(summary["versions"]["guestmm"].is_string());
  ASSERT_EQ(summary["rows"].size(), 3u);
  for (const auto& row : summary["rows"]) {
    for (const char* key :
         {"policy", "guests", "resident_bytes", "reported_bytes", "reports",
          "discard_calls", "seconds"}) {
      EXPECT_TRUE(row.contains(key)) << key;
    }
  }
  EXPECT_TRUE(summary["rows"][2]["reports"].is_null());
  EXPECT_EQ(summary["rows"][0]["launches"].size(),
            summary["rows"][0]["guests"]);
}

TEST(DensityTest, SeriesHasARowForEachMeasurement) {
  DensityOptions options = SmallDensity();
  options.policies = {"off"};
  const DensityResult result = RunOk(options);
  const std::string csv = DensitySeriesCsv(result);
  EXPECT_THAT(csv, StartsWith("policy,seconds,guests,resident_bytes\noff,"));
  EXPECT_EQ(std::count(csv.begin(), csv.end(), '\n'),
            static_cast<int64_t>(result.samples.size()) + 1);
}

// What ResolveDensity says of `options`.
std::string ErrorOf(const DensityOptions& options,
                    uint64_t available_bytes = kTiB) {
  const absl::Status status = ResolveDensity(options, available_bytes).status();
  EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
  return std::string(status.message());
}

TEST(ResolveDensityTest, NamesWhatIsWrong) {
  EXPECT_EQ(ErrorOf({.scale = 0.0}), "scale 0: allowed is 0.02 to 64");
  EXPECT_EQ(ErrorOf({.scale = 65.0}), "scale 65: allowed is 0.02 to 64");
  EXPECT_EQ(ErrorOf({.scale = 1.0}, 8 * kGiB),
            "scale 1: a host of 15.00 GiB needs 15.72 GiB of real memory; "
            "allowed is what this machine has available, 8.00 GiB");
  EXPECT_EQ(ErrorOf({.scale = kMinScale, .host_bytes = 32 * kTiB}, 8 * kGiB),
            "host-memory 32.00 TiB: a host of 655.36 GiB needs 676.09 GiB of "
            "real memory; allowed is what this machine has available, 8.00 "
            "GiB");
  EXPECT_EQ(ErrorOf({.scale = 0.5, .guest_bytes = 100 * kMiB}),
            "guest-memory 100.00 MiB: allowed is 128.00 MiB to 64.00 TiB");
  EXPECT_EQ(ErrorOf({.host_bytes = 0}),
            "host-memory 0 B: allowed is 5.00 GiB to 64.00 TiB");
  EXPECT_EQ(ErrorOf({.host_bytes = uint64_t{1} << 63}),
            "host-memory 8388608.00 TiB: allowed is 5.00 GiB to 64.00 TiB");
  EXPECT_EQ(ErrorOf({.footprint_bytes = ~uint64_t{0}}),
            "footprint 16777216.00 TiB: allowed is 0 B to 3.75 GiB");
  EXPECT_EQ(ErrorOf({.workload_min_bytes = uint64_t{1} << 63}),
            "workload-min 8388608.00 TiB: allowed is 0 B to 4.45 GiB");
  EXPECT_EQ(ErrorOf({.policies = {}}),
            "policies: none given; allowed is one or more, separated by "
            "commas");
  EXPECT_EQ(ErrorOf({.policies = {"off", "v13"}}),
            "policies v13: there is no such policy; allowed are off, v12, "
            "v12-hotplug, linux, adaptive");
  EXPECT_EQ(ErrorOf({.policies = {""}}),
            "policies \"\": there is no such policy; allowed are off, v12, "
            "v12-hotplug, linux, adaptive");
  EXPECT_EQ(ErrorOf({.policies = {"v12", "off", "v12"}}),
            "policies v12: allowed is each policy once");
  EXPECT_EQ(ErrorOf({.policy_parameters = {.order = Order(11)}}),
            "order 11: allowed is 0 to 10");
  EXPECT_EQ(ErrorOf({.policy_parameters = {.threshold = 0}}),
            "threshold 0: allowed is 1 or more");
  EXPECT_EQ(ErrorOf({.policy_parameters = {.capacity = 0}}),
            "capacity 0: allowed is 1 to 1024");
  EXPECT_EQ(
      ErrorOf({.policy_parameters = {.delay = std::chrono::seconds(3601)}}),
      "delay 3601 s: allowed is 0 to 3600 s");
  EXPECT_EQ(ErrorOf({.settle_seconds = -1}),
            "settle -1: allowed is 0 to 86400 seconds");
  EXPECT_EQ(ErrorOf({.max_guests = 0}), "max-guests 0: allowed is 1 or more");
}

TEST(ResolveDensityTest, DefaultScaleFitsTheMachine) {
  EXPECT_EQ(ResolveDensity({}, 64 * kGiB)->scale, kDefaultScale);
  const auto small = ResolveDensity({}, kGiB);
  ASSERT_EQ(small.status(), absl::OkStatus());
  EXPECT_LT(small->scale, kDefaultScale);
  EXPECT_LE(small->host_bytes, kGiB);
  EXPECT_THAT(ErrorOf({}, 64 * kMiB), HasSubstr("this machine has available"));
}

TEST(ResolveDensityTest, MultipliesSizesByTheScale) {
  const auto half = ResolveDensity({.scale = 0.5}, kTiB);
  EXPECT_EQ(half->guest_bytes, 2560 * kMiB);
  EXPECT_EQ(half->host_bytes, 7680 * kMiB);
  EXPECT_EQ(half->footprint_bytes, 128 * kMiB);
  EXPECT_EQ(half->workload_min_bytes, 2 * kGiB);
}

}  // namespace
}  // namespace guestmm::density_test
