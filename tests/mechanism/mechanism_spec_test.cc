#include "guestmm/mechanism/mechanism_spec.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

namespace guestmm::mechanism_spec_test {
namespace {

using testing::ElementsAre;
using testing::Pair;

std::string ErrorOf(const absl::Status& status) {
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  return std::string(status.message());
}

TEST(MechanismSpecTest, ANameAlone) {
  for (const char* name : {"off", "limit", "real"}) {
    const MechanismSpec spec = ParseMechanism("mechanisms", name).value();
    EXPECT_EQ(spec, MechanismSpec{.name = name});
    EXPECT_EQ(spec.text(), name);
    EXPECT_EQ(spec.policy(), name);
    EXPECT_FALSE(spec.is_reporting());
  }
}

TEST(MechanismSpecTest, ReportingHasAPolicyAndParameters) {
  const MechanismSpec spec =
      ParseMechanism("mechanisms", "reporting:linux:order=5:delay=0.5").value();
  EXPECT_TRUE(spec.is_reporting());
  EXPECT_EQ(spec.choice, "linux");
  EXPECT_THAT(spec.parameters,
              ElementsAre(Pair("order", "5"), Pair("delay", "0.5")));
  EXPECT_EQ(spec.text(), "reporting:linux:order=5:delay=0.5");
  EXPECT_EQ(spec.policy(), "linux");
}

TEST(MechanismSpecTest, AListIsSeparatedByCommas) {
  EXPECT_THAT(ParseMechanisms("mechanisms", "off,reporting:v12").value(),
              ElementsAre(MechanismSpec{.name = "off"},
                          MechanismSpec{.name = "reporting", .choice = "v12"}));
}

TEST(MechanismSpecTest, PoliciesAreReportingsChoices) {
  EXPECT_THAT(ParsePolicies("policies", "off,linux:order=5,linux,real").value(),
              ElementsAre(MechanismSpec{.name = "off"},
                          MechanismSpec{.name = "reporting",
                                        .choice = "linux",
                                        .parameters = {{"order", "5"}}},
                          MechanismSpec{.name = "reporting", .choice = "linux"},
                          MechanismSpec{.name = "real"}));
}

TEST(MechanismSpecTest, APolicysTextIsTheMechanismsWithoutReporting) {
  for (const char* name : {"off", "limit", "real"}) {
    EXPECT_EQ(MechanismText(name), name);
    EXPECT_EQ(PolicyText(name), name);
  }
  EXPECT_EQ(MechanismText("linux:order=5"), "reporting:linux:order=5");
  EXPECT_EQ(PolicyText("reporting:linux:order=5"), "linux:order=5");
}

TEST(MechanismSpecTest, RefusesUnknownNames) {
  EXPECT_EQ(ErrorOf(ParseMechanism("mechanisms", "baloon").status()),
            "--mechanisms=baloon: must be one of off, limit, real, "
            "reporting");
  EXPECT_EQ(ErrorOf(ParseMechanism("mechanisms", "").status()),
            "--mechanisms=\"\": must be one of off, limit, real, "
            "reporting");
}

TEST(MechanismSpecTest, OnlyReportingHasParameters) {
  EXPECT_EQ(ErrorOf(ParseMechanism("mechanisms", "off:order=5").status()),
            "--mechanisms=off:order=5: must be just off, which has no "
            "parameters");
}

TEST(MechanismSpecTest, RefusesWhatTheGrammarDoesNotHave) {
  for (const std::string text : {"reporting", "reporting:", "reporting:order=5",
                                 "reporting:v12:", "reporting:v12:order",
                                 "reporting:v12:=5", "reporting:v12:order="}) {
    EXPECT_EQ(ErrorOf(ParseMechanism("mechanisms", text).status()),
              "--mechanisms=" + text +
                  ": must be written reporting:POLICY[:KEY=VALUE]...");
  }
  for (const std::string text : {"v12:", "v12:order", "order=5", "reporting"}) {
    EXPECT_EQ(ErrorOf(ParsePolicies("policies", text + ",off").status()),
              "--policies=" + text + ": must be written POLICY[:KEY=VALUE]...");
  }
}

TEST(MechanismSpecTest, RefusesAParameterGivenTwice) {
  EXPECT_EQ(
      ErrorOf(ParseMechanism("mechanisms", "reporting:v12:order=5:order=6")
                  .status()),
      "--mechanisms=reporting:v12:order=5:order=6: must set order once");
  EXPECT_EQ(ErrorOf(ParsePolicies("policies", "v12:order=5:order=6").status()),
            "--policies=v12:order=5:order=6: must set order once");
}

TEST(MechanismSpecTest, RefusesAMechanismGivenTwice) {
  EXPECT_EQ(ErrorOf(ParseMechanisms("mechanisms", "off,off").status()),
            "--mechanisms=off: must be given once");
  EXPECT_EQ(ErrorOf(ParsePolicies("policies", "v12,off,v12").status()),
            "--policies=v12: must be given once");
}

TEST(MechanismSpecTest, RefusesAnEmptyList) {
  EXPECT_EQ(ErrorOf(ParseMechanisms("mechanisms", "").status()),
            "--mechanisms=\"\": must be one or more mechanisms, separated by "
            "commas");
  EXPECT_EQ(ErrorOf(ParsePolicies("policies", "").status()),
            "--policies=\"\": must be one or more policies, separated by "
            "commas");
}

}  // namespace
}  // namespace guestmm::mechanism_spec_test
