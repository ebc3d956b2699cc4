#include "guestmm/machine/model/cost_model.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "guestmm/machine/model/calibrate.h"

namespace guestmm::cost_model_test {
namespace {

using testing::HasSubstr;

TEST(CostModelTest, ReadsWhatItWrites) {
  CostModel costs;
  uint64_t value = 1;
  for (const CostField& field : CostFields()) costs.*field.value = value++;
  EXPECT_EQ(*ParseCosts("f", CostsJson(costs)), costs);
}

TEST(CostModelTest, WhatIsNotThereIsTheDefault) {
  const auto costs = ParseCosts("f", R"({"costs_ns": {"exit": 7}})");
  ASSERT_EQ(costs.status(), absl::OkStatus());
  EXPECT_EQ(costs->exit, 7u);
  EXPECT_EQ(costs->kick, CostModel().kick);
}

std::string ErrorOf(std::string_view text) {
  const absl::Status status = ParseCosts("my.json", text).status();
  EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
  return std::string(status.message());
}

TEST(CostModelTest, NamesTheFileAndTheField) {
  EXPECT_EQ(ErrorOf("nonsense"),
            "my.json: allowed is an object with the object \"costs_ns\", as "
            "guestmm calibrate writes it");
  EXPECT_EQ(ErrorOf(R"({"costs_ns": 3})"), ErrorOf("{}"));
  EXPECT_EQ(ErrorOf(R"({"costs_ns": {"exits": 1}})"),
            "my.json: costs_ns: there is no cost \"exits\"");
  for (const char* value : {"-1", "1.5", "\"1\"", "10000000001"}) {
    EXPECT_EQ(ErrorOf("{\"costs_ns\": {\"exit\": " + std::string(value) + "}}"),
              "my.json: costs_ns.exit " + std::string(value) +
                  ": allowed is a whole number of nanoseconds from 0 to "
                  "10000000000");
  }
}

TEST(CostModelTest, AFileThatIsNotThereIsNamed) {
  const absl::Status status = ReadCosts("/no/such/file").status();
  EXPECT_TRUE(absl::IsNotFound(status));
  EXPECT_THAT(std::string(status.message()), HasSubstr("/no/such/file"));
}

TEST(CalibrateTest, MeasuresSomeCostsAndLeavesTheOthers) {
  int told = 0;
  const auto calibration = Calibrate([&](std::string_view) { ++told; });
  ASSERT_EQ(calibration.status(), absl::OkStatus());
  EXPECT_GT(told, 0);
  ASSERT_EQ(calibration->sources.size(), CostFields().size());
  const CostModel defaults;
  for (size_t i = 0; i < CostFields().size(); ++i) {
    const CostField& field = CostFields()[i];
    EXPECT_EQ(calibration->sources[i].name, field.name);
    if (calibration->sources[i].measured) continue;
    EXPECT_EQ(calibration->costs.*field.value, defaults.*field.value)
        << field.name;
  }
  EXPECT_GT(calibration->costs.guest_zero_page, 0u);
  EXPECT_GT(calibration->costs.discard_call, 0u);
}

}  // namespace
}  // namespace guestmm::cost_model_test
