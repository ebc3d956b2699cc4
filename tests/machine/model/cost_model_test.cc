#include "guestmm/machine/model/cost_model.h"

#include <gtest/gtest.h>

#include <string_view>

#include "guestmm/machine/model/calibrate.h"

namespace guestmm::cost_model_test {
namespace {

// Every cost has a field, and none stands twice.
TEST(CostModelTest, NoCostIsMissing) {
  EXPECT_EQ(CostFields().size(), kMemberCount<CostModel>);
  CostModel costs;
  for (const Field<CostModel>& field : CostFields()) {
    field.Set(costs, uint64_t{0});
  }
  for (const Field<CostModel>& field : CostFields()) {
    EXPECT_EQ(field.Get(costs), FieldValue(uint64_t{0})) << field.name();
    field.Set(costs, uint64_t{1});
  }
}

TEST(CalibrateTest, MeasuresSomeCostsAndLeavesTheOthers) {
  int told = 0;
  const auto calibration = Calibrate([&](std::string_view) { ++told; });
  ASSERT_EQ(calibration.status(), absl::OkStatus());
  EXPECT_GT(told, 0);
  ASSERT_EQ(calibration->sources.size(), CostFields().size());
  const CostModel defaults;
  for (size_t i = 0; i < CostFields().size(); ++i) {
    const Field<CostModel>& field = CostFields()[i];
    EXPECT_EQ(calibration->sources[i].name, field.name());
    if (calibration->sources[i].measured) continue;
    EXPECT_EQ(field.Get(calibration->costs), field.Get(defaults))
        << field.name();
  }
  EXPECT_GT(calibration->costs.guest_zero_page, 0u);
  EXPECT_GT(calibration->costs.discard_call, 0u);
}

}  // namespace
}  // namespace guestmm::cost_model_test
