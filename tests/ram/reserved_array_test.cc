#include "guestmm/ram/reserved_array.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <span>
#include <string>
#include <utility>

#include "guestmm/base/units.h"

namespace guestmm::reserved_array_test {
namespace {

using ::testing::Each;
using ::testing::StartsWith;

const size_t kPage = static_cast<size_t>(sysconf(_SC_PAGESIZE));

std::span<unsigned char> BytesOf(const ReservedArray& array) {
  return {static_cast<unsigned char*>(array.data()), array.bytes()};
}

TEST(ReservedArrayTest, BeginsZeroedAndNotResident) {
  // ThreadSanitizer leaves a program little more than 1 TiB of addresses.
  constexpr size_t kBytes = 128 * kGiB;
  const ReservedArray array = ReservedArray::Create(kBytes).value();
  EXPECT_EQ(array.bytes(), kBytes);
  EXPECT_EQ(array.ResidentBytes().value(), 0);
  EXPECT_THAT(BytesOf(array).last(kPage), Each(0));
}

TEST(ReservedArrayTest, OnlyWrittenPagesAreResident) {
  const ReservedArray array = ReservedArray::Create(64 * kMiB).value();
  BytesOf(array).front() = 1;
  BytesOf(array)[8 * kMiB] = 1;
  BytesOf(array).back() = 1;
  EXPECT_EQ(array.ResidentBytes().value(), 3 * kPage);
}

TEST(ReservedArrayTest, ANeighbourDoesNotCount) {
  const ReservedArray first = ReservedArray::Create(4 * kPage).value();
  const ReservedArray second = ReservedArray::Create(4 * kPage).value();
  std::memset(second.data(), 1, second.bytes());
  EXPECT_EQ(first.ResidentBytes().value(), 0);
  EXPECT_EQ(second.ResidentBytes().value(), 4 * kPage);
}

// Pages 0 to 7; discarded is from the middle of page 1 to the middle of 5.
TEST(ReservedArrayTest, DiscardsWholePagesOnly) {
  ReservedArray array = ReservedArray::Create(8 * kPage).value();
  std::memset(array.data(), 1, array.bytes());
  array.Discard(kPage + kPage / 2, 4 * kPage);
  EXPECT_EQ(array.ResidentBytes().value(), 5 * kPage);
  const std::span<unsigned char> bytes = BytesOf(array);
  EXPECT_THAT(bytes.first(2 * kPage), Each(1));
  EXPECT_THAT(bytes.last(3 * kPage), Each(1));
  // Reading maps the shared zero page, which is not the array's.
  EXPECT_THAT(bytes.subspan(2 * kPage, 3 * kPage), Each(0));
}

TEST(ReservedArrayTest, DiscardOfLessThanAPageHasNoEffect) {
  ReservedArray array = ReservedArray::Create(2 * kPage).value();
  std::memset(array.data(), 1, array.bytes());
  array.Discard(1, kPage);
  array.Discard(kPage, 0);
  EXPECT_EQ(array.ResidentBytes().value(), 2 * kPage);
}

TEST(ReservedArrayDeathTest, DiscardBeyondTheEnd) {
  ReservedArray array = ReservedArray::Create(kPage).value();
  EXPECT_DEATH(array.Discard(1, kPage), "discard of [0-9]+ bytes at 1 of ");
  EXPECT_DEATH(array.Discard(kPage + 1, 0), "discard of 0 bytes at ");
}

TEST(ReservedArrayTest, MovesItsMemory) {
  ReservedArray array = ReservedArray::Create(kPage).value();
  BytesOf(array).front() = 7;
  const ReservedArray moved = std::move(array);
  EXPECT_EQ(array.data(), nullptr);
  EXPECT_EQ(BytesOf(moved).front(), 7);
}

TEST(ReservedArrayTest, RefusesMoreThanTheAddressSpace) {
  const auto array =
      ReservedArray::Create(std::numeric_limits<size_t>::max() / 2);
  EXPECT_EQ(array.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(array.status().message()), StartsWith("reserving "));
}

}  // namespace
}  // namespace guestmm::reserved_array_test
