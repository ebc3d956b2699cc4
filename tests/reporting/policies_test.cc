#include "guestmm/reporting/policies.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "guestmm/reporting/adaptive_policy.h"
#include "guestmm/reporting/linux_policy.h"
#include "guestmm/reporting/v12_policy.h"

namespace guestmm::policies_test {
namespace {

using std::chrono::milliseconds;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::IsEmpty;

using Parameters = std::vector<std::pair<std::string_view, uint64_t>>;

const PolicyContext kSmallPages(Order(0));

absl::StatusOr<std::unique_ptr<ReportingPolicy>> Make(
    std::string_view text, const PolicyDefaults& defaults = {},
    const PolicyContext& context = kSmallPages) {
  const absl::StatusOr<PolicySpec> spec = ParsePolicy(text, defaults);
  if (!spec.ok()) return spec.status();
  return MakePolicy(*spec, context);
}

Parameters ParametersOf(std::string_view text,
                        const PolicyDefaults& defaults = {},
                        const PolicyContext& context = kSmallPages) {
  const auto policy = Make(text, defaults, context);
  EXPECT_EQ(policy.status(), absl::OkStatus()) << text;
  return policy.ok() ? (*policy)->parameters() : Parameters();
}

std::string ErrorOf(std::string_view text, const PolicyDefaults& defaults = {},
                    const PolicyContext& context = kSmallPages) {
  const absl::Status status = Make(text, defaults, context).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << text;
  return std::string(status.message());
}

TEST(PoliciesTest, EachNameMakesThePolicyOfThatName) {
  EXPECT_THAT(PolicyNames(),
              ElementsAre("v12", "v12-hotplug", "linux", "adaptive"));
  for (const std::string& name : PolicyNames()) {
    const auto policy = MakePolicy({.name = name}, kSmallPages);
    ASSERT_EQ(policy.status(), absl::OkStatus()) << name;
    EXPECT_EQ((*policy)->name(), name);
  }
}

TEST(PoliciesTest, ATextIsANameAndParameters) {
  const auto spec = ParsePolicy("linux:order=5:delay=0.5");
  ASSERT_EQ(spec.status(), absl::OkStatus());
  EXPECT_EQ(spec->name, "linux");
  EXPECT_THAT(spec->parameters, ElementsAre(PolicyParameter{"order", "5"},
                                            PolicyParameter{"delay", "0.5"}));
  EXPECT_EQ(spec->Text(), "linux:order=5:delay=0.5");
  EXPECT_THAT(ParsePolicy("linux")->parameters, IsEmpty());
  EXPECT_EQ(ParsePolicy("linux", {{"order", "5"}})->Text(), "linux");
}

TEST(PoliciesTest, AMalformedTextIsRefused) {
  for (const std::string text :
       {"linux:", "linux:order", "linux:order=5:", "linux:order=", "linux:=5",
        ":order=5", "order=5"}) {
    EXPECT_EQ(ErrorOf(text),
              "--policies=" + text + ": must be written POLICY[:KEY=VALUE]...");
  }
  EXPECT_EQ(ErrorOf(""),
            "--policies=\"\": must be written POLICY[:KEY=VALUE]...");
  EXPECT_EQ(ErrorOf("linux:order=5:order=6"),
            "--policies=linux:order=5:order=6: must set order once");
}

TEST(PoliciesTest, AMalformedTextIsRefusedInTheOptionThatItIsOf) {
  const auto error_of = [](std::string_view text) {
    return std::string(
        ParsePolicy(text, {}, "mechanisms", "reporting:").status().message());
  };
  EXPECT_EQ(error_of("linux"),
            "--mechanisms=linux: must be written "
            "reporting:POLICY[:KEY=VALUE]...");
  EXPECT_EQ(error_of("reporting:linux:order"),
            "--mechanisms=reporting:linux:order: must be written "
            "reporting:POLICY[:KEY=VALUE]...");
  EXPECT_EQ(error_of("reporting:linux:order=5:order=6"),
            "--mechanisms=reporting:linux:order=5:order=6: must set order "
            "once");
}

TEST(PoliciesTest, UnsetParametersAreThePolicysDefaults) {
  EXPECT_EQ(ParametersOf("v12"),
            (Parameters{{"order", 9}, {"threshold", 16}, {"capacity", 16}}));
  EXPECT_EQ(ParametersOf("linux"),
            (Parameters{{"order", 9}, {"delay_ms", 2000}, {"capacity", 32}}));
  EXPECT_EQ(ParametersOf("adaptive"), (Parameters{{"order", 9},
                                                  {"granule", 0},
                                                  {"floor", 0},
                                                  {"delay_ms", 200},
                                                  {"capacity", 32}}));
}

TEST(PoliciesTest, SetsEveryParameter) {
  const Parameters v12 = {{"order", 6}, {"threshold", 5}, {"capacity", 7}};
  EXPECT_EQ(ParametersOf("v12:order=6:threshold=5:capacity=7"), v12);
  EXPECT_EQ(ParametersOf("v12-hotplug:capacity=7:threshold=5:order=6"), v12);
  EXPECT_EQ(ParametersOf("linux:order=6:delay=1.5:capacity=7"),
            (Parameters{{"order", 6}, {"delay_ms", 1500}, {"capacity", 7}}));
  EXPECT_EQ(ParametersOf("adaptive:order=6:floor=2:delay=1.5:capacity=7", {},
                         PolicyContext(Order(1))),
            (Parameters{{"order", 6},
                        {"granule", 1},
                        {"floor", 2},
                        {"delay_ms", 1500},
                        {"capacity", 7}}));
}

TEST(PoliciesTest, ADefaultIsForThePoliciesThatHaveIt) {
  const PolicyDefaults defaults = {{"order", "6"}, {"threshold", "5"}};
  EXPECT_EQ(ParametersOf("v12", defaults),
            (Parameters{{"order", 6}, {"threshold", 5}, {"capacity", 16}}));
  EXPECT_EQ(ParametersOf("linux", defaults),
            (Parameters{{"order", 6}, {"delay_ms", 2000}, {"capacity", 32}}));
}

TEST(PoliciesTest, ThePolicysOwnTextWinsOverADefault) {
  EXPECT_EQ(ParametersOf("linux:order=5", {{"order", "99"}}),
            (Parameters{{"order", 5}, {"delay_ms", 2000}, {"capacity", 32}}));
}

// By default the host's granules are not split unless the order says so, and
// blocks of the order or more are reported anyway.
TEST(PoliciesTest, AdaptivesFloorIsTheGranuleUpToItsOrder) {
  const auto floor = [](std::string_view text, Order granule) {
    const Parameters parameters =
        ParametersOf(text, {}, PolicyContext(granule));
    return parameters.at(2).second;
  };
  EXPECT_EQ(floor("adaptive", Order(0)), 0u);
  EXPECT_EQ(floor("adaptive:order=5:floor=6", Order(0)), 5u);
  EXPECT_EQ(floor("adaptive", kPageblockOrder), 9u);
  EXPECT_EQ(floor("adaptive:order=5", kPageblockOrder), 5u);
  EXPECT_EQ(floor("adaptive:floor=3", kPageblockOrder), 3u);
}

TEST(PoliciesTest, AnUnknownPolicyIsAnsweredWithTheKnownOnes) {
  EXPECT_EQ(ErrorOf("v13"),
            "--policies=v13: must be one of v12, v12-hotplug, linux, adaptive");
}

TEST(PoliciesTest, AnUnknownParameterIsAnsweredWithTheKnownOnes) {
  EXPECT_EQ(ErrorOf("linux:foo=3"),
            "--policies=linux:foo=3: foo must be one of order, capacity, "
            "delay");
  EXPECT_EQ(ErrorOf("v12:delay=3"),
            "--policies=v12:delay=3: delay must be one of order, threshold, "
            "capacity");
  EXPECT_EQ(ErrorOf("adaptive:granule=0"),
            "--policies=adaptive:granule=0: granule must be one of order, "
            "floor, capacity, delay, reports");
}

TEST(PoliciesTest, AnErrorNamesTheOptionThatTheSpecIsOf) {
  EXPECT_EQ(MakePolicy({.name = "linux",
                        .parameters = {{"foo", "3"}},
                        .option = "mechanisms",
                        .prefix = "reporting:"},
                       kSmallPages)
                .status(),
            absl::InvalidArgumentError(
                "--mechanisms=reporting:linux:foo=3: foo must be one of order, "
                "capacity, delay"));
}

TEST(PoliciesTest, AnUnknownPolicyOfAMechanismIsNamedSo) {
  EXPECT_EQ(MakePolicy(
                {.name = "v13", .option = "mechanisms", .prefix = "reporting:"},
                kSmallPages)
                .status(),
            absl::InvalidArgumentError(
                "--mechanisms=reporting:v13: the policy must be one of v12, "
                "v12-hotplug, linux, adaptive"));
}

TEST(PoliciesTest, AValueOutOfBoundsIsRefusedWithItsRule) {
  for (const auto& [text, rule] : std::map<std::string, std::string>{
           {"v12:order=11", "order must be 0 to 10"},
           {"v12:order=-1", "order must be a whole number, 0 to 10"},
           {"v12:threshold=0", "threshold must be 1 or more"},
           {"v12:capacity=0", "capacity must be 1 to 1024"},
           {"linux:capacity=1025", "capacity must be 1 to 1024"},
           {"linux:delay=-1", "delay must be 0 to 3600 seconds"},
           {"linux:delay=3601", "delay must be 0 to 3600 seconds"},
           {"adaptive:order=4", "order must be 5 to 10"},
           {"adaptive:reports=0", "reports must be 1 to 16"},
           {"adaptive:reports=17", "reports must be 1 to 16"},
           {"adaptive:delay=0.0009", "delay must be 0.001 to 3600 seconds"}}) {
    EXPECT_EQ(ErrorOf(text), "--policies=" + text + ": " + rule);
  }
}

TEST(PoliciesTest, ADefaultOutOfBoundsIsNamedAsAFlag) {
  EXPECT_EQ(ErrorOf("linux", {{"order", "11"}}),
            "--order=11: must be 0 to 10 for linux");
}

TEST(PoliciesTest, TheBoundsThemselvesAreValid) {
  for (const std::string text :
       {"v12:order=0:threshold=1:capacity=1", "v12:order=10:capacity=1024",
        "linux:order=0:capacity=1:delay=0",
        "linux:order=10:capacity=1024:delay=3600",
        "adaptive:order=5:floor=0:delay=0.001:capacity=1",
        "adaptive:order=10:floor=10:delay=3600:capacity=1024",
        "adaptive:reports=1", "adaptive:reports=16"}) {
    EXPECT_EQ(Make(text).status(), absl::OkStatus()) << text;
  }
}

struct CustomOptions {
  uint64_t size = 1;
};
const Fields<CustomOptions>& CustomFields() {
  static const Fields<CustomOptions> fields = {
      {"size", &CustomOptions::size, FieldKind::Count(1, 8), "A size"}};
  return fields;
}

TEST(PoliciesTest, ARegisteredPolicyIsKnownByItsNameAndParameters) {
  PolicyRegistry registry;
  uint64_t size = 0;
  Order granule;
  registry.Register(
      "custom", CustomFields(),
      [&](const CustomOptions& options, const PolicyContext& context) {
        size = options.size;
        granule = context.granule;
        return std::make_unique<LinuxPolicy>(LinuxOptions{});
      });
  registry.Register("plain", [](auto&) {
    return std::make_unique<LinuxPolicy>(LinuxOptions{});
  });
  EXPECT_THAT(registry.Names(), Contains("custom"));
  EXPECT_THAT(registry.ParametersOf("custom"), ElementsAre("size"));
  EXPECT_THAT(registry.ParametersOf("plain"), IsEmpty());
  EXPECT_THAT(registry.ParametersOf("none"), IsEmpty());
  EXPECT_EQ(
      registry.Make(*ParsePolicy("custom:size=3"), PolicyContext(Order(2)))
          .status(),
      absl::OkStatus());
  EXPECT_EQ(size, 3u);
  EXPECT_EQ(granule, Order(2));
  EXPECT_EQ(registry.Make({.name = "plain"}, kSmallPages).status(),
            absl::OkStatus());
  EXPECT_EQ(registry.Make(*ParsePolicy("plain:size=3"), kSmallPages).status(),
            absl::InvalidArgumentError("--policies=plain:size=3: must be "
                                       "plain, which has no parameters"));
  EXPECT_EQ(registry.Make(*ParsePolicy("custom:size=9"), kSmallPages).status(),
            absl::InvalidArgumentError(
                "--policies=custom:size=9: size must be 1 to 8"));
  EXPECT_DEATH(
      registry.Register(
          "linux",
          [](auto&) { return std::make_unique<V12Policy>(V12Options{}); }),
      "there is a policy linux already");
}

TEST(PoliciesTest, RegisterPolicyMakesItKnownToAll) {
  RegisterPolicy("of-a-test", [](auto&) {
    return std::make_unique<LinuxPolicy>(LinuxOptions{});
  });
  EXPECT_THAT(PolicyNames(), Contains("of-a-test"));
  EXPECT_EQ((*Make("of-a-test"))->name(), "linux");
}

// A virtqueue chain describes at most 2^32 bytes.
static_assert(kMaxReportCapacity * kMaxOrder.bytes() == 4 * kGiB);

// Every option has a field, except v12's `hotplug`, which follows from the
// policy's name, and adaptive's `granule`, which is the host's.
TEST(PolicyFieldsTest, NoOptionIsMissing) {
  EXPECT_EQ(LinuxFields().size(), kMemberCount<LinuxOptions>);
  EXPECT_EQ(V12Fields().size() + 1, kMemberCount<V12Options>);
  EXPECT_EQ(AdaptiveFields().size() + 1, kMemberCount<AdaptiveOptions>);
}

TEST(PolicyFieldsDeathTest, OptionsOutOfBoundsAreRefusedByThePolicy) {
  EXPECT_DEATH(LinuxPolicy(LinuxOptions{.capacity = 0}),
               "--capacity=0: must be 1 to 1024");
  EXPECT_DEATH(V12Policy(V12Options{.threshold = 0}),
               "--threshold=0: must be 1 or more");
}

}  // namespace
}  // namespace guestmm::policies_test
