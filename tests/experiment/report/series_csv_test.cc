#include "src/experiment/report/series_csv.h"

#include <gtest/gtest.h>

#include <string>

namespace guestmm::series_csv_test {
namespace {

constexpr char kHeading[] =
    "workload,policy,mechanism,repeat,seconds,guests,resident_bytes,free_bytes,"
    "isolated_bytes,host_share_of_free\n";

TEST(SeriesCsvTest, WritesWhatItReads) {
  SeriesCsv csv;
  csv.Add({.workload = "/a,\"b\"\n",
           .policy = "linux:order=5",
           .mechanism = "reporting:linux:order=5",
           .repeat = 2,
           .seconds = 1.5,
           .guests = {},
           .resident_bytes = 4096,
           .free_bytes = 8192,
           .isolated_bytes = {},
           .host_share_of_free = 0.25});
  csv.Add({.workload = {},
           .policy = "off",
           .mechanism = "off",
           .repeat = {},
           .seconds = 0,
           .guests = 3,
           .resident_bytes = 0,
           .free_bytes = {},
           .isolated_bytes = 7,
           .host_share_of_free = {}});
  EXPECT_EQ(csv.text(),
            std::string(kHeading) +
                "\"/a,\"\"b\"\"\n\",linux:order=5,reporting:linux:order=5,2,"
                "1.500,,4096,8192,,0.250000\n,off,off,,0.000,3,0,,7,\n");
  const auto samples = ParseSeriesCsv("a.csv", csv.text());
  ASSERT_EQ(samples.status(), absl::OkStatus());
  SeriesCsv again;
  for (const SeriesSample& sample : *samples) again.Add(sample);
  EXPECT_EQ(again.text(), csv.text());
}

TEST(SeriesCsvTest, AnErrorNamesTheLine) {
  const auto expect = [](const std::string& text, const std::string& place) {
    const std::string heading(kHeading);
    EXPECT_EQ(
        ParseSeriesCsv("a.csv", text).status(),
        absl::InvalidArgumentError("a.csv: line " + place + ": must be " +
                                   heading.substr(0, heading.size() - 1)));
  };
  expect("", "1");
  expect("policy\n", "1");
  const std::string good = std::string(kHeading) + ",off,off,,0,,0,,,\n";
  EXPECT_TRUE(ParseSeriesCsv("a.csv", good).ok());
  expect(good + ",off,off,,0,,0,,\n", "3");
  expect(good + ",off,off,,0,,,,,\n", "3");
  expect(good + ",off,off,,0,few,0,,,\n", "3");
  expect(good + "\"a,off,off,,0,,0,,,\n", "3");
  // A quote that does not end, and an eleventh column.
  expect(good + ",off,off,,0,,0,,,\"0.5\n", "3");
  expect(good + ",off,off,,0,,0,,,,\n", "3");
}

}  // namespace
}  // namespace guestmm::series_csv_test
