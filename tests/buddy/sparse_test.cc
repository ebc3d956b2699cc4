// Metadata costs memory by the memory present, not by the address space
// spanned.

#include <gtest/gtest.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "guestmm/mm/migrate/memory_hotplug.h"
#include "tests/testing/tiny_allocator.h"

namespace guestmm::sparse_test {
namespace {

constexpr uint64_t kGibPages = kGiB / kPageSize;
// 9 bytes per page, 2 per pageblock of 512.
constexpr uint64_t kBytesPerGib = kGibPages * 9 + kGibPages / 512 * 2;
// The host pages at the ends of ranges, and of the list heads.
constexpr uint64_t kMargin = 64 * kKiB;

uint64_t ResidentBytes(const PageAllocator& allocator) {
  const absl::StatusOr<uint64_t> bytes = allocator.pages().ResidentBytes();
  EXPECT_TRUE(bytes.ok()) << bytes.status();
  return bytes.value_or(0);
}

// Half a GiB at either end of a span of 1 TiB.
std::unique_ptr<PageAllocator> MakeSparse() {
  return MakeAllocator(
      {.memory = {PagesFrom(kNormalStart, kGibPages / 2),
                  PagesFrom(kNormalStart + PageCount(1023 * kGibPages) +
                                PageCount(kGibPages / 2),
                            kGibPages / 2)},
       .min_free_kbytes = 0});
}

// Allocates and frees every page.
void UseAll(PageAllocator& allocator) {
  const std::vector<Pfn> blocks = TakeAll(allocator, 0, Order(0), kGfpUser);
  EXPECT_EQ(blocks.size(), kGibPages);
  FreeAll(allocator, 0, blocks, Order(0));
  allocator.DrainPerCpuPages();
  EXPECT_EQ(allocator.zone(0, ZoneType::kNormal).free_blocks(kMaxOrder), 256);
}

TEST(SparseTest, AZoneOf1GiBThatSpans1TiBCostsAsMuchAs1GiB) {
  const auto dense = MakeAllocator(
      {.memory = {PagesFrom(kNormalStart, kGibPages)}, .min_free_kbytes = 0});
  const auto sparse = MakeSparse();
  const Zone& zone = sparse->zone(0, ZoneType::kNormal);
  EXPECT_EQ(zone.span().pages(), PageCount(1024 * kGibPages));
  EXPECT_EQ(zone.managed_pages(), PageCount(kGibPages));
  EXPECT_LE(ResidentBytes(*sparse), ResidentBytes(*dense) + kMargin);
  for (PageAllocator* const allocator : {dense.get(), sparse.get()}) {
    // The pageblocks, and what is written of states and entries.
    EXPECT_LE(ResidentBytes(*allocator), kMargin);
    UseAll(*allocator);
    EXPECT_GE(ResidentBytes(*allocator), kBytesPerGib);
    EXPECT_LE(ResidentBytes(*allocator), kBytesPerGib + kMargin);
  }
}

// Walks of the zone skip the hole.
TEST(SparseTest, ChecksAndCountsCostNothing) {
  const auto allocator = MakeSparse();
  UseAll(*allocator);
  const uint64_t before = ResidentBytes(*allocator);
  ExpectInvariants(*allocator);
  EXPECT_EQ(allocator->Counts().free, PageCount(kGibPages));
  Zone& zone = allocator->zone(0, ZoneType::kNormal);
  {
    LockHolder hold(zone.lock());
    EXPECT_EQ(
        zone.PageblocksByType()[static_cast<size_t>(MigrateType::kMovable)],
        512);
  }
  EXPECT_LE(ResidentBytes(*allocator), before);
}

// 2 MiB of pageblocks, and nothing per page.
TEST(SparseTest, MemoryNeverUsedCostsItsPageblocks) {
  for (const KernelVersion version :
       {KernelVersion::kV5_3, KernelVersion::kV6_1}) {
    const auto allocator =
        MakeAllocator({.memory = {PagesFrom(kNormalStart, 1024 * kGibPages)},
                       .placement = {.rules = version}});
    constexpr uint64_t kPageblocks = 1024 * kGibPages / 512 * 2;
    EXPECT_LE(ResidentBytes(*allocator), kPageblocks + kMargin);
    // What is used first takes what it takes in a small guest.
    const auto block = allocator->Allocate(0, Order(0));
    ASSERT_TRUE(block.has_value());
    EXPECT_LE(ResidentBytes(*allocator), kPageblocks + kMargin);
    EXPECT_EQ(allocator->Counts().free, PageCount(1024 * kGibPages) -
                                            PageCount(1) -
                                            allocator->Counts().cached);
  }
}

TEST(SparseTest, RoomForHotplugCostsNothing) {
  const auto allocator =
      MakeAllocator({.memory = {PagesFrom(kNormalStart, kGibPages)},
                     .hotplug_end = Pfn(uint64_t{1024} * kGibPages)});
  EXPECT_LE(ResidentBytes(*allocator), kBytesPerGib + kMargin);
}

TEST(SparseTest, RemovedMemoryGivesItsMetadataBack) {
  const auto allocator =
      MakeAllocator({.memory = {PagesFrom(kNormalStart, kGibPages)},
                     .hotplug_end = Pfn(uint64_t{64} * kGibPages),
                     .min_free_kbytes = 0});
  MemoryHotplug hotplug(*allocator);
  const PfnRange added = {Pfn(uint64_t{32} * kGibPages),
                          Pfn(uint64_t{34} * kGibPages)};
  ASSERT_EQ(hotplug.Add(added, 0), absl::OkStatus());
  ASSERT_EQ(hotplug.Online(added, ZoneType::kMovable), absl::OkStatus());
  const std::vector<Pfn> blocks = TakeAll(*allocator, 0, Order(0), kGfpUser);
  // Normal's reserve against movable requests, 1/32 of Movable, stays unused.
  EXPECT_GE(ResidentBytes(*allocator),
            3 * kBytesPerGib - 2 * kBytesPerGib / 32 - kMargin);
  EXPECT_LE(ResidentBytes(*allocator), 3 * kBytesPerGib + kMargin);
  FreeAll(*allocator, 0, blocks, Order(0));
  allocator->DrainPerCpuPages();
  ASSERT_EQ(hotplug.Offline(added), absl::OkStatus());
  ASSERT_EQ(hotplug.Remove(added), absl::OkStatus());
  // Except for the pageblocks, 1 KiB per GiB.
  EXPECT_LE(ResidentBytes(*allocator), kBytesPerGib + kMargin);
  ExpectInvariants(*allocator);
}

}  // namespace
}  // namespace guestmm::sparse_test
