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
  uint64_t bytes = kMiB;
  std::optional<Order> granule = kPageblockOrder;
  std::string socket;
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
      {"limit", &Options::limit, FieldKind::Count(), "A limit", "max"},
      {"bytes", &Options::bytes, FieldKind::Bytes(kMiB, kGiB), "A size"},
      {"granule", &Options::granule, FieldKind::Granule(), "A granule"},
      {"socket", &Options::socket, FieldKind::Path("a socket"), "A socket"},
  };
  return fields;
}

TEST(FieldsJsonTest, HasEveryFieldByItsName) {
  EXPECT_EQ(FieldsJson(OptionsFields(), Options()).dump(),
            R"({"count":3,"delay":0.5,"order":9,"share":0.25,"on":true,)"
            R"("color":"blue","path":"/a","limit":null,"bytes":1048576,)"
            R"("granule":"2MiB","socket":null})");
  EXPECT_EQ(FieldJson(OptionsFields(), Options(), "color"), "blue");
  EXPECT_DEATH(FieldJson(OptionsFields(), Options(), "size"), "no field size");
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
  options.bytes = kGiB - 1;
  options.granule = std::nullopt;
  options.socket = "/a";
  const auto json = FieldsJson(OptionsFields(), options);
  Options copy;
  ASSERT_EQ(FieldsFromJson(OptionsFields(), "config", json, copy),
            absl::OkStatus());
  EXPECT_EQ(FieldsJson(OptionsFields(), copy), json);
  EXPECT_EQ(copy.delay, Nanoseconds(1));
  EXPECT_EQ(copy.bytes, kGiB - 1);
  EXPECT_EQ(copy.granule, std::nullopt);
}

TEST(FieldsJsonTest, AStringStandsForItsTextOnTheCommandLine) {
  Options options;
  options.limit = 5;
  options.socket = "/a";
  ASSERT_EQ(
      FieldsFromJson(OptionsFields(), "config",
                     nlohmann::ordered_json::parse(
                         R"({"count": "64", "delay": "0.25", "on": "off",)"
                         R"("bytes": "256MiB", "granule": "4KiB",)"
                         R"("limit": "max", "socket": null})"),
                     options),
      absl::OkStatus());
  EXPECT_EQ(options.count, 64u);
  EXPECT_EQ(options.delay, std::chrono::milliseconds(250));
  EXPECT_FALSE(options.on);
  EXPECT_EQ(options.bytes, 256 * kMiB);
  EXPECT_EQ(options.granule, Order(0));
  EXPECT_EQ(options.limit, std::nullopt);
  EXPECT_EQ(options.socket, "");
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
  EXPECT_EQ(error(R"({"count": 1.5})"),
            "config.count=1.5: must be a whole number, 1 to 64");
  EXPECT_EQ(error(R"({"count": null})"), "config.count=null: must be 1 to 64");
  EXPECT_EQ(error(R"({"count": [1]})"), "config.count=[1]: must be 1 to 64");
  EXPECT_EQ(error(R"({"delay": 3601})"),
            "config.delay=3601: must be 0 to 3600 seconds");
  EXPECT_EQ(error(R"({"limit": true})"),
            "config.limit=true: must be 0 or more, or max");
  EXPECT_EQ(error(R"({"bytes": "1KiB"})"),
            "config.bytes=\"1KiB\": must be 1MiB to 1GiB");
  EXPECT_EQ(error(R"({"granule": 9})"),
            "config.granule=9: must be a power of 2, 4KiB to 2MiB");
  EXPECT_EQ(error(R"({"socket": ""})"),
            "config.socket=\"\": must be the path of a socket");
  EXPECT_EQ(error(R"({"on": 1})"), "config.on=1: must be on or off");
  EXPECT_EQ(error(R"({"color": "green"})"),
            "config.color=\"green\": must be one of red, blue");
  EXPECT_EQ(error(R"({"share": "x"})"),
            "config.share=\"x\": must be a number, 0 to 1");
  EXPECT_EQ(error(R"({"path": 1})"), "config.path=1: must be text");
  EXPECT_EQ(error(R"({"size": 1})"),
            "config.size: must be one of count, delay, order, share, on, "
            "color, path, limit, bytes, granule, socket");
}

}  // namespace
}  // namespace guestmm::fields_json_test
