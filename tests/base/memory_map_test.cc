#include "guestmm/base/memory_map.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "guestmm/base/units.h"

namespace guestmm::memory_map_test {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

MemoryRange Range(uint64_t start, uint64_t end, int node = 0) {
  return {.start = ToPfn(Gpa(start)), .end = ToPfn(Gpa(end)), .node = node};
}

TEST(MemoryMapTest, IsEmptyByDefault) {
  const MemoryMap map;
  EXPECT_TRUE(map.empty());
  EXPECT_EQ(map.size(), 0u);
  EXPECT_EQ(map.bytes(), 0u);
  EXPECT_THAT(map.regions(), IsEmpty());
}

TEST(MemoryMapTest, HoldsTheRangesAsGiven) {
  const MemoryMap map = {{Pfn(0), Pfn(512)}, {Pfn(1024), Pfn(1536), 1}};
  EXPECT_THAT(map,
              ElementsAre(Range(0, 2 * kMiB), Range(4 * kMiB, 6 * kMiB, 1)));
  EXPECT_EQ(map.front(), Range(0, 2 * kMiB));
  EXPECT_EQ(map.back(), Range(4 * kMiB, 6 * kMiB, 1));
  EXPECT_EQ(map.size(), 2u);
  EXPECT_EQ(map.bytes(), 4 * kMiB);
  const std::vector<MemoryRange> ranges(map.begin(), map.end());
  EXPECT_EQ(MemoryMap(ranges), map);
}

TEST(MemoryMapTest, RegionsJoinAdjacentRangesOfAllNodes) {
  const MemoryMap map = {
      {Pfn(0), Pfn(16)}, {Pfn(16), Pfn(32), 1}, {Pfn(48), Pfn(64), 1}};
  EXPECT_THAT(map.regions(),
              ElementsAre(GpaRange{Gpa(0), 32 * kPageSize},
                          GpaRange{Gpa(48 * kPageSize), 16 * kPageSize}));
}

TEST(MemoryMapPcTest, LeavesThePciHoleBelow4GiB) {
  EXPECT_THAT(MemoryMap::Pc(kGiB), ElementsAre(Range(0, kGiB)));
  EXPECT_THAT(MemoryMap::Pc(3 * kGiB), ElementsAre(Range(0, 3 * kGiB)));
  EXPECT_THAT(MemoryMap::Pc(5 * kGiB),
              ElementsAre(Range(0, 3 * kGiB), Range(4 * kGiB, 6 * kGiB)));
}

TEST(MemoryMapPcTest, RoundsDownToWholePages) {
  EXPECT_THAT(MemoryMap::Pc(2 * kPageSize - 1),
              ElementsAre(Range(0, kPageSize)));
  EXPECT_THAT(MemoryMap::Pc(kPageSize - 1), IsEmpty());
  EXPECT_THAT(MemoryMap::Pc(3 * kGiB + 1), ElementsAre(Range(0, 3 * kGiB)));
}

TEST(MemoryMapPcTest, NodesShareMemoryEvenly) {
  EXPECT_THAT(MemoryMap::Pc(kGiB, 2),
              ElementsAre(Range(0, kGiB / 2), Range(kGiB / 2, kGiB, 1)));
  // A node's share may lie on both sides of the hole.
  EXPECT_THAT(MemoryMap::Pc(8 * kGiB, 2),
              ElementsAre(Range(0, 3 * kGiB), Range(4 * kGiB, 5 * kGiB),
                          Range(5 * kGiB, 9 * kGiB, 1)));
}

TEST(MemoryMapPcTest, SharesAreWholePageblocksAndTheLastGetsTheRemainder) {
  EXPECT_THAT(MemoryMap::Pc(7 * kMiB, 2),
              ElementsAre(Range(0, 2 * kMiB), Range(2 * kMiB, 7 * kMiB, 1)));
}

TEST(MemoryMapWholePagesTest, CutsRangesToWholePages) {
  const std::vector<GpaRange> ranges = {
      {Gpa(0), kPageSize},
      {Gpa(0x1001), 2 * kPageSize},      // one whole page
      {Gpa(0x5000), 3 * kPageSize - 1},  // two
      {Gpa(0x9001), kPageSize},          // none
  };
  EXPECT_THAT(MemoryMap::WholePages(ranges),
              ElementsAre(Range(0, 0x1000), Range(0x2000, 0x3000),
                          Range(0x5000, 0x7000)));
}

TEST(MemoryMapParseTest, TakesRangesWithExclusiveEnds) {
  EXPECT_THAT(MemoryMap::Parse("0-2G,4G-5G").value(),
              ElementsAre(Range(0, 2 * kGiB), Range(4 * kGiB, 5 * kGiB)));
}

TEST(MemoryMapParseTest, TakesWhatIsFormatted) {
  const MemoryMap map = {{Pfn(0), Pfn(512)}, {Pfn(0x100000), Pfn(0x180000)}};
  EXPECT_EQ(FormatMemoryMap(map.regions()),
            "0-0x200000,0x100000000-0x180000000");
  EXPECT_EQ(MemoryMap::Parse(FormatMemoryMap(map.regions())).value(), map);
}

TEST(MemoryMapParseTest, TakesANodeAfterARange) {
  EXPECT_THAT(MemoryMap::Parse("0-2G,4G-34G@0,34G-64G@1").value(),
              ElementsAre(Range(0, 2 * kGiB), Range(4 * kGiB, 34 * kGiB, 0),
                          Range(34 * kGiB, 64 * kGiB, 1)));
}

TEST(MemoryMapParseTest, TakesEveryNotationForASize) {
  EXPECT_THAT(
      MemoryMap::Parse("0x1000-0x9f000,1MiB-16M,16384K-0x80000000,1T-2TiB")
          .value(),
      ElementsAre(Range(kPageSize, 0x9f * kPageSize), Range(kMiB, 16 * kMiB),
                  Range(16 * kMiB, 2 * kGiB), Range(kTiB, 2 * kTiB)));
}

// `message` follows the whole text.
void ExpectRefused(const std::string& text, const std::string& message) {
  const absl::Status status = MemoryMap::Parse(text).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(status.message(), text + ": " + message);
}

TEST(MemoryMapParseTest, RefusesTextThatIsNotARange) {
  constexpr char kRule[] = "must be START-END or START-END@NODE, as in 4G-5G@1";
  ExpectRefused("", std::string("\"\" at character 1: ") + kRule);
  ExpectRefused("2G", std::string("\"2G\" at character 1: ") + kRule);
  ExpectRefused("0-2G,", std::string("\"\" at character 6: ") + kRule);
  ExpectRefused("0-2G,,4G-5G", std::string("\"\" at character 6: ") + kRule);
  ExpectRefused("0-2G,4G@1", std::string("\"4G@1\" at character 6: ") + kRule);
}

TEST(MemoryMapParseTest, RefusesTextThatIsNotASize) {
  constexpr char kRule[] =
      "must be a number of bytes, decimal or hexadecimal, optionally with K, "
      "M, G or T, as in 4G or 0x100000000";
  ExpectRefused("0-2G,4Q-5G", std::string("\"4Q\" at character 6: ") + kRule);
  ExpectRefused("0-2G,4G-", std::string("\"\" at character 9: ") + kRule);
  ExpectRefused("-2G", std::string("\"\" at character 1: ") + kRule);
  ExpectRefused("0-1G-2G", std::string("\"1G-2G\" at character 3: ") + kRule);
  // 2^64 bytes do not fit.
  ExpectRefused("0-16777216T",
                std::string("\"16777216T\" at character 3: ") + kRule);
}

TEST(MemoryMapParseTest, RefusesPartsOfPages) {
  ExpectRefused("0-2049",
                "\"2049\" at character 3: must be a multiple of the page size, "
                "4096 bytes");
  ExpectRefused("1K-2G",
                "\"1K\" at character 1: must be a multiple of the page size, "
                "4096 bytes");
}

TEST(MemoryMapParseTest, RefusesAnEndThatIsNotAboveTheStart) {
  ExpectRefused("0-2G,4G-4G@1",
                "\"4G-4G\" at character 6: must end above its start");
  ExpectRefused("2G-1G", "\"2G-1G\" at character 1: must end above its start");
}

TEST(MemoryMapParseTest, RefusesRangesThatDoNotAscend) {
  ExpectRefused("0-2G,1G-3G",
                "\"1G-3G\" at character 6: must start at or after 0x80000000, "
                "where the range before ends");
  ExpectRefused("4G-5G,0-2G@1",
                "\"0-2G@1\" at character 7: must start at or after "
                "0x140000000, where the range before ends");
}

TEST(MemoryMapParseTest, RefusesTextThatIsNotANode) {
  constexpr char kRule[] = "must be a node number, 0 or more";
  ExpectRefused("0-2G@", std::string("\"\" at character 6: ") + kRule);
  ExpectRefused("0-2G,4G-5G@one",
                std::string("\"one\" at character 12: ") + kRule);
  ExpectRefused("0-2G@-1", std::string("\"-1\" at character 6: ") + kRule);
  ExpectRefused("0-2G@1@2", std::string("\"1@2\" at character 6: ") + kRule);
}

}  // namespace
}  // namespace guestmm::memory_map_test
