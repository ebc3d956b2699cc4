#include "guestmm/experiment/report/costs_file.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <string>

namespace guestmm::costs_file_test {
namespace {

TEST(CostsFileTest, ReadsWhatItWrites) {
  CostModel costs;
  uint64_t value = 1;
  for (const Field<CostModel>& field : CostFields()) {
    field.Set(costs, value++);
  }
  EXPECT_EQ(*ParseCosts("f", CostsJson(costs)), costs);
}

TEST(CostsFileTest, AMissingCostIsTheDefault) {
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

TEST(CostsFileTest, AnErrorNamesTheFileAndTheCost) {
  EXPECT_EQ(ErrorOf("nonsense"),
            "my.json: must be an object with the object \"costs_ns\", as "
            "guestmm calibrate writes it");
  EXPECT_EQ(ErrorOf(R"({"costs_ns": 3})"), ErrorOf("{}"));
  const std::string unknown = ErrorOf(R"({"costs_ns": {"exits": 1}})");
  EXPECT_EQ(unknown.substr(0, unknown.find(", ")),
            "my.json: costs_ns.exits: must be one of allocate");
  for (const char* value : {"-1", "1.5", "\"fast\""}) {
    EXPECT_EQ(ErrorOf("{\"costs_ns\": {\"exit\": " + std::string(value) + "}}"),
              "my.json: costs_ns.exit=" + std::string(value) +
                  ": must be a whole number, 0 to 10000000000");
  }
  EXPECT_EQ(ErrorOf(R"({"costs_ns": {"exit": 10000000001}})"),
            "my.json: costs_ns.exit=10000000001: must be 0 to 10000000000");
}

TEST(CostsFileTest, AFileThatCannotBeReadIsNamed) {
  EXPECT_EQ(ReadCosts("/no/such/file").status(),
            absl::NotFoundError(
                "/no/such/file: cannot be read: No such file or directory"));
}

TEST(CostsFileTest, AFileMayHave64KiB) {
  const std::string path = testing::TempDir() + "costs_file_64k";
  std::string text = CostsJson({});
  text.resize(64 * 1024, ' ');
  std::ofstream(path) << text;
  EXPECT_EQ(ReadCosts(path).status(), absl::OkStatus());
  std::ofstream(path) << text << ' ';
  EXPECT_EQ(ReadCosts(path).status(),
            absl::InvalidArgumentError(path + ": must be at most 64.00 KiB"));
  std::ofstream(path).close();
  EXPECT_EQ(ReadCosts(path).status(),
            absl::NotFoundError(path + ": cannot be read"));
  std::filesystem::remove(path);
}

TEST(CostsFileTest, AFileWithoutAnEndIsRefused) {
  EXPECT_EQ(ReadCosts("/dev/zero").status(),
            absl::InvalidArgumentError("/dev/zero: must be at most 64.00 KiB"));
}

}  // namespace
}  // namespace guestmm::costs_file_test
