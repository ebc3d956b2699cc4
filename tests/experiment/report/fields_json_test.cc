#include "src/experiment/report/fields_json.h"

#include <gtest/gtest.h>

#include <chrono>
#include <optional>
#include <string>

namespace guestmm::fields_json_test {
namespace {

enum class Color { kRed, kBlue };

struct Options {
  uint64_t count = 3;
  Nanoseconds delay = std::chrono::milliseconds(500);
  Order order = Order(9);
  double share = 0.25;
  bool on = true;
  Color color = Color::kBlue;
  std::string path = "/a";
  std::optional<uint64_t> limit;
};

const Fields<Options>& OptionsFields() {
  static const Fields<Options> fields = {
      {"count", &Options::count, FieldKind::Count(1, 64), "A count"},
      {"delay", &Options::delay,
       FieldKind::Seconds(Nanoseconds(0), std::chrono::hours(1)), "A delay"},
      {"order", &Options::order, FieldKind::Orders(), "An order"},
      {"share", &Options::share, FieldKind::Number(0, 1), "A share"},
      {"on", &Options::on, FieldKind::Switch(), "A switch"},
      {"color", &Options::color, FieldKind::Choice({"red", "blue"}), "A color"},
      {"path", &Options::path, FieldKind::Text(), "A path"},
      {"limit", &Options::limit, FieldKind::Count(), "A limit"},
  };
  return fields;
}

TEST(FieldsJsonTest, HasEveryFieldByItsName) {
  EXPECT_EQ(FieldsJson(OptionsFields(), Options()).dump(),
            R"({"count":3,"delay":500000000,"order":9,"share":0.25,"on":true,)"
            R"("color":"blue","path":"/a","limit":null})");
}

TEST(FieldsJsonTest, ReadsWhatItWrites) {
  Options options;
  options.count = 64;
  options.delay = Nanoseconds(1);
  options.order = Order(0);
  options.share = 1;
  options.on = false;
  options.color = Color::kRed;
  options.path = "";
  options.limit = 5;
  const auto json = FieldsJson(OptionsFields(), options);
  Options copy;
  ASSERT_EQ(FieldsFromJson(OptionsFields(), "config", json, copy),
            absl::OkStatus());
  EXPECT_EQ(FieldsJson(OptionsFields(), copy), json);
}

TEST(FieldsJsonTest, AnErrorNamesThePlaceAndTheRule) {
  const auto error = [](const char* text) {
    Options options;
    const absl::Status status =
        FieldsFromJson(OptionsFields(), "config",
                       nlohmann::ordered_json::parse(text), options);
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
    return std::string(status.message());
  };
  EXPECT_EQ(error(R"({"count": 65})"), "config.count=65: must be 1 to 64");
  EXPECT_EQ(error(R"({"count": "3"})"), "config.count=\"3\": must be 1 to 64");
  EXPECT_EQ(error(R"({"on": 1})"), "config.on=1: must be on or off");
  EXPECT_EQ(error(R"({"color": "green"})"),
            "config.color=\"green\": must be one of red, blue");
  EXPECT_EQ(error(R"({"share": "x"})"), "config.share=\"x\": must be 0 to 1");
  EXPECT_EQ(error(R"({"path": 1})"), "config.path=1: must be text");
  EXPECT_EQ(error(R"({"size": 1})"),
            "config.size: must be one of count, delay, order, share, on, "
            "color, path, limit");
}

}  // namespace
}  // namespace guestmm::fields_json_test
