// Compares random programs with the model after every step, and reruns programs
// that failed in the past.

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "guestmm/base/random.h"
#include "tests/testing/buddy_program.h"
#include "tests/testing/buddy_run.h"

namespace guestmm::buddy {
namespace {

class AllocatorModelTest : public ::testing::TestWithParam<const BuddyWorld*> {
};

// To rerun one seed, call RandomProgram with it, at the length below.
TEST_P(AllocatorModelTest, RandomPrograms) {
#ifdef GUESTMM_SANITIZED
  constexpr uint64_t kSeeds = 20;
#else
  constexpr uint64_t kSeeds = 100;
#endif
  constexpr size_t kLength = 400;
  for (uint64_t seed = 1; seed <= kSeeds; ++seed) {
    Random random(seed);
    ASSERT_EQ(RunBuddyProgram(*GetParam(), RandomProgram(random, kLength)), "")
        << "seed " << seed;
  }
}

INSTANTIATE_TEST_SUITE_P(Worlds, AllocatorModelTest,
                         ::testing::ValuesIn(AllBuddyWorlds()),
                         [](const auto& param) {
                           return std::string(param.param->name);
                         });

// The random programs cover full and empty memory, lists that refill and
// overflow, refused isolations, and blocks inserted at tails.
TEST(RandomProgramTest, HasEveryOperation) {
  Random random(1);
  std::vector<size_t> counts(std::variant_size_v<Operation>);
  for (const Operation& operation : RandomProgram(random, 2000)) {
    ++counts[operation.index()];
  }
  for (const size_t count : counts) EXPECT_GT(count, 0);
}

TEST(RandomProgramTest, PrintsAsCode) {
  EXPECT_EQ(
      ToCode(Program{Alloc{0, 3}, Free{1, 2}, Drain{}, Refresh{1}, Isolate{4},
                     Return{0}}),
      "{Alloc{0, 3}, Free{1, 2}, Drain{}, Refresh{1}, Isolate{4}, Return{0}}");
  EXPECT_EQ(
      ToCode(Program{Alloc{0, 3, kGfpKernel}, Alloc{0, 1, kGfpUser.OnlyFrom(1)},
                     Pin{3}, Unpin{1, 0}}),
      "{Alloc{0, 3, kGfpKernel}, Alloc{0, 1, kGfpUser.OnlyFrom(1)}, "
      "Pin{3}, Unpin{1, 0}}");
  EXPECT_EQ(ToCode(Program{Mark{1}, Rotate{2}, Return{3, ReturnTo::kTail}}),
            "{Mark{1}, Rotate{2}, Return{3, ReturnTo::kTail}}");
  EXPECT_EQ(ToCode(Program{IsolateRange{1}, RestoreRange{0}, TakeOffline{2},
                           BringOnline{2}, BringOnline{3, true}}),
            "{IsolateRange{1}, RestoreRange{0}, TakeOffline{2}, "
            "BringOnline{2}, BringOnline{3, true}}");
  EXPECT_EQ(ToCode(Program{}), "{}");
}

// A request that prints as "?" could not be pasted into a test.
TEST(RandomProgramTest, EveryRequestHasAName) {
  for (const NamedGfp& named : AllGfps()) {
    EXPECT_EQ(ToCode(Alloc{0, 0, named.gfp}),
              std::string(named.name) == "kGfpUser"
                  ? "Alloc{0, 0}"
                  : "Alloc{0, 0, " + std::string(named.name) + "}");
  }
}

TEST(RandomProgramTest, AnyBytesAreAProgram) {
  const std::vector<uint8_t> bytes = {
      0, 1, 2, 0,  5, 0, 9, 0,  8, 5, 5, 5,  9, 0, 7, 1, 13, 0, 2, 1, 15,
      0, 3, 1, 10, 0, 4, 1, 16, 0, 5, 0, 17, 0, 6, 0, 8, 1,  0, 0, 7, 0};
  EXPECT_EQ(ToCode(ProgramFromBytes(bytes)),
            "{Alloc{1, 2}, Free{0, 9}, Drain{}, Isolate{7}, RestoreRange{2}, "
            "BringOnline{3, true}, Return{4, ReturnTo::kTail}, Mark{5}, "
            "Rotate{6}, Refresh{1}}");
}

// A freed pair that was inserted at the tail is allocated last.
TEST(AllocatorRegressionTest, ATailBlockIsAllocatedLast) {
  EXPECT_EQ(RunBuddyProgram(
                kBareWorld,
                {Alloc{0, 0}, Alloc{0, 0}, Alloc{0, 0}, Alloc{0, 0},
                 Alloc{0, 0}, Alloc{0, 0}, Free{0, 5}, Free{0, 2}, Free{0, 2},
                 Free{0, 0}, Alloc{0, 0}, Alloc{0, 0}, Alloc{0, 1}}),
            "");
}

TEST(AllocatorRegressionTest, AReturnedBlockMergesWithOneFreedMeanwhile) {
  EXPECT_EQ(RunBuddyProgram(kBareWorld, {Alloc{0, 2}, Isolate{1}, Free{0, 0},
                                         Return{0}, Alloc{0, 4}}),
            "");
}

// 6.1: each allocation from a vCPU's lists halves the number of pages they
// return next. After two allocations the number was once too small.
TEST(AllocatorRegressionTest, ARequestTriesItsFirstZoneOnlyOnce) {
  EXPECT_EQ(RunBuddyProgram(
                kLinux61World,
                {Alloc{1, 0, kGfpDma32}, Alloc{1, 4}, Drain{}, Alloc{0, 0},
                 Alloc{1, 0, kGfpDma32}, Alloc{1, 3, kGfpKernel}, Free{1, 2},
                 Alloc{1, 2}, Alloc{0, 5}, Alloc{0, 0, kGfpAtomic}, Free{1, 1},
                 Alloc{0, 3, kGfpHigh}, Free{1, 5},
                 Alloc{1, 0, kGfpReclaimable}, Free{1, 2}}),
            "");
}

}  // namespace
}  // namespace guestmm::buddy
