// guestmm compare with a recording. GUESTMM_DATA is the folder of the recording
// in the source tree.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "tests/tools/command_testing.h"

namespace guestmm::compare_command_test {
namespace {

namespace fs = std::filesystem;

using ::testing::AllOf;
using ::testing::ContainsRegex;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::StartsWith;

class CompareCommandTest : public CommandTest {
 protected:
  Outcome Compare(const std::string& arguments) const {
    return Guestmm("compare " + arguments);
  }

  const std::string recording_ = GUESTMM_DATA "/procs";
};

TEST_F(CompareCommandTest, TheRealKernelIsARowBesideThePolicies) {
  const std::string out = Path("out");
  const Outcome outcome =
      Compare("--policies linux --workloads " + recording_ + " --out " + out);
  EXPECT_EQ(outcome.status, 0) << outcome.err;
  EXPECT_EQ(outcome.err, "running " + recording_ + "\n");
  EXPECT_THAT(
      outcome.out,
      AllOf(
          StartsWith("compare: in virtual time, seed 1\n\n" + recording_ +
                     ": a recording of 57.9 s of a guest of 3.00 GiB, and 0 "
                     "s of rest; granules of 2.00 MiB\ncould not be followed: "
                     "0.20 % of frees unmatched, 0.14 % of allocations "
                     "forced; 0 events lost\n\npolicy "),
          HasSubstr("\noff "), HasSubstr("\nlinux "),
          // 147 blocks of 2 MiB, two of which did not need reporting.
          ContainsRegex("\nreal .* 1\\.014 +0 +- +79\n"), HasSubstr("\nlimit "),
          Not(HasSubstr("lost to hook"))));
  EXPECT_THAT(Contents(out + "/summary.json"),
              AllOf(HasSubstr("\"" + recording_ + "\": {"),
                    HasSubstr("\"policy\": \"real\"")));
  EXPECT_THAT(Contents(out + "/series.csv"),
              HasSubstr("\n" + recording_ + ",real,real,1,57.000,,"));
}

TEST_F(CompareCommandTest, EachKindOfWorkloadHasItsHeading) {
  const Outcome outcome = Compare(
      "--policies off --guest-memory 64MiB --vcpus 1 --duration 1 "
      "--workloads " +
      recording_ + ",burst");
  EXPECT_EQ(outcome.status, 0) << outcome.err;
  EXPECT_THAT(
      outcome.out,
      AllOf(StartsWith("compare: in virtual time, granules of 4.00 KiB, "
                       "seed 1; 60 s of rest after each workload\n\n"
                       "burst: "),
            HasSubstr("lost to hook"),
            HasSubstr("\n" + recording_ + ": a recording of ")));
}

TEST_F(CompareCommandTest, MechanismsAreListedAsTheyAreWritten) {
  const std::string out = Path("out");
  const Outcome outcome = Compare(
      "--mechanisms reporting:linux:order=9,off,reporting:linux:order=5 "
      "--guest-memory 64MiB --vcpus 1 --duration 1 --workloads burst --out " +
      out);
  EXPECT_EQ(outcome.status, 0) << outcome.err;
  EXPECT_THAT(outcome.out,
              ContainsRegex("\noff .*\nlinux:order=9 .*\nlinux:order=5 .*\n"
                            "limit "));
  EXPECT_THAT(Contents(out + "/summary.json"),
              AllOf(HasSubstr("\"mechanism\": \"reporting:linux:order=9\""),
                    HasSubstr("\"mechanism\": \"reporting:linux:order=5\""),
                    HasSubstr("\"policy\": \"linux\"")));
}

TEST_F(CompareCommandTest, MechanismsThatCannotBeRunAreRefused) {
  const auto expect = [&](const std::string& arguments,
                          const std::string& text) {
    const Outcome outcome = Compare(arguments);
    EXPECT_EQ(outcome.status, 2) << arguments;
    EXPECT_EQ(outcome.err, "guestmm compare: " + text + "\n") << arguments;
    EXPECT_THAT(outcome.out, IsEmpty()) << arguments;
  };
  expect("--mechanisms=foo", "--mechanisms=foo: must be one of off, reporting");
  expect("--mechanisms=off --policies=v12",
         "--mechanisms=off: must be unset with --policies");
}

TEST_F(CompareCommandTest, ABadRecordingIsNotAUsageError) {
  const auto expect = [&](const std::string& path, const std::string& text) {
    const std::string out = Path("out");
    const Outcome outcome =
        Compare("--policies linux --workloads " + path + " --out " + out);
    EXPECT_EQ(outcome.status, 1) << path;
    EXPECT_THAT(outcome.err, HasSubstr("guestmm compare: " + text)) << path;
    EXPECT_THAT(outcome.out, IsEmpty()) << path;
    EXPECT_FALSE(fs::exists(out)) << path;
  };
  expect("/nonexistent",
         "/nonexistent: must be a trace or a recording's folder");
  fs::create_directory(top_ / "bare");
  const std::string bare = Path("bare");
  expect(bare, bare + ": must have a trace: trace.gmtrace");
  std::ofstream(top_ / "bare" / "trace.txt") << "# tracer: nop\nnonsense\n";
  expect(bare, bare + ", off: the recording must have a memory map (iomem)");
  fs::copy(recording_ + "/iomem", top_ / "bare" / "iomem");
  expect(bare, bare + ", off: " + bare + "/trace.txt:2: ");
}

TEST_F(CompareCommandTest, OptionsThatARecordingHasAreRefused) {
  const auto expect = [&](const std::string& arguments,
                          const std::string& text) {
    const Outcome outcome =
        Compare("--workloads " + recording_ + " " + arguments);
    EXPECT_EQ(outcome.status, 2) << arguments;
    EXPECT_THAT(outcome.err, StartsWith("guestmm compare: " + text))
        << arguments;
    EXPECT_THAT(outcome.out, IsEmpty()) << arguments;
  };
  const std::string unset = ": must be unset without a workload by name";
  expect("--duration 5", "--duration=5" + unset);
  expect("--guest-memory 1GiB", "--guest-memory=1GiB" + unset);
  expect("--vcpus 4", "--vcpus=4" + unset);
  expect("--real", "--workloads=" + recording_ +
                       ": must be a workload by name in real time");
}

}  // namespace
}  // namespace guestmm::compare_command_test
