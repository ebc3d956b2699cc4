#include "guestmm/experiment/compare/compare.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "guestmm/workload/recipes.h"
#include "nlohmann/json.hpp"
#include "src/experiment/compare/compare_rows.h"
#include "tests/experiment/compare/compare_testing.h"
#include "tests/testing/planted_policies.h"

namespace guestmm::compare_test {
namespace {

using CompareTest = PlantedCompareTest;

// Both files of a result in virtual time, without host, versions and run.
std::string Files(const CompareResult& result) {
  auto summary = nlohmann::ordered_json::parse(CompareSummaryJson(result));
  summary.erase("host");
  summary.erase("versions");
  summary.erase("run");
  return summary.dump() + CompareSeriesCsv(result);
}

TEST_F(CompareTest, EachWorkloadRunsUnderEachPolicyAndTheLimit) {
  for (const WorkloadInfo& workload : WorkloadInfos()) {
    SCOPED_TRACE(workload.name);
    CompareOptions options = Small(workload.name);
    // A second of page_fault1 takes as long as a minute of the others.
    if (workload.warmup_seconds > 0) options.duration_seconds = 0.2;
    const CompareResult result = RunOk(options);
    ASSERT_EQ(result.rows.size(), 3u);
    const CompareRow& off = result.rows[0];
    EXPECT_EQ(off.policy, "off");
    EXPECT_GT(off.work, 0u);
    EXPECT_EQ(off.work_share_of_off, 1);
    EXPECT_EQ(off.reports, 0u);
    EXPECT_EQ(off.reported_over_needed, std::nullopt);
    EXPECT_EQ(off.time_to_50_s, std::nullopt);

    EXPECT_DOUBLE_EQ(
        *off.duration_seconds,
        *options.duration_seconds *
            (1 - workload.warmup_seconds / workload.duration_seconds));

    const CompareRow& v12 = result.rows[1];
    EXPECT_EQ(v12.policy, "v12");
    EXPECT_EQ(v12.work, off.work);
    EXPECT_DOUBLE_EQ(*v12.work_share_of_off,
                     *off.duration_seconds / *v12.duration_seconds);
    EXPECT_EQ(v12.kicks, v12.reports);

    const CompareRow& limit = result.rows[2];
    EXPECT_EQ(limit.policy, "limit");
    EXPECT_EQ(limit.host_share_of_free, 1);
    EXPECT_EQ(limit.host_share_of_reportable, 1);
    EXPECT_EQ(limit.work, std::nullopt);
    EXPECT_EQ(limit.duration_seconds, std::nullopt);
  }
}

TEST_F(CompareTest, NoRunHasAFootprintUnderTheLimit) {
  for (const WorkloadInfo& workload : WorkloadInfos()) {
    for (const uint64_t seed : {1, 2}) {
      SCOPED_TRACE(testing::Message() << workload.name << " " << seed);
      CompareOptions options = Small(workload.name);
      options.policies = {"adaptive", "sweeping"};
      options.policy_parameters = {};
      options.seed = seed;
      options.guest_bytes = seed * 80 * kMiB;
      options.vcpus = seed;
      options.duration_seconds = workload.warmup_seconds > 0 ? 0.2 : 2;
      const CompareResult result = RunOk(options);
      const double limit = RowOf(result, "limit").footprint_gib_min;
      EXPECT_GT(limit, 0);
      for (const CompareRow& row : result.rows) {
        EXPECT_GE(row.footprint_gib_min, limit) << row.policy;
      }
    }
  }
}

// Under eager each step takes several times as long.
TEST_F(CompareTest, ARunEndsWithItsWorkAndNotByTheClock) {
  CompareOptions options = Small("page_fault1");
  options.policies = {"eager"};
  options.policy_parameters = {};
  options.guest_bytes = kGiB;  // enough that no allocation fails
  options.vcpus = 2;
  options.duration_seconds = 0.5;
  const CompareResult result = RunOk(options);
  EXPECT_EQ(RowOf(result, "eager").work, RowOf(result, "off").work);
  EXPECT_GT(*RowOf(result, "eager").duration_seconds,
            2 * *RowOf(result, "off").duration_seconds);
}

TEST_F(CompareTest, ARunThatIsTooSlowEndsWithLessWork) {
  CompareOptions options = Small("page_fault1");
  options.policies = {"eager"};
  options.policy_parameters = {};
  options.duration_seconds = 0.5;
  options.costs.hook_freed = 1'000'000;
  const CompareResult result = RunOk(options);
  const CompareRow& eager = RowOf(result, "eager");
  EXPECT_LT(*eager.work, *RowOf(result, "off").work);
  EXPECT_LT(*eager.work_share_of_off, 0.1);
  EXPECT_GE(eager.footprint_gib_min, RowOf(result, "limit").footprint_gib_min);
}

TEST_F(CompareTest, MemoryThatIsReportedComesBackAndCosts) {
  const CompareResult result = RunOk(Small("burst"));
  const CompareRow& off = RowOf(result, "off");
  const CompareRow& v12 = RowOf(result, "v12");
  EXPECT_LT(*off.host_share_of_free, 0.5);
  EXPECT_GT(*v12.host_share_of_free, 0.8);
  EXPECT_LT(v12.footprint_gib_min, off.footprint_gib_min * 0.6);
  EXPECT_GE(*v12.discard_calls, 1u);
  EXPECT_GT(*v12.lock_max_us, 0);
  EXPECT_LE(*v12.lock_mean_us, *v12.lock_max_us);
  EXPECT_GT(v12.loss->isolation + v12.loss->discard, 0);
}

// With one cost at a time. The hook's is that of the vCPU that it runs on: what
// is lost is what the work took longer.
TEST_F(CompareTest, ALossIsShownByWhatItWasLostTo) {
  using Loss = CompareRow::Loss;
  struct Case {
    uint64_t CostModel::*cost;
    uint64_t ns;
    double Loss::*column;
  };
  for (const Case& each :
       {Case{&CostModel::hook_freed, 200, &Loss::hook},
        Case{&CostModel::reporter_isolate, 200, &Loss::isolation},
        Case{&CostModel::kick, 2000, &Loss::discard},
        Case{&CostModel::host_fault_4k, 200, &Loss::fault_back},
        Case{&CostModel::host_zero_4k, 200, &Loss::zeroing}}) {
    CompareOptions options = Small("page_fault1");
    options.vcpus = 2;
    options.guest_bytes = kGiB;  // enough that no allocation fails
    options.duration_seconds = 0.05;
    options.rest_seconds = 0;
    options.policies = {"eager"};
    options.policy_parameters = {};
    for (const Field<CostModel>& field : CostFields()) {
      if (field.name() == "guest_fault") continue;
      ASSERT_EQ(field.Parse(options.costs, "0"), absl::OkStatus());
    }
    options.costs.*each.cost = each.ns;
    const CompareResult result = RunOk(options);
    EXPECT_FALSE(RowOf(result, "off").loss.has_value());
    const CompareRow& row = RowOf(result, "eager");
    ForEachLoss([&](const char* name, double Loss::*column) {
      SCOPED_TRACE(name);
      if (column == each.column) {
        EXPECT_GT(*row.loss.*column, 0);
        if (column == &Loss::hook) {
          EXPECT_NEAR(*row.loss.*column, 1 - *row.work_share_of_off, 0.02);
        }
      } else {
        EXPECT_EQ(*row.loss.*column, 0);
      }
    });
  }
}

// What off loses too is no loss: linux reports nothing before the end.
TEST_F(CompareTest, ALossIsBeyondWhatOffLost) {
  CompareOptions options = Small("churn");
  options.policies = {"linux"};
  options.policy_parameters = {{"delay", "3600"}};
  options.duration_seconds = 0.5;
  const CompareRow row = RowOf(RunOk(options), "linux");
  EXPECT_EQ(row.reports, 0u);
  EXPECT_EQ(row.loss->fault_back, 0);
  EXPECT_EQ(row.loss->zeroing, 0);
}

// A guest is whole blocks of 2 MiB; its kernel has 4 of 128 MiB.
TEST_F(CompareTest, SamplesAreFromTheBootToTheLastLook) {
  CompareOptions options = Small("burst");
  options.policies = {"off"};
  options.policy_parameters = {};
  options.guest_bytes = 129 * kMiB;
  options.duration_seconds = 1;
  options.rest_seconds = 1.5;
  const CompareResult result = RunOk(options);
  std::vector<double> seconds;
  for (const CompareSample& sample : result.samples) {
    EXPECT_EQ(sample.workload, "burst");
    seconds.push_back(sample.seconds);
  }
  EXPECT_EQ(seconds, (std::vector<double>{0, 1, 2, 2.5}));
  EXPECT_EQ(result.samples[0].free_bytes, 124 * kMiB);
  EXPECT_EQ(result.samples[0].resident_bytes, 4 * kMiB);
}

// Their per-CPU lists differ, and so does what is resident. The default is 5.3.
TEST_F(CompareTest, TheGuestHasTheAllocatorOfTheKernel) {
  CompareOptions options = Small("build");
  const CompareResult by_default = RunOk(options);
  std::vector<double> footprints;
  for (const KernelVersion kernel :
       {KernelVersion::kV5_3, KernelVersion::kV6_1, KernelVersion::kV6_12}) {
    options.kernel = kernel;
    const CompareResult result = RunOk(options);
    EXPECT_EQ(Files(RunOk(options)), Files(result));
    footprints.push_back(RowOf(result, "v12").footprint_gib_min);
    if (kernel == KernelVersion::kV5_3) {
      EXPECT_EQ(Files(result), Files(by_default));
    }
  }
  EXPECT_NE(footprints[0], footprints[1]);
  EXPECT_NE(footprints[1], footprints[2]);
}

TEST_F(CompareTest, TheSameSeedGivesTheSameResult) {
  for (const char* workload : {"burst", "churn", "build", "page_cache"}) {
    CompareOptions options = Small(workload);
    options.vcpus = 2;
    const std::string first = Files(RunOk(options));
    EXPECT_EQ(Files(RunOk(options)), first) << workload;
    options.seed = 2;
    EXPECT_NE(Files(RunOk(options)), first) << workload;
  }
}

// Known faults are shown ------------------------------------------------------

TEST_F(CompareTest, ShowsThatReportingEveryPageAtOnceCostsWork) {
  CompareOptions options = Small("page_fault1");
  options.policies = {"sweeping", "eager"};
  options.policy_parameters = {};
  options.duration_seconds = 2;
  const CompareResult result = RunOk(options);
  // It reports once a second, and only what is free at that instant.
  EXPECT_GT(*RowOf(result, "sweeping").work_share_of_off, 0.9);
  EXPECT_LT(*RowOf(result, "eager").work_share_of_off, 0.8);
  EXPECT_GT(*RowOf(result, "eager").refaults_1s,
            *RowOf(result, "sweeping").refaults_1s);
}

TEST_F(CompareTest, ShowsBlocksThatAreNeverReported) {
  CompareOptions options = Small("burst");
  options.policies = {"sweeping", "forgetful"};
  options.policy_parameters = {};
  const CompareResult result = RunOk(options);
  EXPECT_EQ(RowOf(result, "sweeping").host_share_of_reportable, 1);
  EXPECT_LT(*RowOf(result, "forgetful").host_share_of_reportable, 0.99);
}

TEST_F(CompareTest, ShowsBlocksThatAreReportedAgain) {
  CompareOptions options = Small("burst");
  options.policies = {"sweeping", "repeating"};
  options.policy_parameters = {};
  const CompareResult result = RunOk(options);
  EXPECT_LT(*RowOf(result, "sweeping").reported_over_needed, 1.1);
  EXPECT_GT(*RowOf(result, "repeating").reported_over_needed, 2);
}

// If the host maps huge pages, touching one page makes 2 MiB resident.
TEST_F(CompareTest, TheGranuleIsTheHosts) {
  CompareOptions options = Small("fragmenter");
  const CompareResult small = RunOk(options);
  options.granule = kPageblockOrder;
  const CompareResult huge = RunOk(options);
  EXPECT_GT(RowOf(huge, "v12").footprint_gib_min,
            RowOf(small, "v12").footprint_gib_min);
}

// And a discard of less splits it: at rest the host has all that the policies
// may report.
TEST_F(CompareTest, AnOrderBelowTheGranuleGetsAllOfIt) {
  CompareOptions options = Small("fragmenter");
  options.policies = {"linux", "adaptive"};
  options.policy_parameters = {{"order", "5"}};
  options.rest_seconds = 60;
  for (const Order granule : {Order(0), Order(4), kPageblockOrder}) {
    options.granule = granule;
    const CompareResult result = RunOk(options);
    EXPECT_LT(*RowOf(result, "off").host_share_of_reportable, 0.9);
    EXPECT_GE(*RowOf(result, "linux").host_share_of_reportable, 0.999);
    EXPECT_GE(*RowOf(result, "adaptive").host_share_of_reportable, 0.999);
  }
}

TEST_F(CompareTest, KhugepagedTakesBackWhatAHostSplit) {
  CompareOptions options = Small("fragmenter");
  options.policies = {"linux"};
  options.policy_parameters = {{"order", "5"}};
  options.granule = kPageblockOrder;
  options.rest_seconds = 120;
  const CompareResult without = RunOk(options);
  options.khugepaged = true;
  const CompareResult with = RunOk(options);
  EXPECT_GT(RowOf(with, "linux").footprint_gib_min,
            RowOf(without, "linux").footprint_gib_min);
  EXPECT_EQ(RowOf(with, "off").footprint_gib_min,
            RowOf(without, "off").footprint_gib_min);
}

TEST_F(CompareTest, CostsAreThoseOfTheModel) {
  CompareOptions options = Small("page_fault1");
  options.duration_seconds = 0.2;
  const CompareResult cheap = RunOk(options);
  options.costs.guest_fault *= 10;
  const CompareResult dear = RunOk(options);
  EXPECT_LT(*dear.rows[0].work, *cheap.rows[0].work / 2);
}

// Real time -------------------------------------------------------------------

// A suite of its own, which ThreadSanitizer runs: these guests have threads.
class CompareForRealTest : public CompareTest {};

TEST_F(CompareForRealTest, RunsForReal) {
  CompareOptions options = Small("burst");
  options.mode = CompareMode::kReal;
  options.duration_seconds = 0.5;
  options.rest_seconds = 0.2;
  options.repeats = 2;
  const CompareResult result = RunOk(options);
  ASSERT_EQ(result.rows.size(), 3u);
  EXPECT_GT(*RowOf(result, "off").work, 0u);
  // How much is done in half a second depends on the machine.
  EXPECT_TRUE(RowOf(result, "v12").reports.has_value());
  EXPECT_EQ(RowOf(result, "v12").loss, std::nullopt);
  EXPECT_GT(RowOf(result, "off").footprint_gib_min, 0);
  EXPECT_EQ(result.samples.back().repeat, 2u);
  // Each repeat begins with another policy, the first with off.
  EXPECT_EQ(result.samples.front().policy, "off");
  const auto second =
      std::ranges::find(result.samples, 2u, &CompareSample::repeat);
  EXPECT_EQ(second->policy, "v12");
}

TEST_F(CompareForRealTest, APolicyHasTheGranuleOfItsHost) {
  for (const CompareMode mode : {CompareMode::kVirtual, CompareMode::kReal}) {
    for (const Order granule : {Order(0), kPageblockOrder}) {
      CompareOptions options = Small("burst");
      options.policies = {"observed"};
      options.policy_parameters = {};
      options.mode = mode;
      options.granule = granule;
      options.duration_seconds = 0.001;
      options.rest_seconds = 0;
      options.repeats = 1;
      const auto resolved = ResolveCompare(options, kTiB);
      ASSERT_EQ(resolved.status(), absl::OkStatus());
      ObservedGranule().reset();
      EXPECT_EQ(RunCompare(*resolved, {}).status(), absl::OkStatus());
      EXPECT_EQ(ObservedGranule(), granule);
    }
  }
}

TEST_F(CompareForRealTest, SharesAndSamplesOfARealRunAreMeasuredByTheKernel) {
  CompareOptions options = Small("burst");
  options.mode = CompareMode::kReal;
  options.policies = {"off"};
  options.policy_parameters = {};
  options.duration_seconds = 0.1;
  options.rest_seconds = 0;
  options.repeats = 1;
  // How soon something is freed depends on the machine.
  double with_guest = 0;
  while (with_guest == 0) {
    *options.duration_seconds *= 2;
    const CompareResult result = RunOk(options);
    const CompareSample& last = result.samples.back();
    with_guest = 1 - *RowOf(result, "off").host_share_of_free;
    EXPECT_LE(with_guest * static_cast<double>(last.free_bytes),
              static_cast<double>(last.resident_bytes) + 0.5);
  }
}

TEST_F(CompareTest, ReportsProgress) {
  const auto resolved = ResolveCompare(Small("burst"), kTiB);
  double last = 0;
  ASSERT_EQ(RunCompare(*resolved, {.progress =
                                       [&](const CompareProgress& progress) {
                                         EXPECT_EQ(progress.workload, "burst");
                                         EXPECT_EQ(progress.process, 0u);
                                         EXPECT_EQ(progress.whole, 2);
                                         EXPECT_LE(progress.done,
                                                   progress.whole);
                                         EXPECT_GE(progress.done, last);
                                         last = progress.done;
                                       }})
                .status(),
            absl::OkStatus());
  // Whichever threads did the runs.
  EXPECT_EQ(last, 2);
}

// Two workloads, whose runs wait for the one that defines the work.
TEST_F(CompareTest, TheNumberOfJobsDoesNotAffectTheResult) {
  CompareOptions options = Small("burst");
  options.workloads.emplace_back("churn");
  std::string first;
  for (const uint64_t jobs : {1, 2, 3, 50}) {
    const auto result =
        RunCompare(*ResolveCompare(options, kTiB), {.jobs = jobs});
    ASSERT_EQ(result.status(), absl::OkStatus());
    EXPECT_TRUE(result->complete);
    const std::string series = CompareSeriesCsv(*result);
    if (first.empty()) first = series;
    EXPECT_EQ(series, first) << jobs;
  }
}

TEST_F(CompareTest, OneJobNeedsNoOtherThread) {
  std::set<std::thread::id> threads;
  const auto result = RunCompare(*ResolveCompare(Small("burst"), kTiB),
                                 {.jobs = 1, .progress = [&](auto&) {
                                    threads.insert(std::this_thread::get_id());
                                  }});
  ASSERT_EQ(result.status(), absl::OkStatus());
  EXPECT_EQ(threads, std::set{std::this_thread::get_id()});
}

TEST_F(CompareTest, OneThatIsStoppedAtOnceHasNoRows) {
  const auto result = RunCompare(*ResolveCompare(Small("burst"), kTiB),
                                 {.stopped = [] { return true; }});
  ASSERT_EQ(result.status(), absl::OkStatus());
  EXPECT_FALSE(result->complete);
  EXPECT_TRUE(result->rows.empty());
  EXPECT_EQ(nlohmann::json::parse(CompareSummaryJson(*result))["complete"],
            false);
}

TEST_F(CompareTest, RunsThatAreStoppedOnTheirWayHaveNoRows) {
  std::atomic<bool> stop{false};
  const auto result = RunCompare(*ResolveCompare(Small("burst"), kTiB),
                                 {.progress = [&](auto&) { stop = true; },
                                  .stopped = [&] { return stop.load(); }});
  ASSERT_EQ(result.status(), absl::OkStatus());
  EXPECT_FALSE(result->complete);
  EXPECT_TRUE(result->rows.empty());
}

// Asked before each run and at each of its samples. With one thread the first
// run, off, ends before the second is begun.
TEST_F(CompareTest, AStoppedExperimentHasTheRunsThatWereDone) {
  CompareOptions options = Small("page_fault1");
  options.mode = CompareMode::kReal;
  options.duration_seconds = 0.05;
  options.rest_seconds = 0;
  options.repeats = 1;
  int asked = 0;
  const auto result = RunCompare(*ResolveCompare(options, kTiB),
                                 {.stopped = [&] { return ++asked > 2; }});
  ASSERT_EQ(result.status(), absl::OkStatus());
  EXPECT_FALSE(result->complete);
  ASSERT_EQ(result->rows.size(), 2u);
  EXPECT_EQ(result->rows[0].policy, "off");
  EXPECT_EQ(result->rows[1].policy, "limit");
}

}  // namespace
}  // namespace guestmm::compare_test
