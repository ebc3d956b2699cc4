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

struct Inner {
  int rounds = 2;
};

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
  std::optional<double> speed;
  double rest_seconds = 60;
  std::optional<Order> granule;
  std::string socket;
  Inner inner;
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
      {"speed", &Options::speed, FieldKind::Number(0.01, 1e6), "A speed",
       "max"},
      {"rest", &Options::rest_seconds,
       FieldKind::Seconds(Nanoseconds(0), std::chrono::hours(1)), "A rest"},
      {"granule", &Options::granule, FieldKind::Granule(), "A granule"},
      {"socket", &Options::socket, FieldKind::Path("a socket"), "A socket"},
      {"rounds", &Options::inner, &Inner::rounds, FieldKind::Count(0, 9),
       "Rounds"},
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
                          "color", "path", "limit", "speed", "rest", "granule",
                          "socket", "rounds"));
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
                                                        {"limit", "5"},
                                                        {"speed", "0.5"},
                                                        {"rest", "0.3"},
                                                        {"granule", "2MiB"},
                                                        {"socket", "/a"},
                                                        {"rounds", "9"}}) {
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
  EXPECT_EQ(options.speed, 0.5);
  EXPECT_EQ(options.rest_seconds, 0.3);
  EXPECT_EQ(options.granule, kPageblockOrder);
  EXPECT_EQ(options.socket, "/a");
  EXPECT_EQ(options.inner.rounds, 9);
}

TEST(FieldsTest, TakesSizesAndTimesAsPeopleWriteThem) {
  Options options;
  EXPECT_EQ(OptionsFields().Set(options, "bytes", "1.5 MiB"), absl::OkStatus());
  EXPECT_EQ(OptionsFields().Set(options, "delay", "250ms"), absl::OkStatus());
  EXPECT_EQ(OptionsFields().Set(options, "rest", "1h"), absl::OkStatus());
  EXPECT_EQ(OptionsFields().Set(options, "granule", "2.00 MiB"),
            absl::OkStatus());
  EXPECT_EQ(options.bytes, kMiB + kMiB / 2);
  EXPECT_EQ(options.delay, milliseconds(250));
  EXPECT_EQ(options.rest_seconds, 3600);
  EXPECT_EQ(options.granule, kPageblockOrder);
  EXPECT_EQ(ErrorOf("rest", "2h"), "--rest=2h: must be 0 to 3600 seconds");
}

TEST(FieldsTest, AWordStandsForAnUnsetOptional) {
  Options options;
  options.speed = 2;
  EXPECT_EQ(OptionsFields().Set(options, "speed", "max"), absl::OkStatus());
  EXPECT_EQ(options.speed, std::nullopt);
  EXPECT_EQ(OptionsFields().Format(options, "speed"), "max");
}

TEST(FieldsTest, AValueOutOfBoundsIsRefusedWithItsRule) {
  EXPECT_EQ(ErrorOf("count", "0"), "--count=0: must be 1 to 64");
  EXPECT_EQ(ErrorOf("count", "65"), "--count=65: must be 1 to 64");
  EXPECT_EQ(ErrorOf("limit", "4"), "--limit=4: must be 5 or more");
  EXPECT_EQ(ErrorOf("bytes", "1KiB"), "--bytes=1KiB: must be 1MiB to 1GiB");
  EXPECT_EQ(ErrorOf("delay", "0"), "--delay=0: must be 0.001 to 3600 seconds");
  EXPECT_EQ(ErrorOf("order", "11"), "--order=11: must be 0 to 10");
  EXPECT_EQ(ErrorOf("share", "1.5"), "--share=1.5: must be 0 to 1");
  EXPECT_EQ(ErrorOf("share", "nan"), "--share=nan: must be 0 to 1");
  EXPECT_EQ(ErrorOf("color", "green"),
            "--color=green: must be one of red, blue");
  EXPECT_EQ(ErrorOf("on", "yes"), "--on=yes: must be on or off");
  EXPECT_EQ(ErrorOf("speed", "0"),
            "--speed=0: must be 0.01 to 1000000, or max");
  EXPECT_EQ(ErrorOf("rest", "3601"), "--rest=3601: must be 0 to 3600 seconds");
  EXPECT_EQ(ErrorOf("granule", "96KiB"),
            "--granule=96KiB: must be a power of 2, 4KiB to 2MiB");
  EXPECT_EQ(ErrorOf("granule", "4MiB"),
            "--granule=4MiB: must be a power of 2, 4KiB to 2MiB");
  EXPECT_EQ(ErrorOf("granule", "2KiB"),
            "--granule=2KiB: must be a power of 2, 4KiB to 2MiB");
  EXPECT_EQ(ErrorOf("socket", ""),
            "--socket=\"\": must be the path of a socket");
}

TEST(FieldsTest, ATextOfAnotherUnitIsRefusedWithItsForm) {
  for (const char* text : {"-1", "1.5", "1x", " 1", "18446744073709551616"}) {
    EXPECT_EQ(ErrorOf("count", text), std::string("--count=") + text +
                                          ": must be a whole number, 1 to 64");
  }
  EXPECT_EQ(ErrorOf("count", ""),
            "--count=\"\": must be a whole number, 1 to 64");
  EXPECT_EQ(ErrorOf("bytes", "3parsecs"),
            "--bytes=3parsecs: must be a size, as in 256MiB, 1MiB to 1GiB");
  EXPECT_EQ(ErrorOf("share", "half"), "--share=half: must be a number, 0 to 1");
  EXPECT_EQ(ErrorOf("speed", "fast"),
            "--speed=fast: must be a number, 0.01 to 1000000, or max");
  for (const char* text : {"-1", "1e300", "nan", "inf", "1d"}) {
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
  options.speed = 1e6 / 7;
  options.rest_seconds = 0.1;
  options.granule = Order(4);
  options.socket = "/a";
  Options copy;
  for (const Field<Options>& field : OptionsFields()) {
    EXPECT_EQ(field.Parse(copy, field.Format(options)), absl::OkStatus());
    EXPECT_EQ(field.Get(copy), field.Get(options)) << field.name();
  }
  EXPECT_EQ(copy.rest_seconds, 0.1);
  EXPECT_EQ(OptionsFields().Format(options, "delay"), "1.000000001");
  EXPECT_EQ(OptionsFields().Format(Options(), "delay"), "0.5");
  EXPECT_EQ(OptionsFields().Format(Options(), "on"), "off");
  EXPECT_EQ(OptionsFields().Format(options, "granule"), "64KiB");
  EXPECT_EQ(OptionsFields().Format(Options(), "rounds"), "2");
}

TEST(FieldsTest, BytesAreWrittenExactlyInTheLargestUnit) {
  const FieldKind bytes = FieldKind::Bytes();
  EXPECT_EQ(bytes.Format(uint64_t{0}), "0");
  EXPECT_EQ(bytes.Format(uint64_t{4097}), "4097");
  EXPECT_EQ(bytes.Format(63 * kMiB), "63MiB");
  EXPECT_EQ(bytes.Format(kGiB + kKiB), "1048577KiB");
  EXPECT_EQ(bytes.Format(64 * kTiB), "64TiB");
}

TEST(FieldsTest, NumbersHaveNoExponentUnlessTheyAreExtreme) {
  const FieldKind number = FieldKind::Number(0, 1e300);
  EXPECT_EQ(number.Format(1e6), "1000000");
  EXPECT_EQ(number.Format(0.00002), "0.00002");
  EXPECT_EQ(number.Format(-0.5), "-0.5");
  EXPECT_EQ(number.Format(1e300), "1e+300");
}

TEST(FieldsTest, AnUnsetOptionalHasNoValue) {
  const Field<Options>& limit = *OptionsFields().Find("limit");
  EXPECT_EQ(limit.Get(Options()), std::nullopt);
  EXPECT_EQ(limit.Format(Options()), "");
  const Field<Options>& socket = *OptionsFields().Find("socket");
  EXPECT_EQ(socket.Get(Options()), std::nullopt);
}

TEST(FieldsTest, AnOptionalOrAPathCanBeUnset) {
  Options options;
  options.limit = 5;
  options.socket = "/a";
  for (const Field<Options>& field : OptionsFields()) {
    if (field.CanBeUnset()) field.Unset(options);
  }
  EXPECT_EQ(options.limit, std::nullopt);
  EXPECT_EQ(options.socket, "");
  EXPECT_FALSE(OptionsFields().Find("count")->CanBeUnset());
  EXPECT_FALSE(OptionsFields().Find("path")->CanBeUnset());
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
  options = {};
  options.granule = Order(10);
  EXPECT_EQ(
      OptionsFields().Check(options),
      OptionError("granule", "4MiB", "must be a power of 2, 4KiB to 2MiB"));
  options = {};
  options.speed = -1;
  EXPECT_EQ(OptionsFields().Check(options),
            OptionError("speed", "-1", "must be 0.01 to 1000000, or max"));
}

TEST(FieldsTest, SecondsBeyondTheirRangeAreOutOfBounds) {
  const auto error_of = [](double seconds) {
    Options options;
    options.rest_seconds = seconds;
    return OptionsFields().Check(options);
  };
  const auto error = [](const char* text) {
    return OptionError("rest", text, "must be 0 to 3600 seconds");
  };
  EXPECT_EQ(error_of(-1.5), error("-1.5"));
  EXPECT_EQ(error_of(1e9), error("1000000000"));
  EXPECT_EQ(error_of(1e300), error("9223372036.854775807"));
  EXPECT_EQ(error_of(-1e300), error("-9223372036.854775808"));
  EXPECT_EQ(error_of(std::nan("")), error("9223372036.854775807"));
}

TEST(FieldsDeathTest, AFieldIsOfItsMembersUnit) {
  EXPECT_DEATH((Field<Options>{"order", &Options::order, FieldKind::Count(),
                               "An order"}),
               "field order is not of its member's unit");
  EXPECT_DEATH((Field<Options>{"count", &Options::count, FieldKind::Count(),
                               "A count", "all"}),
               "field count cannot be \"all\"");
  EXPECT_DEATH(OptionsFields().Format(Options(), "size"), "no field size");
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
static_assert(kMemberCount<Options> == 14);

}  // namespace
}  // namespace guestmm::fields_test
