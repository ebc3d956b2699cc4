// The event of a zone's use: one each time its lock is taken to move blocks.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <utility>
#include <vector>

#include "guestmm/buddy/zone_use_observer.h"
#include "tests/testing/tiny_allocator.h"

namespace guestmm::zone_use_test {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr Order kLarge(2);

class RecordingObserver final : public ZoneUseObserver {
 public:
  void OnZoneUsed(const Zone& zone, size_t blocks) override {
    EXPECT_EQ(zone.type(), ZoneType::kDma);
    blocks_.push_back(blocks);
  }
  // The events since the last call.
  std::vector<size_t> Take() { return std::exchange(blocks_, {}); }

 private:
  std::vector<size_t> blocks_;
};

class ZoneUseTest : public testing::Test {
 protected:
  // 16 pages of DMA, no watermarks; per-CPU lists of up to 4 pages.
  const std::unique_ptr<PageAllocator> allocator_ =
      MakeAllocator({.memory = {PagesFrom(Pfn(0), 16)},
                     .max_order = kLarge,
                     .section_order = kLarge,
                     .min_free_kbytes = 0,
                     .per_cpu_limits = PerCpuLimits{.batch = 2, .high = 4}});
  RecordingObserver observer_;
};

TEST_F(ZoneUseTest, APageUsesTheZoneOnlyForARefillOrATrim) {
  allocator_->SetUseObserver(&observer_);
  std::vector<Pfn> pages;
  for (int i = 0; i < 4; ++i) {
    pages.push_back(allocator_->Allocate(0, Order(0)).value());
  }
  EXPECT_THAT(observer_.Take(), ElementsAre(2, 2));
  for (const Pfn page : pages) allocator_->Free(0, page, Order(0));
  EXPECT_THAT(observer_.Take(), ElementsAre(2));
  allocator_->DrainPerCpuPages();
  EXPECT_THAT(observer_.Take(), ElementsAre(2));
}

TEST_F(ZoneUseTest, ALargerBlockUsesItEachTime) {
  allocator_->SetUseObserver(&observer_);
  const Pfn block = allocator_->Allocate(0, kLarge).value();
  EXPECT_THAT(observer_.Take(), ElementsAre(1));
  allocator_->Free(0, block, kLarge);
  EXPECT_THAT(observer_.Take(), ElementsAre(1));
}

TEST_F(ZoneUseTest, NothingToTakeIsAUseOfNoBlocks) {
  std::vector<Pfn> pages;
  while (const std::optional<Pfn> page = allocator_->Allocate(0, Order(0))) {
    pages.push_back(*page);
  }
  allocator_->Free(0, pages[0], Order(0));
  allocator_->Free(0, pages[2], Order(0));
  allocator_->DrainPerCpuPages();
  allocator_->SetUseObserver(&observer_);
  Zone& zone = allocator_->zone(0, ZoneType::kDma);
  {
    LockHolder hold(zone.lock());
    EXPECT_FALSE(zone.Allocate(Order(1), MigrateType::kMovable));
  }
  EXPECT_THAT(observer_.Take(), ElementsAre(0));
}

TEST_F(ZoneUseTest, WithoutAnObserverNothingIsNotified) {
  allocator_->SetUseObserver(&observer_);
  allocator_->SetUseObserver(nullptr);
  allocator_->Allocate(0, Order(0));
  EXPECT_THAT(observer_.Take(), IsEmpty());
}

}  // namespace
}  // namespace guestmm::zone_use_test
