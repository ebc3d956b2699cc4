#include "guestmm/workload/blocks.h"

#include <gtest/gtest.h>

#include "tests/testing/counting_backing.h"

namespace guestmm::blocks_test {
namespace {

TEST(AddressSpaceTest, AMixedMappingIsRoundedUpToPages) {
  CountingGuest guest(64 * kMiB);
  Random random(1);
  AddressSpace space;
  uint64_t mapped = 0;
  for (const uint64_t pages : {1, 2, 5, 511, 512}) {
    ASSERT_TRUE(space.MapMixed(guest.vcpu(), random, pages * kPageSize - 4095));
    mapped += pages * kPageSize;
    EXPECT_EQ(space.bytes(), mapped);
    ASSERT_TRUE(space.MapMixed(guest.vcpu(), random, pages * kPageSize));
    mapped += pages * kPageSize;
    EXPECT_EQ(space.bytes(), mapped);
  }
  EXPECT_EQ(guest.backing->held().bytes(), mapped);
  while (!space.empty()) space.UnmapNewest(guest.vcpu());
  EXPECT_EQ(space.bytes(), 0u);
  EXPECT_EQ(guest.backing->held(), PageCount(0));
}

}  // namespace
}  // namespace guestmm::blocks_test
