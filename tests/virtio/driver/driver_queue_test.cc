#include "guestmm/virtio/driver/driver_queue.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <vector>

#include "tests/virtio/virtio_testing.h"

namespace guestmm::driver_queue_test {
namespace {

// The driver side of a ring of 4. The test is the device, honest or not.
class DriverQueueTest : public ::testing::Test {
 protected:
  // Offers a chain of `count` writable pages.
  absl::Status AddPages(size_t count, uint64_t token = 0) {
    std::vector<GpaRange> pages;
    for (size_t i = 0; i < count; ++i) {
      pages.push_back({Gpa(0x8000 + i * kPageSize), kPageSize});
    }
    return queue_.Add({}, pages, token);
  }
  // Puts an element on the used ring, as a device does.
  void Use(uint32_t id, uint32_t len = 0) {
    const uint16_t idx = memory_.used_idx().load();
    memory_.StoreUsed(memory_.slot(idx), {.id = id, .len = len});
    memory_.used_idx().store(static_cast<uint16_t>(idx + 1));
  }
  void ExpectBroken(const std::string& message) {
    const auto used = queue_.GetUsed();
    EXPECT_TRUE(absl::IsDataLoss(used.status()));
    EXPECT_EQ(Message(used.status()), message);
    // The error stays, whatever the ring contains later.
    memory_.used_idx().store(0);
    EXPECT_EQ(queue_.GetUsed().status(), used.status());
    EXPECT_TRUE(queue_.CheckInvariants().ok());
  }
  uint16_t available_head(uint16_t slot) {
    return memory_.available_ring(slot).load();
  }

  const std::unique_ptr<GuestRam> ram_ = MakeRam({{Gpa(0), 64 * kKiB}});
  const VirtqueueLayout layout_ = LayOutVirtqueue(Gpa(0), 4);
  DriverQueue queue_ = DriverQueue::Create(*ram_, layout_).value();
  const VirtqueueMemory memory_ = VirtqueueMemory::Map(*ram_, layout_).value();
};

// Whatever was in memory before, both sides initially want notifications.
TEST_F(DriverQueueTest, S2_7_10_1_ClearsTheFlagsOfBothRings) {
  memory_.used_flags().store(0xffff);
  memory_.available_flags().store(0xffff);
  memory_.used_idx().store(0xffff);
  const DriverQueue again = DriverQueue::Create(*ram_, layout_).value();
  EXPECT_EQ(memory_.used_flags().load(), 0);
  EXPECT_EQ(memory_.available_flags().load(), 0);
  EXPECT_EQ(memory_.used_idx().load(), 0);
}

// Offered chains are never taken back, even if a later one does not fit.
TEST_F(DriverQueueTest, S2_7_6_1_TheAvailableIndexOnlyGrows) {
  uint16_t before = memory_.available_idx().load();
  uint32_t offered = 0;
  while (offered < 0x10010) {
    const bool fits = AddPages(1).ok();
    const uint16_t idx = memory_.available_idx().load();
    ASSERT_EQ(static_cast<uint16_t>(idx - before), fits ? 1 : 0);
    before = idx;
    if (fits) {
      ++offered;
      continue;
    }
    Use(available_head(memory_.slot(static_cast<uint16_t>(idx - 4))));
    ASSERT_TRUE(queue_.GetUsed().value().has_value());
    ASSERT_EQ(memory_.available_idx().load(), idx);
  }
}

// Readable buffers come first; all but the last descriptor have NEXT.
TEST_F(DriverQueueTest, S2_7_4_2_WritesTheChainAsSpecified) {
  const GpaRange readable = {Gpa(0x1000), 8};
  const GpaRange writable[] = {{Gpa(0x2000), 0x2000}, {Gpa(0x8000), 0x1000}};
  ASSERT_TRUE(queue_.Add({&readable, 1}, writable, 7).ok());

  EXPECT_EQ(memory_.available_idx().load(), 1);
  const uint16_t head = available_head(0);
  const VirtqDesc first = memory_.LoadDescriptor(head);
  EXPECT_EQ(first.addr, 0x1000u);
  EXPECT_EQ(first.len, 8u);
  EXPECT_EQ(first.flags, kVirtqDescNext);
  const VirtqDesc second = memory_.LoadDescriptor(first.next);
  EXPECT_EQ(second.addr, 0x2000u);
  EXPECT_EQ(second.flags, kVirtqDescNext | kVirtqDescWrite);
  const VirtqDesc third = memory_.LoadDescriptor(second.next);
  EXPECT_EQ(third.len, 0x1000u);
  EXPECT_EQ(third.flags, kVirtqDescWrite);
  EXPECT_EQ(queue_.free_descriptors(), 1);
  EXPECT_EQ(queue_.outstanding(), 1);
  EXPECT_TRUE(queue_.CheckInvariants().ok());
}

TEST_F(DriverQueueTest, RefusesAChainThatDoesNotFitNow) {
  ASSERT_TRUE(AddPages(3, 1).ok());
  const absl::Status status = AddPages(2, 2);
  EXPECT_TRUE(absl::IsResourceExhausted(status));
  EXPECT_EQ(Message(status),
            "chain of 2 buffers: only 1 of 4 descriptors are free");
  EXPECT_EQ(memory_.available_idx().load(), 1) << "something was offered";
  Use(available_head(0));
  EXPECT_EQ(queue_.GetUsed().value()->token, 1u);
  EXPECT_TRUE(AddPages(2, 2).ok());
}

TEST_F(DriverQueueTest, RefusesAChainThatNeverFits) {
  EXPECT_EQ(Message(AddPages(0)), "chain of 0 buffers: must be 1 to 4");
  EXPECT_EQ(Message(AddPages(5)), "chain of 5 buffers: must be 1 to 4");
  const GpaRange empty = {Gpa(0), 0};
  EXPECT_EQ(Message(queue_.Add({}, {&empty, 1}, 0)),
            "buffer of 0 bytes: must be 1 to 2^32-1");
  EXPECT_TRUE(absl::IsInvalidArgument(queue_.Add({&empty, 1}, {}, 0)));
  const GpaRange large = {Gpa(0), 4 * kGiB};
  EXPECT_EQ(Message(queue_.Add({&large, 1}, {}, 0)),
            "buffer of 4294967296 bytes: must be 1 to 2^32-1");
  EXPECT_EQ(queue_.free_descriptors(), 4);
  EXPECT_EQ(memory_.available_idx().load(), 0);
}

TEST_F(DriverQueueTest, S2_7_5_2_AChainHoldsAtMostFourGibibytes) {
  const GpaRange half = {Gpa(0), 2 * kGiB};
  const GpaRange one = {Gpa(0), 1};
  const GpaRange halves[] = {half, half};
  EXPECT_TRUE(queue_.Add(halves, {}, 0).ok());
  EXPECT_EQ(Message(queue_.Add({&one, 1}, halves, 0)),
            "chain of 4294967297 bytes: must be at most 4294967296");
}

TEST_F(DriverQueueTest, TakesChainsBackInAnyOrder) {
  for (uint64_t token = 10; token < 14; ++token) {
    ASSERT_TRUE(AddPages(1, token).ok());
  }
  for (const uint16_t slot : {2, 0, 3, 1}) Use(available_head(slot), slot);
  for (const uint16_t slot : {2, 0, 3, 1}) {
    const auto used = queue_.GetUsed().value();
    EXPECT_EQ(used->token, 10u + slot);
    EXPECT_EQ(used->bytes_written, slot);
    EXPECT_TRUE(queue_.CheckInvariants().ok());
  }
  EXPECT_FALSE(queue_.GetUsed()->has_value());
  EXPECT_EQ(queue_.free_descriptors(), 4);
}

// The device may overwrite the descriptor table: the free list is not there.
TEST_F(DriverQueueTest, DoesNotTrustItsOwnTable) {
  ASSERT_TRUE(AddPages(3, 1).ok());
  const uint16_t head = available_head(0);
  for (uint16_t i = 0; i < 4; ++i) {
    memory_.StoreDescriptor(i, {.addr = 0, .len = 0, .flags = 1, .next = 999});
  }
  Use(head);
  EXPECT_EQ(queue_.GetUsed().value()->token, 1u);
  EXPECT_TRUE(queue_.CheckInvariants().ok());
  EXPECT_TRUE(AddPages(4, 2).ok());
}

TEST_F(DriverQueueTest, BreaksIfTheUsedIndexJumps) {
  ASSERT_TRUE(AddPages(1).ok());
  memory_.used_idx().store(2);
  ExpectBroken("used index moved from 0 to 2, with 1 chains outstanding");
}

TEST_F(DriverQueueTest, BreaksIfTheUsedIndexMovesBack) {
  ASSERT_TRUE(AddPages(1).ok());
  memory_.used_idx().store(0xffff);
  ExpectBroken("used index moved from 0 to 65535, with 1 chains outstanding");
}

TEST_F(DriverQueueTest, BreaksOnAChainPastTheTable) {
  ASSERT_TRUE(AddPages(1).ok());
  Use(4);
  ExpectBroken("used ring has head 4, whose chain is not outstanding");
}

// Only the low 16 bits of this id are those of an outstanding chain.
TEST_F(DriverQueueTest, BreaksOnAnIdOfMoreThanSixteenBits) {
  ASSERT_TRUE(AddPages(1).ok());
  Use(0x10000u + available_head(0));
  ExpectBroken("used ring has head 65536, whose chain is not outstanding");
}

TEST_F(DriverQueueTest, BreaksOnTheMiddleOfAChain) {
  ASSERT_TRUE(AddPages(2).ok());
  Use(memory_.LoadDescriptor(available_head(0)).next);
  ExpectBroken("used ring has head 1, whose chain is not outstanding");
}

TEST_F(DriverQueueTest, BreaksOnAChainGivenBackTwice) {
  ASSERT_TRUE(AddPages(1).ok());
  ASSERT_TRUE(AddPages(1).ok());
  Use(available_head(0));
  Use(available_head(0));
  EXPECT_TRUE(queue_.GetUsed().ok());
  ExpectBroken("used ring has head 0, whose chain is not outstanding");
}

TEST_F(DriverQueueTest, BreaksIfMoreWasWrittenThanTheChainHolds) {
  const GpaRange readable = {Gpa(0x1000), 0x1000};
  const GpaRange writable = {Gpa(0x2000), 0x1000};
  ASSERT_TRUE(queue_.Add({&readable, 1}, {&writable, 1}, 0).ok());
  Use(available_head(0), 0x1001);
  ExpectBroken(
      "used ring has 4097 bytes written to chain 0, which has room for 4096");
}

TEST_F(DriverQueueTest, S2_7_10_KicksUnlessTheDeviceDisabledIt) {
  EXPECT_TRUE(queue_.NeedsKick());
  memory_.used_flags().store(kVirtqUsedNoNotify);
  EXPECT_FALSE(queue_.NeedsKick());
  // The other bits are reserved, and ignored.
  memory_.used_flags().store(static_cast<uint16_t>(~kVirtqUsedNoNotify));
  EXPECT_TRUE(queue_.NeedsKick());
}

TEST_F(DriverQueueTest,
       S2_7_7_EnablingNotificationsReturnsWhetherChainsWereMissed) {
  ASSERT_TRUE(AddPages(1).ok());
  queue_.DisableNotifications();
  EXPECT_EQ(memory_.available_flags().load(), kVirtqAvailNoInterrupt);
  EXPECT_FALSE(queue_.EnableNotifications());
  EXPECT_EQ(memory_.available_flags().load(), 0);
  queue_.DisableNotifications();
  Use(available_head(0));
  EXPECT_TRUE(queue_.EnableNotifications());
}

TEST(DriverQueue, RefusesALayoutThatIsNotInRam) {
  const auto ram = MakeRam({{Gpa(0), 64 * kKiB}});
  EXPECT_TRUE(absl::IsInvalidArgument(
      DriverQueue::Create(*ram, LayOutVirtqueue(Gpa(kGiB), 4)).status()));
}

}  // namespace
}  // namespace guestmm::driver_queue_test
