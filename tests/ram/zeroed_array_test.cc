#include "guestmm/ram/zeroed_array.h"

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>

namespace guestmm::zeroed_array_test {
namespace {

TEST(ZeroedArrayTest, ElementsAreZeroUntilTheyAreWritten) {
  // Far more than a test could write.
  constexpr size_t kSize = size_t{1} << 34;
  ZeroedArray<uint32_t> array(kSize);
  EXPECT_EQ(array[kSize - 1], 0u);
  array[kSize / 2] = 7;
  EXPECT_EQ(array[kSize / 2], 7u);
  EXPECT_EQ(array[0], 0u);
}

TEST(ZeroedArrayTest, MayBeEmpty) { ZeroedArray<uint8_t> array(0); }

}  // namespace
}  // namespace guestmm::zeroed_array_test
