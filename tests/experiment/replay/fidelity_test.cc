#include "guestmm/experiment/replay/fidelity.h"

#include <gtest/gtest.h>

#include <chrono>
#include <optional>

namespace guestmm::fidelity_test {
namespace {

using std::chrono::seconds;

constexpr uint64_t kUnit = 2 * kMiB;

// A guest of 1 GiB, traced from 10 s to 20 s.
ReplayResult Replayed() {
  ReplayResult result;
  result.memory_bytes = kGiB;
  result.start = seconds(10);
  result.end = seconds(20);
  return result;
}
GpaRange Units(uint64_t first, uint64_t count) {
  return {Gpa(first * kUnit), count * kUnit};
}

TEST(Fidelity, MatchesReportsOneToOneWithinTwoSeconds) {
  Recording recording;
  recording.reports = {{seconds(9), Units(50, 1)},  // before the trace
                       {seconds(11), Units(0, 2)},  // two units
                       {seconds(12), Units(4, 1)},  // twice
                       {seconds(13), Units(4, 1)},
                       {seconds(15), Units(6, 1)},  // too late
                       {seconds(15), Units(8, 1)}};
  ReplayResult result = Replayed();
  result.samples = {{.time = seconds(10)}};
  result.reports = {{seconds(13), Units(0, 1)}, {seconds(10), Units(1, 1)},
                    {seconds(12), Units(4, 1)}, {seconds(18), Units(6, 1)},
                    {seconds(18), Units(7, 1)}, {seconds(13), Units(8, 1)}};
  const Fidelity fidelity = CompareToTruth(recording, result);
  EXPECT_EQ(fidelity.truth_reported_bytes, 6 * kUnit);
  EXPECT_EQ(fidelity.reported_bytes, 6 * kUnit);
  EXPECT_DOUBLE_EQ(fidelity.block_match.value(), 4.0 / 6);
}

// A unit that is reported in part may not have been discarded.
TEST(Fidelity, AUnitIsReportedAsAWhole) {
  Recording recording;
  recording.reports = {{seconds(11), {Gpa(kMiB), 4 * kMiB}}};  // of unit 1 all
  ReplayResult result = Replayed();
  result.samples = {{.time = seconds(10)}};
  result.reports = {{seconds(11), Units(1, 1)}};
  EXPECT_DOUBLE_EQ(CompareToTruth(recording, result).block_match.value(), 1);
  result.reports = {{seconds(11), Units(0, 1)}, {seconds(11), Units(2, 1)}};
  EXPECT_DOUBLE_EQ(CompareToTruth(recording, result).block_match.value(), 0);
}

TEST(Fidelity, ComparesCurvesAnchoredAtTheFirstSample) {
  Recording recording;
  recording.resident = {{seconds(9), 1},
                        {seconds(10), 500 * kMiB},
                        {seconds(11), 510 * kMiB},
                        {seconds(12), 400 * kMiB}};
  ReplayResult result = Replayed();
  result.samples = {{.time = seconds(10), .resident_bytes = 300 * kMiB},
                    {.time = seconds(12), .resident_bytes = 230 * kMiB}};
  // Off by 0, 10 and 30 MiB.
  EXPECT_NEAR(CompareToTruth(recording, result).resident_mae_percent.value(),
              100 * (40.0 / 3) / 1024, 1e-9);
}

TEST(Fidelity, AMeanIsOverTime) {
  ReplayResult result = Replayed();
  EXPECT_FALSE(ReplayedResidency(result).has_value());
  result.samples = {{.time = seconds(10), .resident_bytes = 100},
                    {.time = seconds(11), .resident_bytes = 300},
                    {.time = seconds(14), .resident_bytes = 50}};
  EXPECT_EQ(ReplayedResidency(result)->mean_bytes, 250u);
  EXPECT_EQ(ReplayedResidency(result)->end_bytes, 50u);

  Recording recording;
  recording.resident = {
      {seconds(9), 1}, {seconds(10), 20}, {seconds(20), 40}, {seconds(21), 1}};
  const auto real = RealResidency(recording, seconds(10), seconds(20));
  EXPECT_EQ(real->mean_bytes, 20u);
  EXPECT_EQ(real->end_bytes, 40u);
  EXPECT_FALSE(RealResidency(recording, seconds(30), seconds(40)).has_value());
}

TEST(Fidelity, ComparesFreeMemoryByOrder) {
  Recording recording;
  RecordedBuddyInfo::Zone zone = {.node = 0, .name = "Normal", .blocks = {}};
  zone.blocks[0] = 8;
  zone.blocks[3] = 1;
  recording.buddyinfo = {{.time = seconds(11), .zones = {zone}},
                         {.time = seconds(30), .zones = {zone}}};
  ReplayResult result = Replayed();
  result.samples = {{.time = seconds(10)}};
  zone.blocks[0] = 0;
  zone.blocks[3] = 2;
  result.buddyinfo = {{.time = seconds(11), .zones = {zone}}};
  // 8 of 16 pages are in blocks of another order.
  EXPECT_DOUBLE_EQ(CompareToTruth(recording, result).buddyinfo_distance.value(),
                   0.5);
}

// Zones of other nodes have the same names.
TEST(Fidelity, ComparesFreeMemoryByNode) {
  RecordedBuddyInfo::Zone first = {.node = 0, .name = "Normal", .blocks = {}};
  RecordedBuddyInfo::Zone second = {.node = 1, .name = "Normal", .blocks = {}};
  first.blocks[0] = 8;
  second.blocks[3] = 1;
  Recording recording;
  recording.buddyinfo = {{.time = seconds(11), .zones = {first, second}}};
  ReplayResult result = Replayed();
  result.samples = {{.time = seconds(10)}};
  result.buddyinfo = recording.buddyinfo;
  EXPECT_EQ(CompareToTruth(recording, result).buddyinfo_distance, 0.0);
}

// E.g. if the truth has another clock.
TEST(Fidelity, WithoutTruthInTheTracedTimeNothingIsCompared) {
  Recording recording;
  recording.reports = {{seconds(9), Units(0, 1)}, {seconds(30), Units(0, 1)}};
  recording.resident = {{seconds(9), 1}, {seconds(30), 1}};
  recording.buddyinfo = {{.time = seconds(30), .zones = {}}};
  ReplayResult result = Replayed();
  result.samples = {{.time = seconds(10)}};
  const Fidelity fidelity = CompareToTruth(recording, result);
  EXPECT_EQ(fidelity.truth_reported_bytes, 0u);
  EXPECT_EQ(fidelity.block_match, std::nullopt);
  EXPECT_EQ(fidelity.resident_mae_percent, std::nullopt);
  EXPECT_EQ(fidelity.buddyinfo_distance, std::nullopt);
}

}  // namespace
}  // namespace guestmm::fidelity_test
