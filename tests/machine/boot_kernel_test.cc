#include "guestmm/machine/boot_kernel.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "guestmm/base/memory_map.h"
#include "guestmm/base/virtual_time.h"
#include "guestmm/buddy/page_allocator.h"
#include "guestmm/frame/migratetype.h"
#include "guestmm/host/accounting/host_ledger.h"
#include "guestmm/machine/model/model_machine.h"

namespace guestmm::boot_kernel_test {
namespace {

class BootKernelTest : public testing::Test {
 protected:
  VirtualTime time_{1};
  std::unique_ptr<ModelMachine> machine_ =
      ModelMachine::Create({.memory = MemoryMap::Pc(64 * kMiB)}, time_).value();
};

// Compaction and hot-unplug cannot move the kernel's own allocations.
TEST_F(BootKernelTest, ItsPagesAreUnmovable) {
  ASSERT_TRUE(BootKernel(machine_->vcpu(0), 12 * kMiB).ok());
  const PageMap& pages = machine_->allocator().pages();
  PageCount unmovable;
  for (Pfn pfn(0); pfn < pages.end(); pfn += PageCount(1)) {
    if (machine_->ledger()->InUse(pfn)) {
      ASSERT_EQ(pages.pageblock(pfn).type, MigrateType::kUnmovable);
      unmovable += PageCount(1);
    }
  }
  EXPECT_EQ(unmovable.bytes(), 12 * kMiB);
}

TEST_F(BootKernelTest, TakesTheLargestBlocksThatFit) {
  ASSERT_TRUE(BootKernel(machine_->vcpu(0), 6 * kMiB).ok());
  const PageMap& pages = machine_->allocator().pages();
  std::vector<int> orders;
  for (Pfn pfn(0); pfn < pages.end(); pfn += PageCount(1)) {
    const PageInfo info = pages.Get(pfn);
    if (info.state == PageState::kAllocated) {
      orders.push_back(info.order.value());
    }
  }
  EXPECT_THAT(orders, testing::UnorderedElementsAre(10, 9));
}

TEST_F(BootKernelTest, RoundsUpToPages) {
  ASSERT_TRUE(BootKernel(machine_->vcpu(0), 2 * kMiB + 1).ok());
  EXPECT_EQ(machine_->allocated_pages(), PageCount(513));
  EXPECT_EQ(machine_->ledger()->resident_pages(), PageCount(513));
}

TEST_F(BootKernelTest, UntouchedItIsNotResident) {
  ASSERT_TRUE(BootKernel(machine_->vcpu(0), 2 * kMiB, KernelTouch::kNo).ok());
  EXPECT_EQ(machine_->allocated_pages().bytes(), 2 * kMiB);
  EXPECT_EQ(machine_->ledger()->resident_pages(), PageCount(0));
}

TEST_F(BootKernelTest, RefusesMoreThanThereIs) {
  const absl::Status status = BootKernel(machine_->vcpu(0), 80 * kMiB);
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(status.message()),
              testing::MatchesRegex("the guest's kernel does not fit: .* of 80"
                                    ".* are missing"));
}

}  // namespace
}  // namespace guestmm::boot_kernel_test
