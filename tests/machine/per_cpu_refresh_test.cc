#include "src/machine/per_cpu_refresh.h"

#include <gtest/gtest.h>

#include <chrono>
#include <memory>
#include <optional>

#include "guestmm/base/memory_map.h"
#include "guestmm/base/units.h"
#include "guestmm/base/virtual_time.h"
#include "guestmm/buddy/page_allocator.h"

namespace guestmm::per_cpu_refresh_test {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

// Two vCPUs of 6.12 with 15 pages each on their lists, whose marks are 38: from
// there to the least, 8 pages, there are twelve refreshes.
class PerCpuRefreshTest : public ::testing::Test {
 protected:
  PerCpuRefreshTest()
      : allocator_(
            PageAllocator::Create(
                {.memory = {{Pfn(0), Pfn(256)}},
                 .cpus = 2,
                 .min_free_kbytes = 0,
                 .per_cpu_lists = KernelVersion::kV6_12,
                 .per_cpu_limits =
                     PerCpuLimits{.batch = 2, .high = 8, .high_max = 60}})
                .value()) {
    for (int cpu = 0; cpu < 2; ++cpu) {
      for (int i = 0; i < 15; ++i) allocator_->Allocate(cpu, Order(0)).value();
    }
  }

  uint32_t high(int cpu) const {
    return allocator_->per_cpu_pages(cpu, allocator_->zone(0, ZoneType::kDma))
        .high();
  }

  VirtualTime time_{/*seed=*/1};
  std::unique_ptr<PageAllocator> allocator_;
};

TEST_F(PerCpuRefreshTest, RefreshesEveryVcpuOnceASecond) {
  const PerCpuRefresh refresh(*allocator_, time_);
  time_.RunFor(milliseconds(999));
  EXPECT_EQ(high(0), 38u);
  for (const uint32_t falling : {34, 30, 27, 24}) {
    time_.RunFor(seconds(1));
    EXPECT_EQ(high(0), falling);
    EXPECT_EQ(high(1), falling);
  }
  time_.RunFor(seconds(20));
  EXPECT_EQ(allocator_->Counts().cached, PageCount(2 * 8));
  EXPECT_EQ(allocator_->CheckInvariants(), absl::OkStatus());
}

TEST_F(PerCpuRefreshTest, DoesNotKeepTimeFromBeingIdle) {
  const PerCpuRefresh refresh(*allocator_, time_);
  time_.RunUntilIdle();
  EXPECT_LE(time_.Now(), seconds(1));
}

TEST_F(PerCpuRefreshTest, EndsWithTheObject) {
  std::optional<PerCpuRefresh> refresh(std::in_place, *allocator_, time_);
  time_.RunFor(seconds(1));
  refresh.reset();
  time_.RunFor(seconds(5));
  EXPECT_EQ(high(0), 34u);
}

}  // namespace
}  // namespace guestmm::per_cpu_refresh_test
