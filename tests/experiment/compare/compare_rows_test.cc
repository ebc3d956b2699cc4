#include "src/experiment/compare/compare_rows.h"

#include <gtest/gtest.h>

#include <optional>
#include <vector>

namespace guestmm::compare_rows_test {
namespace {

CompareRow Row(std::optional<double> lock, uint64_t reports) {
  CompareRow row;
  row.workload = "burst";
  row.policy = "v12";
  row.lock_max_us = lock;
  row.reports = reports;
  return row;
}

TEST(MedianRowTest, IsByColumnAndTheLowerOfTwo) {
  const CompareRow of_three =
      MedianRow(std::vector{Row(5, 30), Row(9, 10), Row(7, 20)});
  EXPECT_EQ(of_three.policy, "v12");
  EXPECT_EQ(of_three.lock_max_us, 7);
  EXPECT_EQ(of_three.reports, 20u);
  const CompareRow of_four =
      MedianRow(std::vector{Row(5, 30), Row(9, 40), Row(7, 20), Row(8, 10)});
  EXPECT_EQ(of_four.lock_max_us, 7);
  EXPECT_EQ(of_four.reports, 20u);
}

TEST(MedianRowTest, IsUnsetWhereItIsInMostRows) {
  EXPECT_EQ(
      MedianRow(std::vector{Row({}, 1), Row(9, 1), Row({}, 1)}).lock_max_us,
      std::nullopt);
  EXPECT_EQ(
      MedianRow(std::vector{Row({}, 1), Row(9, 1), Row(8, 1)}).lock_max_us, 8);
}

TEST(MergeProcessesTest, TheirRowsMustBeOfTheSameWorkloadsAndPolicies) {
  const auto error = [](const char* workload, const char* policy) {
    CompareProcess first;
    first.rows = {Row(1, 1), Row(2, 2)};
    CompareProcess second = first;
    second.rows[1].workload = workload;
    second.rows[1].policy = policy;
    return MergeProcesses({.processes = 2}, std::vector{first, second})
        .status();
  };
  EXPECT_EQ(error("burst", "v12"), absl::OkStatus());
  const absl::Status differ = absl::FailedPreconditionError(
      "processes differ in row 1: one has burst, v12 there");
  EXPECT_EQ(error("churn", "v12"), differ);
  EXPECT_EQ(error("burst", "linux"), differ);
}

}  // namespace
}  // namespace guestmm::compare_rows_test
