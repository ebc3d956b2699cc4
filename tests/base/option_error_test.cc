#include "guestmm/base/option_error.h"

#include <gtest/gtest.h>

namespace guestmm::option_error_test {
namespace {

TEST(OptionErrorTest, NamesTheOptionItsValueAndTheRule) {
  EXPECT_EQ(OptionError("vcpus", "0", "must be 1 to 64"),
            absl::InvalidArgumentError("--vcpus=0: must be 1 to 64"));
}

TEST(OptionErrorTest, AnEmptyValueIsVisible) {
  EXPECT_EQ(OptionError("seed", "", "must be a number"),
            absl::InvalidArgumentError("--seed=\"\": must be a number"));
}

}  // namespace
}  // namespace guestmm::option_error_test
