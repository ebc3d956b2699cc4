#include "guestmm/base/memory_map.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "guestmm/base/units.h"

namespace guestmm::memory_map_test {
namespace {

using ::testing::ElementsAre;

MemoryRange Range(uint64_t start, uint64_t end, int node = 0) {
  return {.start = ToPfn(Gpa(start)), .end = ToPfn(Gpa(end)), .node = node};
}

TEST(MemoryMapTest, TakesRangesOfBytesWithoutTheirEnds) {
  EXPECT_THAT(ParseMemoryMap("0-2G,4G-5G").value(),
              ElementsAre(Range(0, 2 * kGiB), Range(4 * kGiB, 5 * kGiB)));
}

TEST(MemoryMapTest, TakesANodeAfterARange) {
  EXPECT_THAT(ParseMemoryMap("0-2G,4G-34G@0,34G-64G@1").value(),
              ElementsAre(Range(0, 2 * kGiB), Range(4 * kGiB, 34 * kGiB, 0),
                          Range(34 * kGiB, 64 * kGiB, 1)));
}

TEST(MemoryMapTest, TakesEveryWayToWriteASize) {
  EXPECT_THAT(
      ParseMemoryMap("0x1000-0x9f000,1MiB-16M,16384K-0x80000000,1T-2TiB")
          .value(),
      ElementsAre(Range(kPageSize, 0x9f * kPageSize), Range(kMiB, 16 * kMiB),
                  Range(16 * kMiB, 2 * kGiB), Range(kTiB, 2 * kTiB)));
}

// The whole value, the part at fault and where it is, what is allowed.
void ExpectRefused(std::string_view text, const std::string& message) {
  const absl::Status status = ParseMemoryMap(text).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(std::string(status.message()), message);
}

TEST(MemoryMapTest, RefusesWhatIsNoRange) {
  constexpr char kAllowed[] =
      "allowed is START-END or START-END@NODE, as in 4G-5G@1";
  ExpectRefused("", std::string(": \"\" at character 1: ") + kAllowed);
  ExpectRefused("2G", std::string("2G: \"2G\" at character 1: ") + kAllowed);
  ExpectRefused("0-2G,",
                std::string("0-2G,: \"\" at character 6: ") + kAllowed);
  ExpectRefused("0-2G,,4G-5G",
                std::string("0-2G,,4G-5G: \"\" at character 6: ") + kAllowed);
  ExpectRefused("0-2G,4G@1",
                std::string("0-2G,4G@1: \"4G@1\" at character 6: ") + kAllowed);
}

TEST(MemoryMapTest, RefusesWhatIsNoSize) {
  constexpr char kAllowed[] =
      "allowed is a number of bytes, K, M, G or T, decimal or 0x and hex, as "
      "in 4G or 0x100000000";
  ExpectRefused("0-2G,4Q-5G",
                std::string("0-2G,4Q-5G: \"4Q\" at character 6: ") + kAllowed);
  ExpectRefused("0-2G,4G-",
                std::string("0-2G,4G-: \"\" at character 9: ") + kAllowed);
  ExpectRefused("-2G", std::string("-2G: \"\" at character 1: ") + kAllowed);
  ExpectRefused("0-1G-2G",
                std::string("0-1G-2G: \"1G-2G\" at character 3: ") + kAllowed);
  // 2^64 bytes and more are not a number of bytes.
  ExpectRefused(
      "0-16777216T",
      std::string("0-16777216T: \"16777216T\" at character 3: ") + kAllowed);
}

TEST(MemoryMapTest, RefusesPartsOfPages) {
  ExpectRefused("0-2049",
                "0-2049: \"2049\" at character 3: allowed are multiples of a "
                "page's 4096 bytes");
  ExpectRefused("1K-2G",
                "1K-2G: \"1K\" at character 1: allowed are multiples of a "
                "page's 4096 bytes");
}

TEST(MemoryMapTest, RefusesAnEndThatIsNotAboveTheStart) {
  ExpectRefused("0-2G,4G-4G@1",
                "0-2G,4G-4G@1: \"4G-4G\" at character 6: allowed is an end "
                "above the start");
  ExpectRefused("2G-1G",
                "2G-1G: \"2G-1G\" at character 1: allowed is an end above the "
                "start");
}

TEST(MemoryMapTest, RefusesRangesThatDoNotAscend) {
  ExpectRefused("0-2G,1G-3G",
                "0-2G,1G-3G: \"1G-3G\" at character 6: begins before the range "
                "ahead of it ends, at 0x80000000; allowed are ranges that "
                "ascend");
  ExpectRefused("4G-5G,0-2G@1",
                "4G-5G,0-2G@1: \"0-2G@1\" at character 7: begins before the "
                "range ahead of it ends, at 0x140000000; allowed are ranges "
                "that ascend");
}

TEST(MemoryMapTest, RefusesWhatIsNoNode) {
  ExpectRefused("0-2G@",
                "0-2G@: \"\" at character 6: allowed is a node's number, 0 or "
                "more");
  ExpectRefused("0-2G,4G-5G@one",
                "0-2G,4G-5G@one: \"one\" at character 12: allowed is a node's "
                "number, 0 or more");
  ExpectRefused("0-2G@-1",
                "0-2G@-1: \"-1\" at character 6: allowed is a node's number, 0 "
                "or more");
  ExpectRefused("0-2G@1@2",
                "0-2G@1@2: \"1@2\" at character 6: allowed is a node's number, "
                "0 or more");
}

}  // namespace
}  // namespace guestmm::memory_map_test
