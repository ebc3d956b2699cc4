#include "guestmm/mechanism/mechanism_spec.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <string>
#include <vector>

namespace guestmm::mechanism_spec_test {
namespace {

using testing::ElementsAre;

constexpr auto kMechanisms = MechanismOption::kMechanisms;
constexpr auto kPolicies = MechanismOption::kPolicies;
using Texts = std::vector<std::string>;

std::string ErrorOf(const absl::Status& status) {
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  return std::string(status.message());
}

TEST(MechanismSpecTest, ANameAlone) {
  for (const char* name : {"off", "limit", "real"}) {
    const MechanismSpec spec = ParseMechanism(kMechanisms, name).value();
    EXPECT_EQ(spec, MechanismSpec{.name = name});
    EXPECT_EQ(spec.text(), name);
    EXPECT_EQ(spec.policy(), name);
    EXPECT_FALSE(spec.is_reporting());
  }
}

TEST(MechanismSpecTest, ReportingHasAPolicyAndParameters) {
  const MechanismSpec spec =
      ParseMechanism(kMechanisms, "reporting:linux:order=5:delay=0.5").value();
  EXPECT_TRUE(spec.is_reporting());
  EXPECT_EQ(spec.choice, "linux");
  EXPECT_THAT(spec.parameters, ElementsAre(PolicyParameter{"order", "5"},
                                           PolicyParameter{"delay", "0.5"}));
  EXPECT_EQ(spec.text(), "reporting:linux:order=5:delay=0.5");
  EXPECT_EQ(spec.text(kPolicies), "linux:order=5:delay=0.5");
  EXPECT_EQ(spec.policy(), "linux");
}

TEST(MechanismSpecTest, AListIsOfOneOption) {
  const MechanismList list =
      ParseMechanisms(kMechanisms, Texts{"off", "reporting:v12:order=5"})
          .value();
  EXPECT_EQ(list.option, kMechanisms);
  EXPECT_THAT(list.specs,
              ElementsAre(MechanismSpec{.name = "off"},
                          MechanismSpec{.name = "reporting",
                                        .choice = "v12",
                                        .parameters = {{"order", "5"}}}));
  EXPECT_THAT(list.policies(), ElementsAre("off", "v12:order=5"));
}

TEST(MechanismSpecTest, PoliciesAreReportingsChoices) {
  const MechanismList list =
      ParseMechanisms(kPolicies, Texts{"off", "linux:order=5", "linux", "real"})
          .value();
  EXPECT_EQ(list.option, kPolicies);
  EXPECT_THAT(list.specs,
              ElementsAre(MechanismSpec{.name = "off"},
                          MechanismSpec{.name = "reporting",
                                        .choice = "linux",
                                        .parameters = {{"order", "5"}}},
                          MechanismSpec{.name = "reporting", .choice = "linux"},
                          MechanismSpec{.name = "real"}));
  EXPECT_THAT(list.policies(),
              ElementsAre("off", "linux:order=5", "linux", "real"));
}

TEST(MechanismSpecTest, EitherOptionMayBeGiven) {
  EXPECT_EQ(ParseMechanisms(Texts{"v12"}, Texts{})->option, kPolicies);
  const MechanismList list =
      ParseMechanisms(Texts{}, Texts{"reporting:v12"}).value();
  EXPECT_EQ(list.option, kMechanisms);
  EXPECT_THAT(list.policies(), ElementsAre("v12"));
  EXPECT_EQ(ErrorOf(ParseMechanisms(Texts{"v12"}, Texts{"off", "reporting:v12"})
                        .status()),
            "--mechanisms=off,reporting:v12: must be unset with --policies");
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
  EXPECT_EQ(ErrorOf(ParseMechanism(kMechanisms, "baloon").status()),
            "--mechanisms=baloon: must be one of off, limit, real, "
            "reporting");
  EXPECT_EQ(ErrorOf(ParseMechanism(kMechanisms, "").status()),
            "--mechanisms=\"\": must be one of off, limit, real, "
            "reporting");
  EXPECT_EQ(ErrorOf(ParseMechanism(kMechanisms, "reportin:linux").status()),
            "--mechanisms=reportin:linux: must be one of off, limit, real, "
            "reporting; did you mean 'reporting'?");
}

TEST(MechanismSpecTest, AnUnknownNamesErrorListsWhatTheCallerTakes) {
  constexpr std::array kNames = {kMechanismOff, kMechanismReporting};
  EXPECT_EQ(ErrorOf(ParseMechanism(kMechanisms, "baloon", kNames).status()),
            "--mechanisms=baloon: must be one of off, reporting");
  EXPECT_EQ(
      ErrorOf(
          ParseMechanisms(Texts{}, Texts{"off", "baloon"}, kNames).status()),
      "--mechanisms=baloon: must be one of off, reporting");
  // For CheckMechanisms to refuse.
  EXPECT_TRUE(ParseMechanism(kMechanisms, "limit", kNames).ok());
}

TEST(MechanismSpecTest, OnlyReportingHasParameters) {
  EXPECT_EQ(ErrorOf(ParseMechanism(kMechanisms, "off:order=5").status()),
            "--mechanisms=off:order=5: must be just off, which has no "
            "parameters");
}

TEST(MechanismSpecTest, RefusesWhatTheGrammarDoesNotHave) {
  for (const std::string text : {"reporting", "reporting:", "reporting:order=5",
                                 "reporting:v12:", "reporting:v12:order",
                                 "reporting:v12:=5", "reporting:v12:order="}) {
    EXPECT_EQ(ErrorOf(ParseMechanism(kMechanisms, text).status()),
              "--mechanisms=" + text +
                  ": must be written reporting:POLICY[:KEY=VALUE]...");
  }
  for (const std::string text :
       {"v12:", "v12:order", "order=5", "reporting:v12"}) {
    EXPECT_EQ(ErrorOf(ParseMechanisms(kPolicies, Texts{text, "off"}).status()),
              "--policies=" + text + ": must be written POLICY[:KEY=VALUE]...");
  }
}

TEST(MechanismSpecTest, RefusesAParameterGivenTwice) {
  EXPECT_EQ(ErrorOf(ParseMechanism(kMechanisms, "reporting:v12:order=5:order=6")
                        .status()),
            "--mechanisms=reporting:v12:order=5:order=6: must set order once");
  EXPECT_EQ(ErrorOf(ParseMechanism(kPolicies, "v12:order=5:order=6").status()),
            "--policies=v12:order=5:order=6: must set order once");
}

TEST(MechanismSpecTest, RefusesAMechanismGivenTwice) {
  EXPECT_EQ(ErrorOf(ParseMechanisms(kMechanisms, Texts{"off", "off"}).status()),
            "--mechanisms=off: must be given once");
  EXPECT_EQ(
      ErrorOf(ParseMechanisms(kPolicies, Texts{"v12", "off", "v12"}).status()),
      "--policies=v12: must be given once");
}

TEST(MechanismSpecTest, RefusesAnEmptyList) {
  for (const Texts& none : {Texts{}, Texts{""}}) {
    EXPECT_EQ(ErrorOf(ParseMechanisms(kMechanisms, none).status()),
              "--mechanisms=\"\": must be one or more mechanisms, separated by "
              "commas");
    EXPECT_EQ(ErrorOf(ParseMechanisms(kPolicies, none).status()),
              "--policies=\"\": must be one or more policies, separated by "
              "commas");
  }
}

}  // namespace
}  // namespace guestmm::mechanism_spec_test
