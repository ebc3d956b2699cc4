// 6.12: zones that allocations find below their high watermark, and per-CPU
// lists that shrink for them.

#include <gtest/gtest.h>

#include <memory>
#include <optional>
#include <vector>

#include "guestmm/base/units.h"
#include "guestmm/buddy/page_allocator.h"
#include "guestmm/frame/reclaimer.h"

namespace guestmm::below_high_test {
namespace {

// One zone of 256 pages in pageblocks of 16, and one vCPU. Watermarks: min 64,
// low 80, high 96.
std::unique_ptr<PageAllocator> MakeAllocator(
    KernelVersion version = KernelVersion::kV6_12) {
  return PageAllocator::Create(
             {.memory = {{Pfn(0), Pfn(256)}},
              .max_order = Order(5),
              .pageblock_order = Order(4),
              .min_free_kbytes = 256,
              .per_cpu_lists = version,
              .per_cpu_limits =
                  PerCpuLimits{.batch = 2, .high = 8, .high_max = 60},
              .placement = {.rules = version}})
      .value();
}

const Zone& TheZone(const PageAllocator& allocator) {
  return allocator.zone(0, ZoneType::kDma);
}
const PerCpuPages& Lists(const PageAllocator& allocator) {
  return allocator.per_cpu_pages(0, TheZone(allocator));
}

std::vector<Pfn> Allocate(PageAllocator& allocator, int blocks, Order order) {
  std::vector<Pfn> pfns;
  for (int i = 0; i < blocks; ++i) {
    pfns.push_back(allocator.Allocate(0, order).value());
  }
  return pfns;
}

// Blocks of 32 pages bypass the lists. With 256, 224, 192, 160 and 128 free
// pages there are 96 left for the next; with 96 there are not, but 80 are not
// left either, so that only min, with 64, allows it.
TEST(BelowHighTest, ARequestThatFindsTooLittleFreeSetsIt) {
  const auto allocator = MakeAllocator();
  const Zone& zone = TheZone(*allocator);
  EXPECT_EQ(zone.watermarks(),
            (Watermarks{PageCount(64), PageCount(80), PageCount(96)}));
  EXPECT_EQ(zone.fast_mark(), PageCount(96));
  Allocate(*allocator, 5, Order(5));
  EXPECT_EQ(zone.free_pages(), PageCount(96));
  EXPECT_EQ(zone.pressure(), ZonePressure::kNone);
  Allocate(*allocator, 1, Order(5));
  EXPECT_EQ(zone.pressure(), ZonePressure::kBelowHigh);
  EXPECT_EQ(zone.fast_mark(), PageCount(80));
}

// The same for a page that is on a list: the request looks at the zone first.
TEST(BelowHighTest, SoDoesARequestThatAListServes) {
  const auto allocator = MakeAllocator();
  const Zone& zone = TheZone(*allocator);
  Allocate(*allocator, 4, Order(5));
  // 31 pages: a refill of 2, 4, 8, 16 and, up to the mark, 32.
  Allocate(*allocator, 31, Order(0));
  EXPECT_EQ(zone.free_pages(), PageCount(66));
  EXPECT_EQ(Lists(*allocator).cached_pages(), PageCount(31));
  EXPECT_EQ(zone.pressure(), ZonePressure::kNone);
  Allocate(*allocator, 1, Order(0));
  EXPECT_EQ(zone.pressure(), ZonePressure::kBelowHigh);
}

// Lists return what they have above the least mark; the mark falls to it. The
// bulk free after which the zone has more than 96 free pages ends it.
TEST(BelowHighTest, ListsShrinkUntilABulkFreeEndsIt) {
  const auto allocator = MakeAllocator();
  const Zone& zone = TheZone(*allocator);
  std::vector<Pfn> blocks = Allocate(*allocator, 4, Order(5));
  const std::vector<Pfn> pages = Allocate(*allocator, 32, Order(0));
  ASSERT_EQ(zone.pressure(), ZonePressure::kBelowHigh);
  ASSERT_EQ(zone.free_pages(), PageCount(66));
  EXPECT_EQ(Lists(*allocator).high(), 60u);
  // 30 pages are on the lists; the first free returns a batch of them.
  allocator->Free(0, pages[0], Order(0));
  EXPECT_EQ(zone.free_pages(), PageCount(68));
  EXPECT_EQ(Lists(*allocator).high(), 58u);
  // A block that goes past the lists does not end it, though 100 are free.
  allocator->Free(0, blocks.back(), Order(5));
  EXPECT_EQ(zone.free_pages(), PageCount(100));
  EXPECT_EQ(zone.pressure(), ZonePressure::kBelowHigh);
  // Nor does a drain.
  allocator->DrainPerCpuPages();
  EXPECT_EQ(zone.pressure(), ZonePressure::kBelowHigh);
  // Nor do frees that return nothing.
  for (int i = 1; i <= 7; ++i) allocator->Free(0, pages[i], Order(0));
  EXPECT_EQ(zone.pressure(), ZonePressure::kBelowHigh);
  allocator->Free(0, pages[8], Order(0));
  EXPECT_EQ(zone.pressure(), ZonePressure::kNone);
  EXPECT_EQ(zone.fast_mark(), PageCount(96));
  EXPECT_EQ(allocator->CheckInvariants(), absl::OkStatus());
}

TEST(BelowHighTest, OlderKernelsDoNotSetIt) {
  for (const KernelVersion version :
       {KernelVersion::kV5_3, KernelVersion::kV6_1}) {
    const auto allocator = MakeAllocator(version);
    const Zone& zone = TheZone(*allocator);
    EXPECT_EQ(zone.fast_mark(), PageCount(80));
    Allocate(*allocator, 6, Order(5));
    EXPECT_EQ(zone.pressure(), ZonePressure::kNone);
    EXPECT_EQ(zone.fast_mark(), PageCount(80));
  }
}

// RefreshPerCpuPages decays the lists of that vCPU only.
TEST(BelowHighTest, ARefreshDecaysTheListsOfItsVcpu) {
  const auto allocator =
      PageAllocator::Create(
          {.memory = {{Pfn(0), Pfn(256)}},
           .cpus = 2,
           .max_order = Order(5),
           .pageblock_order = Order(4),
           .min_free_kbytes = 0,
           .per_cpu_lists = KernelVersion::kV6_12,
           .per_cpu_limits =
               PerCpuLimits{.batch = 2, .high = 8, .high_max = 60}})
          .value();
  for (int cpu = 0; cpu < 2; ++cpu) {
    for (int i = 0; i < 15; ++i) allocator->Allocate(cpu, Order(0)).value();
  }
  const Zone& zone = TheZone(*allocator);
  EXPECT_EQ(allocator->per_cpu_pages(0, zone).cached_pages(), PageCount(15));
  for (int i = 0; i < 20; ++i) allocator->RefreshPerCpuPages(0);
  EXPECT_EQ(allocator->per_cpu_pages(0, zone).cached_pages(), PageCount(8));
  EXPECT_EQ(allocator->per_cpu_pages(1, zone).cached_pages(), PageCount(15));
  EXPECT_EQ(allocator->CheckInvariants(), absl::OkStatus());
}

// Frees the pages that it holds, and notes what the lists keep of them.
class HolderOfPages final : public Reclaimer {
 public:
  explicit HolderOfPages(PageAllocator& allocator) : allocator_(allocator) {}

  void Hold(const std::vector<Pfn>& pages) { pages_ = pages; }
  PageCount Reclaim(int cpu, PageCount) override {
    pressure_ = TheZone(allocator_).pressure();
    for (const Pfn pfn : pages_) allocator_.Free(cpu, pfn, Order(0));
    kept_ = Lists(allocator_).cached_pages();
    const PageCount freed(pages_.size());
    pages_.clear();
    return freed;
  }

  ZonePressure pressure() const { return pressure_; }
  PageCount kept() const { return kept_; }

 private:
  PageAllocator& allocator_;
  std::vector<Pfn> pages_;
  ZonePressure pressure_ = ZonePressure::kNone;
  PageCount kept_;
};

// Four batches are eight pages.
TEST(ReclaimActiveTest, ListsKeepFourBatchesOfWhatIsReclaimed) {
  const auto allocator = MakeAllocator();
  HolderOfPages holder(*allocator);
  allocator->AddReclaimer(holder);
  std::vector<Pfn> pages = Allocate(*allocator, 62, Order(0));
  while (holder.pressure() == ZonePressure::kNone) {
    holder.Hold(pages);
    ASSERT_TRUE(allocator->Allocate(0, Order(5)).has_value());
  }
  EXPECT_EQ(holder.pressure(), ZonePressure::kReclaimActive);
  EXPECT_LT(holder.kept(), PageCount(8));
  EXPECT_NE(TheZone(*allocator).pressure(), ZonePressure::kReclaimActive);
  allocator->RemoveReclaimer(holder);
}

}  // namespace
}  // namespace guestmm::below_high_test
