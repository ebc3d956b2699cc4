#include "guestmm/base/choices.h"

#include <gtest/gtest.h>

#include <optional>
#include <string>
#include <vector>

namespace guestmm::choices_test {
namespace {

const std::vector<std::string> kCommands = {"compare", "density", "info"};

TEST(ChoicesTest, FindsTheChoiceASlipAway) {
  EXPECT_EQ(Closest("densty", kCommands), "density");    // one too few
  EXPECT_EQ(Closest("denssity", kCommands), "density");  // one too many
  EXPECT_EQ(Closest("dendity", kCommands), "density");   // a wrong one
  EXPECT_EQ(Closest("inof", kCommands), "info");         // in another order
  EXPECT_EQ(Closest("comp", kCommands), "compare");      // its beginning
}

TEST(ChoicesTest, FindsNoneThatIsUnlike) {
  EXPECT_EQ(Closest("nope", kCommands), std::nullopt);
  EXPECT_EQ(Closest("of", {"off", "on"}), std::nullopt);
  EXPECT_EQ(Closest("6.2", {"6.1"}), std::nullopt);
  EXPECT_EQ(Closest("", kCommands), std::nullopt);
  EXPECT_EQ(Closest("info", {}), std::nullopt);
}

TEST(ChoicesTest, TheRuleListsThemAndTheClosest) {
  EXPECT_EQ(MustBeOneOf("nope", kCommands),
            "must be one of compare, density, info");
  EXPECT_EQ(MustBeOneOf("densty", kCommands),
            "must be one of compare, density, info; did you mean 'density'?");
}

}  // namespace
}  // namespace guestmm::choices_test
