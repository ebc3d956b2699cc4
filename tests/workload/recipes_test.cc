// What each recipe makes of a guest of 128 MiB with two vCPUs.

#include "guestmm/workload/recipes.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "guestmm/workload/build_workload.h"
#include "tests/testing/counting_backing.h"

namespace guestmm::recipes_test {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

class RecipesTest : public testing::Test {
 protected:
  void Make(const std::string& name) {
    const auto recipe = std::ranges::find(
        WorkloadRecipes(), name,
        [](const WorkloadRecipe& r) { return r.workload.name; });
    ASSERT_NE(recipe, WorkloadRecipes().end());
    BootedGuest world{.allocator = guest_.guest->allocator(),
                      .vcpus = guest_.guest->all_vcpus(),
                      .guest_bytes = 128 * kMiB,
                      .duration = seconds(4),
                      .random = Random(1)};
    load_ = recipe->make(world);
    ASSERT_EQ(load_.by_vcpu.size(), 2u);
  }
  std::optional<Nanoseconds> Step(size_t vcpu) {
    return load_.by_vcpu[vcpu]->Step(*guest_.guest->all_vcpus()[vcpu]);
  }
  // The most pages that vCPU 1 holds in that many steps.
  uint64_t MostHeld(int steps) {
    uint64_t most = 0;
    for (int i = 0; i < steps; ++i) {
      Step(1);
      most = std::max(most, guest_.backing->held().value());
    }
    return most;
  }

  CountingGuest guest_{128 * kMiB, /*vcpus=*/2};
  GuestLoad load_;
};

TEST_F(RecipesTest, WorkIsTheSumOfAllVcpus) {
  Make("page_fault1");
  Step(0);
  EXPECT_EQ(load_.work(), 64u);
  Step(1);
  Step(1);
  EXPECT_EQ(load_.work(), 64u + 2 * 64u);
  EXPECT_EQ(load_.bystander, nullptr);
}

// 10 and 70 % of 32768 pages, in reads of 32.
TEST_F(RecipesTest, APageFault1MayHaveAPageCacheBesideIt) {
  Make("page_fault1-small-cache");
  ASSERT_NE(load_.bystander, nullptr);
  EXPECT_EQ(load_.bystander->work(), 102 * 32u);
  EXPECT_EQ(load_.work(), 0u);
  load_ = {};
  Make("page_fault1-large-cache");
  EXPECT_EQ(load_.bystander->work(), 716 * 32u);
}

TEST_F(RecipesTest, APageFault1MayHaveHugePages) {
  Make("page_fault1-thp");
  Step(0);
  ASSERT_EQ(guest_.backing->allocated().size(), 1u);
  EXPECT_EQ(guest_.backing->allocated()[0].second, kPageblockOrder);
}

// Shares of 16384 pages a vCPU, in whole pages.
TEST_F(RecipesTest, EachVcpuHasItsShareOfMemory) {
  Make("burst");
  EXPECT_EQ(MostHeld(40), 13108u);  // 0.8
}

TEST_F(RecipesTest, AChurnIsFilledToSevenTenths) {
  Make("churn");
  const uint64_t held = MostHeld(20000);  // 0.9 * 0.7, and less than a block
  EXPECT_GE(held, 10322u);
  EXPECT_LT(held, 10322u + 512);
}

TEST_F(RecipesTest, AFragmenterFillsNineTenths) {
  Make("fragmenter");
  const uint64_t held = MostHeld(100);
  EXPECT_GE(held, 14746u);
  EXPECT_LT(held, 14746u + 10);
}

TEST_F(RecipesTest, ASandboxIsAlmostItsShareOfTheGuest) {
  Make("sandbox");
  // 0.95 times 0.7 to 0.9.
  const uint64_t held = MostHeld(300);
  EXPECT_GE(held, 10895u);
  EXPECT_LE(held, 14008u + 64);
}

// vCPU 1 has bursts only.
TEST_F(RecipesTest, APageCachesBurstsAreHalfOfMemory) {
  Make("page_cache");
  EXPECT_EQ(MostHeld(40), 8192u);
}

TEST_F(RecipesTest, APageCacheIsNoWorkAndIsDroppedAtThreeQuartersOfTheTime) {
  Make("page_cache");
  Step(0);
  EXPECT_EQ(guest_.backing->touched(), PageCount(32));
  EXPECT_EQ(load_.work(), 0u);
  // Its burst is over in 100 ms, and the next one comes after 10 s of idling,
  // which keeps nothing.
  Nanoseconds passed{0};
  while (passed < seconds(1)) passed += Step(0).value();
  EXPECT_GT(load_.work(), 0u);
  EXPECT_GT(guest_.backing->held(), PageCount(16384));
  while (guest_.backing->held() > PageCount(0)) passed += Step(0).value();
  EXPECT_GT(passed, milliseconds(2700));
  EXPECT_LE(passed, milliseconds(3100));
}

TEST_F(RecipesTest,
       ABuildGoesOnForEverAndKeepsItsSharesOfFilesAndKernelMemory) {
  Make("build");
  const auto& build = dynamic_cast<BuildWorkload&>(*load_.by_vcpu[1]);
  uint64_t process = 0;
  uint64_t kernel = 0;
  while (build.phases_done() < 5) {
    ASSERT_TRUE(Step(1).has_value());
    process = std::max(process, build.process_bytes());
    kernel = std::max(kernel, build.kernel_bytes());
  }
  EXPECT_GT(process, 3000 * kPageSize);
  EXPECT_LE(process, 3328 * kPageSize);             // 0.2, in steps of 64
  EXPECT_EQ(kernel, 820 * kPageSize);               // 0.05
  EXPECT_EQ(build.file_bytes(), 3277 * kPageSize);  // 0.2
}

}  // namespace
}  // namespace guestmm::recipes_test
