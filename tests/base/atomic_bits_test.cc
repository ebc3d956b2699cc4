#include "guestmm/base/atomic_bits.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <vector>

#include "guestmm/base/random.h"

namespace guestmm::atomic_bits_test {
namespace {

class AtomicBitsTest : public ::testing::TestWithParam<Writers> {};

INSTANTIATE_TEST_SUITE_P(Writers, AtomicBitsTest,
                         ::testing::Values(Writers::kOne, Writers::kMany));

TEST_P(AtomicBitsTest, AgreesWithAListOfBits) {
  constexpr uint64_t kSize = 200;
  constexpr uint64_t kSeed = 3;
  SCOPED_TRACE(kSeed);
  Random random(kSeed);
  AtomicBits bits(kSize, GetParam());
  std::vector<bool> naive(kSize);
  for (int step = 0; step < 2000; ++step) {
    const uint64_t first = random.Below(kSize);
    const uint64_t count = random.Below(kSize - first + 1);
    uint64_t set = 0;
    for (uint64_t i = first; i < first + count; ++i) set += naive[i] ? 1 : 0;
    ASSERT_EQ(bits.Count(first, count), set);
    ASSERT_EQ(bits.Any(first, count), set > 0);
    ASSERT_EQ(bits.All(first, count), set == count);
    ASSERT_EQ(bits.Test(first), naive[first]);
    const bool to = random.Below(2) == 0;
    ASSERT_EQ(to ? bits.SetOne(first) : bits.ClearOne(first),
              naive[first] != to);
    naive[first] = to;
    std::vector<uint64_t> changed;
    const auto note = [&](uint64_t index) { changed.push_back(index); };
    to ? bits.Set(first, count, note) : bits.Clear(first, count, note);
    std::vector<uint64_t> expected;
    for (uint64_t i = first; i < first + count; ++i) {
      if (naive[i] != to) expected.push_back(i);
      naive[i] = to;
    }
    ASSERT_EQ(changed, expected);
    // Back, and there again, counted.
    ASSERT_EQ(to ? bits.Clear(first, count) : bits.Set(first, count), count);
    ASSERT_EQ(to ? bits.Set(first, count) : bits.Clear(first, count), count);
  }
}

}  // namespace
}  // namespace guestmm::atomic_bits_test
