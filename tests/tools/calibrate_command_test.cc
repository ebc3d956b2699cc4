// guestmm calibrate, by a clock that the tests make. GUESTMM_MADE_CLOCK is the
// path of made_clock.cc, built to be preloaded.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <string>

#include "tests/tools/command_testing.h"

namespace guestmm::calibrate_command_test {
namespace {

using ::testing::AllOf;
using ::testing::ContainsRegex;
using ::testing::HasSubstr;
using ::testing::StartsWith;

class CalibrateCommandTest : public CommandTest {
 protected:
  Outcome Calibrate(const std::string& clock,
                    const std::string& arguments) const {
    return Guestmm(
        "calibrate " + arguments,
        "GUESTMM_MADE_CLOCK=" + clock + " LD_PRELOAD=" GUESTMM_MADE_CLOCK " ");
  }

  const std::string costs_ = Path("costs.json");
};

// A sanitizer's runtime has to be loaded before anything else.
#ifndef GUESTMM_SANITIZED
TEST_F(CalibrateCommandTest, WritesWhatCompareReads) {
  const Outcome outcome = Calibrate("steady", "--out " + costs_);
  EXPECT_EQ(outcome.status, 0);
  EXPECT_EQ(outcome.err,
            "measuring the allocator\nmeasuring 4 KiB pages\nmeasuring huge "
            "pages\n");
  EXPECT_THAT(outcome.out, AllOf(StartsWith("cost "), HasSubstr("\nkick "),
                                 HasSubstr("not measured"),
                                 HasSubstr("\nwritten to " + costs_ +
                                           ", for guestmm compare --costs\n")));
  const std::string compare =
      "compare --policies v12 --workloads burst --guest-memory 64MiB "
      "--duration 1 --rest 1 --csv --costs ";
  const Outcome compared = Guestmm(compare + costs_);
  EXPECT_EQ(compared.status, 0);
  EXPECT_EQ(Guestmm(compare + "- <" + costs_).out, compared.out);
}

TEST_F(CalibrateCommandTest, WritesNothingThatABusyMachineGave) {
  const Outcome refused = Calibrate("unsteady", "--out " + costs_);
  EXPECT_EQ(refused.status, 1);
  EXPECT_THAT(
      refused.err,
      AllOf(ContainsRegex("\nguestmm calibrate: the allocator: the repetitions "
                          "of a measurement differ by [0-9]+ %, and up to "
                          "[4-9] took more than twice the median: other work "
                          "runs on this machine\n"),
            HasSubstr("\nguestmm calibrate: --out=" + costs_ +
                      ": not written, as the costs are not to be trusted; try "
                      "again on an idle machine, or give --force\n")));
  EXPECT_THAT(refused.out, StartsWith("cost "));
  EXPECT_FALSE(std::filesystem::exists(costs_));
}

TEST_F(CalibrateCommandTest, WritesThatTooIfItIsForced) {
  const Outcome forced = Calibrate("unsteady", "--force --out " + costs_);
  EXPECT_EQ(forced.status, 0);
  EXPECT_THAT(forced.err, HasSubstr("other work runs on this machine"));
  EXPECT_TRUE(std::filesystem::exists(costs_));
}
#endif

TEST_F(CalibrateCommandTest, AnOutputThatCannotBeWrittenIsRefusedFirst) {
  const std::string out = "/dev/null/costs.json";
  const Outcome refused = Guestmm("calibrate --out " + out);
  EXPECT_EQ(refused.status, 2);
  EXPECT_EQ(refused.err, "guestmm calibrate: --out=" + out +
                             ": cannot be written: Not a directory\n");
}

}  // namespace
}  // namespace guestmm::calibrate_command_test
