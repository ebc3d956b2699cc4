// Indirect descriptors (VIRTIO_F_INDIRECT_DESC): each side with the test as the
// other.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <vector>

#include "guestmm/virtio/device/device_queue.h"
#include "guestmm/virtio/driver/driver_queue.h"
#include "tests/virtio/virtio_testing.h"

namespace guestmm::indirect_test {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr VirtqueueFeatures kIndirect = {.indirect = true};

VirtqDesc Page(uint64_t gpa) {
  return {.addr = gpa, .len = kPageSize, .flags = kVirtqDescWrite, .next = 0};
}

// The driver side of a ring of 4, followed by two tables of 3 entries.
class DriverIndirectTest : public ::testing::Test {
 protected:
  absl::Status AddPages(size_t count, uint64_t token = 0) {
    std::vector<GpaRange> pages;
    for (size_t i = 0; i < count; ++i) {
      pages.push_back({Gpa(0x8000 + i * kPageSize), kPageSize});
    }
    return queue_.Add({}, pages, token);
  }
  // The head of the chain added last.
  VirtqDesc LastHead() {
    return memory_.LoadDescriptor(
        memory_
            .available_ring(memory_.slot(
                static_cast<uint16_t>(memory_.available_idx().load() - 1)))
            .load());
  }
  void Use(uint16_t slot) {
    const uint16_t idx = memory_.used_idx().load();
    memory_.StoreUsed(memory_.slot(idx),
                      {.id = memory_.available_ring(slot).load(), .len = 0});
    memory_.used_idx().store(static_cast<uint16_t>(idx + 1));
  }

  const std::unique_ptr<GuestRam> ram_ = MakeRam({{Gpa(0), 64 * kKiB}});
  const VirtqueueLayout layout_ = LayOutVirtqueue(Gpa(0), 4);
  const IndirectTables tables_ = LayOutTables(layout_, 2, 3);
  DriverQueue queue_ =
      DriverQueue::Create(*ram_, layout_,
                          {.features = kIndirect, .tables = tables_})
          .value();
  const VirtqueueMemory memory_ = VirtqueueMemory::Map(*ram_, layout_).value();
};

TEST_F(DriverIndirectTest, S2_7_5_3_WritesTheTableAsSpecified) {
  const GpaRange readable = {Gpa(0x1000), 8};
  const GpaRange writable[] = {{Gpa(0x2000), 0x2000}, {Gpa(0x8000), 0x1000}};
  ASSERT_TRUE(queue_.Add({&readable, 1}, writable, 7).ok());
  EXPECT_EQ(LastHead(), (VirtqDesc{.addr = tables_.start.value(),
                                   .len = 3 * 16,
                                   .flags = kVirtqDescIndirect,
                                   .next = 0}));
  const Translation table = ram_->Translate({tables_.start, 48}).value();
  const std::byte* const entries = table.bytes().data();
  EXPECT_EQ(LoadDescriptorAt(entries),
            (VirtqDesc{
                .addr = 0x1000, .len = 8, .flags = kVirtqDescNext, .next = 1}));
  EXPECT_EQ(LoadDescriptorAt(entries + 16),
            (VirtqDesc{.addr = 0x2000,
                       .len = 0x2000,
                       .flags = kVirtqDescNext | kVirtqDescWrite,
                       .next = 2}));
  EXPECT_EQ(
      LoadDescriptorAt(entries + 32),
      (VirtqDesc{
          .addr = 0x8000, .len = 0x1000, .flags = kVirtqDescWrite, .next = 0}));
  EXPECT_EQ(queue_.free_descriptors(), 3);
  EXPECT_EQ(queue_.free_tables(), 1);
  EXPECT_TRUE(queue_.CheckInvariants().ok());
}

TEST_F(DriverIndirectTest, S2_7_5_3_1_NoIndirectUnlessNegotiated) {
  queue_ = DriverQueue::Create(*ram_, layout_, {.tables = tables_}).value();
  ASSERT_TRUE(AddPages(3).ok());
  EXPECT_EQ(LastHead().flags, kVirtqDescNext | kVirtqDescWrite);
  EXPECT_EQ(queue_.free_descriptors(), 1);
}

TEST_F(DriverIndirectTest, S2_7_5_3_1_NoChainLongerThanTheQueue) {
  EXPECT_EQ(Message(AddPages(5)), "chain of 5 buffers: must be 1 to 4");
}

TEST_F(DriverIndirectTest, AChainOfOneNeedsNoTable) {
  ASSERT_TRUE(AddPages(1).ok());
  EXPECT_EQ(LastHead(), Page(0x8000));
  EXPECT_EQ(queue_.free_tables(), 2);
}

TEST_F(DriverIndirectTest, AChainTooLongForATableGoesWithout) {
  ASSERT_TRUE(AddPages(4).ok());
  EXPECT_EQ(LastHead().flags, kVirtqDescNext | kVirtqDescWrite);
  EXPECT_EQ(queue_.free_descriptors(), 0);
  // An indirect table does not help here.
  EXPECT_TRUE(absl::IsResourceExhausted(AddPages(2)));
  EXPECT_EQ(queue_.free_tables(), 2);
}

// Of four chains of two buffers the first two get tables; the third takes the
// last descriptors.
TEST_F(DriverIndirectTest, TablesComeBackWithTheirChains) {
  ASSERT_TRUE(AddPages(2, 0).ok());
  ASSERT_TRUE(AddPages(2, 1).ok());
  EXPECT_EQ(queue_.free_tables(), 0);
  ASSERT_TRUE(AddPages(2, 2).ok());
  EXPECT_EQ(queue_.free_descriptors(), 0);
  EXPECT_TRUE(absl::IsResourceExhausted(AddPages(2, 3)));
  EXPECT_TRUE(queue_.CheckInvariants().ok());

  Use(1);
  EXPECT_EQ(queue_.GetUsed().value()->token, 1u);
  EXPECT_EQ(queue_.free_tables(), 1);
  EXPECT_TRUE(queue_.CheckInvariants().ok());
  ASSERT_TRUE(AddPages(2, 3).ok());
  EXPECT_EQ(LastHead().addr, (tables_.start + tables_.table_bytes()).value());
  EXPECT_TRUE(queue_.CheckInvariants().ok());
}

// The device, or a stray write, may change a table. The list of free tables is
// in private memory.
TEST_F(DriverIndirectTest, DoesNotTrustATableThatItWrote) {
  ASSERT_TRUE(AddPages(3, 1).ok());
  std::memset(ram_->Translate({tables_.start, tables_.bytes()})->bytes().data(),
              0xff, tables_.bytes());
  Use(0);
  EXPECT_EQ(queue_.GetUsed().value()->token, 1u);
  EXPECT_EQ(queue_.free_tables(), 2);
  EXPECT_TRUE(queue_.CheckInvariants().ok());
}

TEST_F(DriverIndirectTest, RefusesInvalidTables) {
  const auto refusal = [&](const IndirectTables& tables) {
    const absl::Status status =
        DriverQueue::Create(*ram_, layout_,
                            {.features = kIndirect, .tables = tables})
            .status();
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
    return Message(status);
  };
  EXPECT_EQ(
      refusal({.start = Gpa(0x1000), .count = 1, .entries = 1}),
      "1 indirect tables of 1 entries: must be at most 4, of 2 to 4 entries");
  EXPECT_THAT(refusal({.start = Gpa(0x1000), .count = 1, .entries = 5}),
              HasSubstr("1 indirect tables of 5 entries"));
  EXPECT_THAT(refusal({.start = Gpa(0x1000), .count = 5, .entries = 4}),
              HasSubstr("5 indirect tables of 4 entries"));
  EXPECT_EQ(refusal({.start = Gpa(0x1008), .count = 1, .entries = 4}),
            "indirect tables at gpa 0x1008: must be a multiple of 16");
  EXPECT_EQ(refusal({.start = Gpa(0xffe0), .count = 1, .entries = 3}),
            "indirect tables at gpa 0xffe0, 48 bytes: must be within one "
            "region of guest RAM");
}

TEST_F(DriverIndirectTest, TheTablesStayInGuestRam) {
  EXPECT_TRUE(
      absl::IsFailedPrecondition(ram_->RemoveRegion({Gpa(0), 64 * kKiB})));
  const auto ram = MakeRam({{Gpa(0), 4 * kKiB}, {Gpa(4 * kKiB), 4 * kKiB}});
  {
    const DriverQueue queue =
        DriverQueue::Create(
            *ram, layout_,
            {.features = kIndirect,
             .tables = {.start = Gpa(4 * kKiB), .count = 1, .entries = 4}})
            .value();
    EXPECT_TRUE(absl::IsFailedPrecondition(
        ram->RemoveRegion({Gpa(4 * kKiB), 4 * kKiB})));
  }
  EXPECT_TRUE(ram->RemoveRegion({Gpa(4 * kKiB), 4 * kKiB}).ok());
}

TEST(IndirectTables, OneForAQueueOfThirtyTwoFitsThePageBehindIt) {
  EXPECT_LE(VirtqueueBytes(32, 1, 32), kPageSize);
  const VirtqueueLayout layout = LayOutVirtqueue(Gpa(0), 32);
  const IndirectTables tables = LayOutTables(layout, 1, 32);
  EXPECT_GE(tables.start, layout.used + layout.used_bytes());
  EXPECT_TRUE(tables.start.IsAligned(64));
  EXPECT_EQ(tables.start.value() + tables.bytes(), VirtqueueBytes(32, 1, 32));
}

// The device side of a ring of 4 in two adjacent regions, with a driver that
// may write anything. Tables are at 0x2000 unless the test says otherwise.
class DeviceIndirectTest : public ::testing::Test {
 protected:
  static constexpr uint64_t kTable = 0x2000;

  static VirtqDesc TableOf(uint32_t entries, uint64_t gpa = kTable) {
    return {.addr = gpa,
            .len = entries * 16,
            .flags = kVirtqDescIndirect,
            .next = 0};
  }
  static VirtqDesc Link(uint64_t gpa, uint16_t next) {
    VirtqDesc descriptor = Page(gpa);
    descriptor.flags |= kVirtqDescNext;
    descriptor.next = next;
    return descriptor;
  }
  void Write(const std::vector<VirtqDesc>& entries, uint64_t gpa = kTable) {
    const uint64_t bytes = entries.size() * sizeof(VirtqDesc);
    std::memcpy(ram_->Translate({Gpa(gpa), bytes})->bytes().data(),
                entries.data(), bytes);
  }
  // Checks that the chain [a page, the table that `descriptor` refers to] has
  // `fault`: it has the page but nothing of the table, and can be returned.
  void ExpectFault(VirtqDesc descriptor, TableFault fault) {
    driver_.OfferChain({Page(0x8000), descriptor});
    const auto chain = queue_.Pop();
    ASSERT_TRUE(chain.ok()) << chain.status();
    ASSERT_TRUE(chain->has_value());
    EXPECT_EQ((*chain)->table_fault, fault);
    EXPECT_THAT((*chain)->descriptors, ElementsAre(Link(0x8000, 1)));
    queue_.Push((*chain)->head, 0);
    EXPECT_EQ(driver_.used_idx(), 1);
    EXPECT_EQ(driver_.used(0).id, 0u);
    EXPECT_TRUE(queue_.CheckInvariants().ok());
    // The queue continues.
    driver_.OfferChain({Page(0x9000)});
    EXPECT_THAT(queue_.Pop().value()->descriptors, ElementsAre(Page(0x9000)));
  }

  const std::unique_ptr<GuestRam> ram_ =
      MakeRam({{Gpa(0), 64 * kKiB}, {Gpa(64 * kKiB), 64 * kKiB}});
  const VirtqueueLayout layout_ = LayOutVirtqueue(Gpa(0), 4);
  HostileDriver driver_{*ram_, layout_};
  DeviceQueue queue_ = DeviceQueue::Create(*ram_, layout_, kIndirect).value();
};

// [0] -> [2] -> [1]: entries may be in any order, and some unused.
TEST_F(DeviceIndirectTest, S2_7_5_3_FollowsTheTableFromItsStart) {
  Write({Link(0x8000, 2), Page(0x9000), Link(0xa000, 1)});
  driver_.OfferChain({TableOf(3)});
  const auto chain = queue_.Pop().value();
  EXPECT_EQ(chain->table_fault, TableFault::kNone);
  EXPECT_THAT(chain->descriptors,
              ElementsAre(Link(0x8000, 2), Link(0xa000, 1), Page(0x9000)));
  EXPECT_TRUE(queue_.CheckInvariants().ok());
}

TEST_F(DeviceIndirectTest, S2_7_5_3_2_IgnoresWriteOnTheDescriptorOfTheTable) {
  VirtqDesc readable = Page(0x8000);
  readable.flags = 0;
  Write({readable});
  VirtqDesc table = TableOf(1);
  table.flags |= kVirtqDescWrite;
  driver_.OfferChain({table});
  EXPECT_THAT(queue_.Pop().value()->descriptors, ElementsAre(readable));
}

TEST_F(DeviceIndirectTest, S2_7_5_3_2_HandlesNormalDescriptorsBeforeTheTable) {
  Write({Link(0xa000, 1), Page(0xb000)});
  driver_.OfferChain({Page(0x8000), Page(0x9000), TableOf(2)});
  EXPECT_THAT(queue_.Pop().value()->descriptors,
              ElementsAre(Link(0x8000, 1), Link(0x9000, 2), Link(0xa000, 1),
                          Page(0xb000)));
}

// "Anywhere in memory", even at an odd address.
TEST_F(DeviceIndirectTest, S2_7_5_3_ATableNeedNotBeAligned) {
  for (const uint64_t gpa : {kTable + 1, kTable + 4, kTable + 8}) {
    Write({Link(0x0123456789abcdef, 1), Page(0xb000)}, gpa);
    driver_.OfferChain({TableOf(2, gpa)});
    const auto chain = queue_.Pop().value();
    EXPECT_THAT(chain->descriptors,
                ElementsAre(Link(0x0123456789abcdef, 1), Page(0xb000)));
    queue_.Push(chain->head, 0);
  }
}

TEST_F(DeviceIndirectTest, AChainIsACopyOfTheTableToo) {
  Write({Page(0x8000)});
  driver_.OfferChain({TableOf(1)});
  const auto chain = queue_.Pop().value();
  Write({Page(0xdead000)});
  EXPECT_EQ(chain->descriptors[0].addr, 0x8000u);
}

TEST_F(DeviceIndirectTest, S2_7_5_3_1_LeavesTheFlagToTheCallerIfNotNegotiated) {
  queue_ = DeviceQueue::Create(*ram_, layout_).value();
  Write({Page(0x8000)});
  driver_.OfferChain({TableOf(1), Page(0x9000)});
  const auto chain = queue_.Pop().value();
  ASSERT_EQ(chain->descriptors.size(), 2u);
  EXPECT_EQ(chain->descriptors[0].flags, kVirtqDescIndirect | kVirtqDescNext);
  EXPECT_EQ(chain->table_fault, TableFault::kNone);
}

TEST_F(DeviceIndirectTest, AChainMayHaveOnlyABadTable) {
  driver_.OfferChain({TableOf(0)});
  const auto chain = queue_.Pop().value();
  ASSERT_TRUE(chain.has_value());
  EXPECT_THAT(chain->descriptors, IsEmpty());
  EXPECT_EQ(chain->table_fault, TableFault::kSize);
  queue_.Push(chain->head, 0);
  EXPECT_EQ(driver_.used_idx(), 1);
}

TEST_F(DeviceIndirectTest, SkipsAnEmptyTable) {
  ExpectFault(TableOf(0), TableFault::kSize);
}
TEST_F(DeviceIndirectTest, SkipsATableThatEndsInAPartOfADescriptor) {
  Write({Page(0x8000), Page(0x8000)});
  VirtqDesc table = TableOf(1);
  table.len = 31;
  ExpectFault(table, TableFault::kSize);
}
TEST_F(DeviceIndirectTest, SkipsATableOutsideRam) {
  ExpectFault(TableOf(1, kGiB), TableFault::kOutsideRam);
}
TEST_F(DeviceIndirectTest, SkipsATableThatWrapsTheAddressSpace) {
  ExpectFault(TableOf(2, ~uint64_t{0} - 15), TableFault::kOutsideRam);
}
TEST_F(DeviceIndirectTest, SkipsATableThatRunsOutOfRam) {
  ExpectFault(TableOf(2, 128 * kKiB - 16), TableFault::kOutsideRam);
}
TEST_F(DeviceIndirectTest, SkipsATableAcrossRegions) {
  Write({Page(0x8000)}, 64 * kKiB - 16);
  ExpectFault(TableOf(2, 64 * kKiB - 16), TableFault::kOutsideRam);
}
TEST_F(DeviceIndirectTest, SkipsTheLargestTable) {
  VirtqDesc table = TableOf(0);
  table.len = 0xfffffff0;
  ExpectFault(table, TableFault::kOutsideRam);
}
TEST_F(DeviceIndirectTest, S2_7_5_3_1_SkipsATableInATable) {
  Write({Link(0x8000, 1), TableOf(1)});
  ExpectFault(TableOf(2), TableFault::kNested);
}
TEST_F(DeviceIndirectTest, SkipsATableThatGoesOnPastItsEnd) {
  Write({Link(0x8000, 1), Link(0x9000, 2), Page(0xa000)});
  ExpectFault(TableOf(2), TableFault::kNextPastTable);
}
TEST_F(DeviceIndirectTest, SkipsATableThatLoops) {
  Write({Link(0x8000, 1), Link(0x9000, 0)});
  ExpectFault(TableOf(2), TableFault::kTooLong);
}
TEST_F(DeviceIndirectTest, SkipsATableThatLoopsOnItself) {
  Write({Link(0x8000, 0)});
  ExpectFault(TableOf(1), TableFault::kTooLong);
}

// A page and a table of three are four descriptors; with a table of four, five.
TEST_F(DeviceIndirectTest, S2_7_5_3_1_SkipsATableThatMakesTheChainTooLong) {
  Write({Link(0x8000, 1), Link(0x9000, 2), Page(0xa000)});
  driver_.OfferChain({Page(0x8000), TableOf(3)});
  const auto chain = queue_.Pop().value();
  EXPECT_EQ(chain->descriptors.size(), 4u);
  queue_.Push(chain->head, 0);

  DeviceQueue again =
      DeviceQueue::Create(*ram_, layout_, kIndirect, /*start=*/1).value();
  queue_ = std::move(again);
  driver_.memory().used_idx().store(0);
  Write({Link(0x8000, 1), Link(0x9000, 2), Link(0xa000, 3), Page(0xb000)});
  driver_.OfferChain({Page(0x8000), TableOf(4)});
  const auto longer = queue_.Pop().value();
  EXPECT_EQ(longer->table_fault, TableFault::kTooLong);
  EXPECT_THAT(longer->descriptors, ElementsAre(Link(0x8000, 1)));
}

// The chain ends there, wherever `next` points, even past the end of the table.
TEST_F(DeviceIndirectTest, S2_7_5_3_1_SkipsIndirectWithNext) {
  Write({Page(0xa000)});
  VirtqDesc table = TableOf(1);
  table.flags |= kVirtqDescNext;
  table.next = 0xffff;
  ExpectFault(table, TableFault::kGoesOn);
}

}  // namespace
}  // namespace guestmm::indirect_test
