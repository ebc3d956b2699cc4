// What a comparison's options default to, and which are refused.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "guestmm/experiment/compare/compare.h"
#include "tests/experiment/compare/compare_testing.h"

namespace guestmm::compare_options_test {
namespace {

using testing::StartsWith;

using CompareOptionsTest = PlantedCompareTest;

TEST_F(CompareOptionsTest, DefaultsAreEveryPolicyAndTheDefaultWorkloads) {
  const auto resolved = ResolveCompare({}, kTiB);
  ASSERT_EQ(resolved.status(), absl::OkStatus());
  EXPECT_EQ(resolved->policies.front(), "off");
  EXPECT_THAT(resolved->policies, testing::Contains("v12"));
  EXPECT_THAT(resolved->policies, testing::Contains("eager"));
  EXPECT_THAT(resolved->policies,
              testing::Not(testing::Contains("v12-hotplug")));
  EXPECT_THAT(resolved->workloads, testing::Contains("sandbox"));
  EXPECT_EQ(RestSecondsOf(*resolved, "burst"), 60);
  EXPECT_EQ(resolved->reportable_order, kPageblockOrder);
  const auto real = ResolveCompare({.mode = CompareMode::kReal}, kTiB);
  EXPECT_THAT(real->workloads, testing::ElementsAre("page_fault1"));
  EXPECT_EQ(RestSecondsOf(*real, "page_fault1"), 10);
}

TEST_F(CompareOptionsTest, NamesWhatIsWrong) {
  EXPECT_THAT(ErrorOf({.policies = {"v13"}}),
              StartsWith("--policies=v13: must be one of off, v12, "));
  EXPECT_EQ(ErrorOf({.policies = {"v12", "v12"}}),
            "--policies=v12: must be given once");
  EXPECT_THAT(ErrorOf({.workloads = {""}}),
              StartsWith("--workloads=\"\": must be one of page_fault1, "));
  EXPECT_EQ(ErrorOf({.workloads = {"burst", "burst"}}),
            "--workloads=burst: must be named once");
  EXPECT_EQ(ErrorOf({.policy_parameters = {{"capacity", "0"}}}),
            "--capacity=0: must be 1 to 1024 for v12");
  EXPECT_EQ(ErrorOf({.reportable_order = Order(11)}),
            "--reportable-order=11: must be 0 to 10");
  EXPECT_EQ(ErrorOf({.granule = Order(10)}),
            "--granule=4MiB: must be a power of 2, 4KiB to 2MiB");
  EXPECT_EQ(ErrorOf({.mode = CompareMode::kReal, .granule = Order(4)}),
            "--granule=64KiB: must be 4KiB or 2MiB with --real");
  EXPECT_EQ(ErrorOf({.mode = CompareMode::kReal, .khugepaged = true}),
            "--khugepaged=on: must be off with --real; this machine has its "
            "own");
  EXPECT_EQ(ErrorOf({.khugepaged = true}),
            "--khugepaged=on: must be off with granules below 2 MiB: without "
            "huge pages it has no effect");
  EXPECT_TRUE(ResolveCompare({.granule = kPageblockOrder, .khugepaged = true},
                             AvailableMemory())
                  .ok());
  EXPECT_EQ(ErrorOf({.guest_bytes = kMiB}),
            "--guest-memory=1MiB: must be 64MiB to 1TiB");
  EXPECT_EQ(ErrorOf({.vcpus = 0}), "--vcpus=0: must be 1 to 64");
  EXPECT_EQ(ErrorOf({.duration_seconds = -1}),
            "--duration=-1: must be 0.001 to 3600 seconds");
  EXPECT_EQ(ErrorOf({.duration_seconds = 0}),
            "--duration=0: must be 0.001 to 3600 seconds");
  EXPECT_EQ(ErrorOf({.rest_seconds = 1e9}),
            "--rest=1000000000: must be 0 to 3600 seconds");
  EXPECT_EQ(ErrorOf({.repeats = 0}), "--repeats=0: must be 1 to 1000");
  EXPECT_EQ(ErrorOf({.mode = CompareMode::kReal, .processes = 101}),
            "--processes=101: must be 1 to 100");
  EXPECT_EQ(ErrorOf({.processes = 2}),
            "--processes=2: must be 1 in virtual time; runs are deterministic");
  EXPECT_EQ(
      ErrorOf({.workloads = {"page_fault1-60g"}, .mode = CompareMode::kReal}),
      "--workloads=page_fault1-60g: must have one node in real time; it has "
      "2");
  EXPECT_EQ(ErrorOf({.mode = CompareMode::kReal}, kGiB),
            "--workloads=page_fault1: must fit in the memory that this machine "
            "has available, 1.00 GiB; in real time it needs 2.25 GiB");
}

TEST_F(CompareOptionsTest, NamesTheMechanismThatIsWrong) {
  EXPECT_EQ(ErrorOf({.mechanisms = {"off", "foo"}}),
            "--mechanisms=foo: must be one of off, reporting");
  EXPECT_EQ(ErrorOf({.mechanisms = {"limit"}}),
            "--mechanisms=limit: must be one of off, reporting");
  EXPECT_EQ(ErrorOf({.mechanisms = {""}}),
            "--mechanisms=\"\": must be one or more mechanisms, separated by "
            "commas");
  EXPECT_EQ(ErrorOf({.mechanisms = {"off", "off"}}),
            "--mechanisms=off: must be given once");
  EXPECT_THAT(ErrorOf({.mechanisms = {"reporting:v13"}}),
              StartsWith("--mechanisms=reporting:v13: the policy must be one "
                         "of v12, "));
  EXPECT_EQ(ErrorOf({.mechanisms = {"reporting:linux:order=11"}}),
            "--mechanisms=reporting:linux:order=11: order must be 0 to 10");
  EXPECT_EQ(ErrorOf({.mechanisms = {"reporting:linux"},
                     .policy_parameters = {{"threshold", "2"}}}),
            "--threshold=2: must be given with a policy that has it: v12, "
            "v12-hotplug");
  EXPECT_EQ(ErrorOf({.policies = {"v12"}, .mechanisms = {"off"}}),
            "--mechanisms=off: must be unset with --policies");
}

TEST_F(CompareOptionsTest, MechanismsAreThePoliciesOfReporting) {
  CompareOptions options = Small("burst");
  const auto as_policies = ResolveCompare(options, kTiB);
  options.policies = {};
  options.mechanisms = {"reporting:v12"};
  const auto as_mechanisms = ResolveCompare(options, kTiB);
  ASSERT_EQ(as_mechanisms.status(), absl::OkStatus());
  EXPECT_EQ(as_mechanisms->policies, as_policies->policies);
  EXPECT_THAT(as_mechanisms->mechanisms, testing::IsEmpty());
}

}  // namespace
}  // namespace guestmm::compare_options_test
