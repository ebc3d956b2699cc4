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

namespace guestmm::policies_test {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Pair;

std::string Message(const absl::Status& status) {
  return std::string(status.message());
}

TEST(PoliciesTest, EachNameMakesThePolicyOfThatName) {
  EXPECT_THAT(PolicyNames(),
              ElementsAre("v12", "v12-hotplug", "linux", "adaptive"));
  for (const std::string& name : PolicyNames()) {
    const auto policy = MakePolicy(name, {});
    ASSERT_EQ(policy.status(), absl::OkStatus()) << name;
    EXPECT_EQ((*policy)->name(), name);
  }
}

// Those that a policy does not have it ignores.
TEST(PoliciesTest, ParametersArePassedOn) {
  using Parameters = std::vector<std::pair<std::string_view, uint64_t>>;
  const Parameters v12 = {{"order", 6}, {"threshold", 5}, {"capacity", 7}};
  const std::map<std::string, Parameters> expected = {
      {"v12", v12},
      {"v12-hotplug", v12},
      {"linux", {{"order", 6}, {"delay_ms", 1500}, {"capacity", 7}}},
      {"adaptive",
       {{"order", 6},
        {"granule", 1},
        {"floor", 2},
        {"delay_ms", 1500},
        {"capacity", 7}}}};
  for (const std::string& name : PolicyNames()) {
    const auto policy = MakePolicy(name, {.order = Order(6),
                                          .threshold = 5,
                                          .capacity = 7,
                                          .delay = milliseconds(1500),
                                          .granule = Order(1),
                                          .floor = Order(2)});
    ASSERT_EQ(policy.status(), absl::OkStatus());
    EXPECT_EQ((*policy)->parameters(), expected.at(name)) << name;
  }
}

// It goes no deeper than the host can take back, and no less deep than what it
// must report.
TEST(PoliciesTest, AdaptivesFloorIsBetweenItsGranuleAndItsOrder) {
  const auto floor = [](const PolicyParameters& parameters) {
    const auto made = *MakePolicy("adaptive", parameters);
    return Order(static_cast<int>(made->parameters()[2].second));
  };
  EXPECT_EQ(floor({}), Order(0));
  EXPECT_EQ(floor({.order = Order(5), .floor = Order(6)}), Order(5));
  EXPECT_EQ(floor({.granule = kPageblockOrder}), kPageblockOrder);
}

TEST(PoliciesTest, AbsentParametersAreThePolicysDefaults) {
  const auto policy = MakePolicy("v12", {.threshold = 5});
  ASSERT_EQ(policy.status(), absl::OkStatus());
  EXPECT_EQ((*policy)->min_order(), kPageblockOrder);
  EXPECT_EQ((*policy)->capacity(), 16u);
}

TEST(PoliciesTest, AnUnknownNameIsAnsweredWithTheKnownOnes) {
  const absl::Status status = MakePolicy("v13", {}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(Message(status),
              HasSubstr("there is no policy \"v13\"; known are: v12, "
                        "v12-hotplug, linux, adaptive"));
}

TEST(PoliciesTest, AParameterOutOfBoundsIsNamedWithTheBounds) {
  struct Case {
    PolicyParameters parameters;
    std::string message;
  };
  for (const Case& wrong : std::vector<Case>{
           {{.order = Order(11)}, "order 11: allowed is 0 to 10"},
           {{.threshold = 0}, "threshold 0: allowed is 1 or more"},
           {{.capacity = 0}, "capacity 0: allowed is 1 to 1024"},
           {{.capacity = 1025}, "capacity 1025: allowed is 1 to 1024"},
           {{.delay = seconds(-1)}, "delay -1 s: allowed is 0 to 3600 s"},
           {{.delay = seconds(3601)}, "delay 3601 s: allowed is 0 to 3600 s"},
           {{.delay = milliseconds(-1)},
            "delay -0.001 s: allowed is 0 to 3600 s"}}) {
    const absl::Status status = MakePolicy("v12", wrong.parameters).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(Message(status), wrong.message);
  }
}

TEST(PoliciesTest, AdaptiveHasBoundsOfItsOwn) {
  EXPECT_EQ(
      MakePolicy("adaptive", {.order = Order(5), .granule = Order(6)}).status(),
      absl::InvalidArgumentError("order 5: allowed for guestmm with a granule "
                                 "of 256.00 KiB is 6 to 10"));
  EXPECT_EQ(MakePolicy("adaptive", {.order = Order(4)}).status(),
            absl::InvalidArgumentError("order 4: allowed for guestmm is 5 to "
                                       "10; what is smaller is for its floor"));
  EXPECT_EQ(MakePolicy("adaptive", {.delay = Nanoseconds(999999)}).status(),
            absl::InvalidArgumentError(
                "delay 0.000999999 s: allowed for guestmm is 0.001 s or more"));
}

TEST(PoliciesTest, ARegisteredPolicyIsKnownByItsName) {
  RegisterPolicy("of-a-test", [](const PolicyParameters& parameters) {
    return MakePolicy("linux", parameters);
  });
  EXPECT_THAT(PolicyNames(), Contains("of-a-test"));
  EXPECT_EQ((*MakePolicy("of-a-test", {}))->name(), "linux");
  EXPECT_DEATH(RegisterPolicy("of-a-test", {}), "there is a policy of-a-test");
}

// A virtqueue chain describes at most 2^32 bytes.
static_assert(kMaxReportCapacity * kMaxOrder.bytes() == 4 * kGiB);

TEST(PoliciesTest, TheBoundsThemselvesAreAllowed) {
  for (const PolicyParameters& parameters :
       {PolicyParameters{.order = Order(0),
       .threshold = 1,
       .capacity = 1,
       .delay = milliseconds(1)},
        PolicyParameters{.order = kMaxOrder,
        .capacity = kMaxReportCapacity,
        .delay = kMaxReportDelay}}) {
    for (const std::string& name : PolicyNames()) {
      if (name == "adaptive") continue;  // has bounds of its own
      EXPECT_EQ(MakePolicy(name, parameters).status(), absl::OkStatus());
    }
  }
}

}  // namespace
}  // namespace guestmm::policies_test
