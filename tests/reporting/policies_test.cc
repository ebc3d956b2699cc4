#include "guestmm/reporting/policies.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace guestmm {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Pair;

std::string Message(const absl::Status& status) {
  return std::string(status.message());
}

TEST(PoliciesTest, EachNameMakesThePolicyOfThatName) {
  EXPECT_THAT(PolicyNames(), ElementsAre("v12", "v12-hotplug", "linux"));
  for (const std::string_view name : PolicyNames()) {
    const auto policy = MakePolicy(name, {});
    ASSERT_EQ(policy.status(), absl::OkStatus()) << name;
    EXPECT_EQ((*policy)->name(), name);
  }
}

TEST(PoliciesTest, ParametersArePassedOn) {
  for (const std::string_view name : PolicyNames()) {
    const auto policy = MakePolicy(name, {.order = Order(3),
                                          .threshold = 5,
                                          .capacity = 7,
                                          .delay = milliseconds(1500)});
    ASSERT_EQ(policy.status(), absl::OkStatus());
    EXPECT_EQ((*policy)->min_order(), Order(3));
    EXPECT_EQ((*policy)->capacity(), 7u);
    // Those that a policy does not have it ignores.
    EXPECT_EQ((*policy)->delay(),
              name == "linux" ? milliseconds(1500) : milliseconds(0));
    EXPECT_THAT((*policy)->parameters(),
                name == "linux"
                    ? ElementsAre(Pair("order", 3), Pair("delay_ms", 1500),
                                  Pair("capacity", 7))
                    : ElementsAre(Pair("order", 3), Pair("threshold", 5),
                                  Pair("capacity", 7)));
  }
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
                        "v12-hotplug, linux"));
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

// A virtqueue chain describes at most 2^32 bytes.
static_assert(kMaxReportCapacity * kMaxOrder.bytes() == 4 * kGiB);

TEST(PoliciesTest, TheBoundsThemselvesAreAllowed) {
  for (const PolicyParameters& parameters :
       {PolicyParameters{.order = Order(0),
       .threshold = 1,
       .capacity = 1,
       .delay = seconds(0)},
        PolicyParameters{.order = kMaxOrder,
        .capacity = kMaxReportCapacity,
        .delay = kMaxReportDelay}}) {
    for (const std::string_view name : PolicyNames()) {
      EXPECT_EQ(MakePolicy(name, parameters).status(), absl::OkStatus());
    }
  }
}

}  // namespace
}  // namespace guestmm
