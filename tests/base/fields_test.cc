#include "guestmm/base/fields.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <cmath>
#include <string>
#include <vector>

namespace guestmm::fields_test {
namespace {

using std::chrono::milliseconds;
using ::testing::ElementsAre;

enum class Color { kRed, kBlue };

struct Options {
  uint64_t count = 3;
  uint64_t bytes = kMiB;
  Nanoseconds delay = milliseconds(500);
  Order order = Order(9);
  double share = 0.25;
  bool on = false;
  Color color = Color::kRed;
  std::string path;
  std::optional<uint64_t> limit;
};

const Fields<Options>& OptionsFields() {
  static const Fields<Options> fields = {
      {"count", &Options::count, FieldKind::Count(1, 64), "A count"},
      {"bytes", &Options::bytes, FieldKind::Bytes(kMiB, kGiB), "A size"},
      {"delay", &Options::delay,
       FieldKind::Seconds(milliseconds(1), std::chrono::hours(1)), "A delay"},
      {"order", &Options::order, FieldKind::Orders(), "An order"},
      {"share", &Options::share, FieldKind::Number(0, 1), "A share"},
      {"on", &Options::on, FieldKind::Switch(), "A switch"},
      {"color", &Options::color, FieldKind::Choice({"red", "blue"}), "A color"},
      {"path", &Options::path, FieldKind::Text(), "A path"},
      {"limit", &Options::limit, FieldKind::Count(5), "A limit"},
  };
  return fields;
}

std::string ErrorOf(std::string_view name, std::string_view text) {
  Options options;
  const absl::Status status = OptionsFields().Set(options, name, text);
  EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
  return std::string(status.message());
}

TEST(FieldsTest, ListsItsNames) {
  EXPECT_THAT(OptionsFields().Names(),
              ElementsAre("count", "bytes", "delay", "order", "share", "on",
                          "color", "path", "limit"));
  EXPECT_EQ(OptionsFields().Find("order")->text(), "An order");
  EXPECT_EQ(OptionsFields().Find("orders"), nullptr);
}

TEST(FieldsTest, SetsAMemberOfEachType) {
  Options options;
  for (const auto& [name, text] :
       std::vector<std::pair<std::string, std::string>>{{"count", "64"},
                                                        {"bytes", "2MiB"},
                                                        {"delay", "0.001"},
                                                        {"order", "10"},
                                                        {"share", "1"},
                                                        {"on", "on"},
                                                        {"color", "blue"},
                                                        {"path", "/a b"},
                                                        {"limit", "5"}}) {
    EXPECT_EQ(OptionsFields().Set(options, name, text), absl::OkStatus());
  }
  EXPECT_EQ(options.count, 64u);
  EXPECT_EQ(options.bytes, 2 * kMiB);
  EXPECT_EQ(options.delay, milliseconds(1));
  EXPECT_EQ(options.order, kMaxOrder);
  EXPECT_EQ(options.share, 1.0);
  EXPECT_TRUE(options.on);
  EXPECT_EQ(options.color, Color::kBlue);
  EXPECT_EQ(options.path, "/a b");
  EXPECT_EQ(options.limit, 5u);
}

TEST(FieldsTest, AValueOutOfBoundsIsRefusedWithItsRule) {
  EXPECT_EQ(ErrorOf("count", "0"), "--count=0: must be 1 to 64");
  EXPECT_EQ(ErrorOf("count", "65"), "--count=65: must be 1 to 64");
  EXPECT_EQ(ErrorOf("limit", "4"), "--limit=4: must be 5 or more");
  EXPECT_EQ(ErrorOf("bytes", "1KiB"),
            "--bytes=1KiB: must be 1.00 MiB to 1.00 GiB");
  EXPECT_EQ(ErrorOf("delay", "0"), "--delay=0: must be 0.001 to 3600 seconds");
  EXPECT_EQ(ErrorOf("order", "11"), "--order=11: must be 0 to 10");
  EXPECT_EQ(ErrorOf("share", "1.5"), "--share=1.5: must be 0 to 1");
  EXPECT_EQ(ErrorOf("share", "nan"), "--share=nan: must be 0 to 1");
  EXPECT_EQ(ErrorOf("color", "green"),
            "--color=green: must be one of red, blue");
  EXPECT_EQ(ErrorOf("on", "yes"), "--on=yes: must be on or off");
}

TEST(FieldsTest, ATextOfAnotherUnitIsRefusedWithItsForm) {
  for (const char* text : {"-1", "1.5", "1x", " 1", "18446744073709551616"}) {
    EXPECT_EQ(ErrorOf("count", text), std::string("--count=") + text +
                                          ": must be a whole number, 1 to 64");
  }
  EXPECT_EQ(ErrorOf("count", ""),
            "--count=\"\": must be a whole number, 1 to 64");
  EXPECT_EQ(ErrorOf("bytes", "3parsecs"),
            "--bytes=3parsecs: must be a size, as in 256MiB, 1.00 MiB to "
            "1.00 GiB");
  EXPECT_EQ(ErrorOf("share", "half"), "--share=half: must be a number, 0 to 1");
  for (const char* text : {"-1", "1e300", "nan", "inf", "1s"}) {
    EXPECT_EQ(ErrorOf("delay", text), std::string("--delay=") + text +
                                          ": must be 0.001 to 3600 seconds");
  }
}

TEST(FieldsTest, AFieldThatIsNotThereIsNotFound) {
  Options options;
  EXPECT_EQ(OptionsFields().Set(options, "size", "1"),
            absl::NotFoundError("no option --size"));
}

TEST(FieldsTest, AnErrorLeavesTheOptionsAlone) {
  Options options;
  EXPECT_FALSE(OptionsFields().Set(options, "count", "65").ok());
  EXPECT_EQ(options.count, 3u);
}

TEST(FieldsTest, ReadsBackWhatItFormats) {
  Options options;
  options.delay = Nanoseconds(1'000'000'001);
  options.share = 1.0 / 3;
  options.color = Color::kBlue;
  options.limit = FieldKind::kMax;
  Options copy;
  for (const Field<Options>& field : OptionsFields()) {
    EXPECT_EQ(field.Parse(copy, field.Format(options)), absl::OkStatus());
    EXPECT_EQ(field.Get(copy), field.Get(options)) << field.name();
  }
  EXPECT_EQ(OptionsFields().Find("delay")->Format(options), "1.000000001");
  EXPECT_EQ(OptionsFields().Find("delay")->Format(Options()), "0.5");
  EXPECT_EQ(OptionsFields().Find("on")->Format(Options()), "off");
}

TEST(FieldsTest, AnUnsetOptionalHasNoValue) {
  const Field<Options>& limit = *OptionsFields().Find("limit");
  EXPECT_EQ(limit.Get(Options()), std::nullopt);
  EXPECT_EQ(limit.Format(Options()), "");
}

TEST(FieldsTest, ChecksEveryFieldOfAStruct) {
  EXPECT_EQ(OptionsFields().Check(Options()), absl::OkStatus());
  Options options;
  options.delay = Nanoseconds(10);
  EXPECT_EQ(
      OptionsFields().Check(options),
      OptionError("delay", "0.00000001", "must be 0.001 to 3600 seconds"));
  options = {};
  options.share = std::nan("");
  EXPECT_EQ(OptionsFields().Check(options),
            OptionError("share", "nan", "must be 0 to 1"));
}

TEST(FieldsDeathTest, AFieldIsOfItsMembersUnit) {
  EXPECT_DEATH((Field<Options>{"order", &Options::order, FieldKind::Count(),
                               "An order"}),
               "field order is not of its member's unit");
  Options options;
  EXPECT_DEATH(OptionsFields().Find("count")->Set(options, uint64_t{65}),
               "count must be 1 to 64");
}

struct Empty {};
struct Three {
  uint64_t a = 0;
  Order b;
  Nanoseconds c{0};
};
static_assert(kMemberCount<Empty> == 0);
static_assert(kMemberCount<Three> == 3);

}  // namespace
}  // namespace guestmm::fields_test
