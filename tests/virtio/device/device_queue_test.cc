#include "guestmm/virtio/device/device_queue.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <thread>

#include "guestmm/base/random.h"
#include "tests/virtio/virtio_testing.h"

namespace guestmm::device_queue_test {
namespace {

using ::testing::ElementsAre;

// The device side of a ring of 4, with a driver that may write anything.
class DeviceQueueTest : public ::testing::Test {
 protected:
  static VirtqDesc Page(uint64_t gpa) {
    return {.addr = gpa, .len = kPageSize, .flags = kVirtqDescWrite, .next = 0};
  }
  // A descriptor that continues at `next`.
  static VirtqDesc Link(uint16_t next) {
    return {.addr = 0,
            .len = kPageSize,
            .flags = kVirtqDescNext | kVirtqDescWrite,
            .next = next};
  }
  void ExpectBroken(const std::string& message) {
    const auto chain = queue_.Pop();
    EXPECT_TRUE(absl::IsDataLoss(chain.status()));
    EXPECT_EQ(Message(chain.status()), message);
    // The error stays, whatever the driver writes.
    driver_.memory().Clear();
    EXPECT_EQ(queue_.Pop().status(), chain.status());
    EXPECT_EQ(driver_.used_idx(), 0) << "acknowledged something";
    EXPECT_TRUE(queue_.CheckInvariants().ok());
  }

  const std::unique_ptr<GuestRam> ram_ = MakeRam({{Gpa(0), 64 * kKiB}});
  const VirtqueueLayout layout_ = LayOutVirtqueue(Gpa(0), 4);
  HostileDriver driver_{*ram_, layout_};
  DeviceQueue queue_ = DeviceQueue::Create(*ram_, layout_).value();
};

TEST_F(DeviceQueueTest, PopsNothingFromAnEmptyRing) {
  EXPECT_FALSE(queue_.Pop()->has_value());
  EXPECT_EQ(queue_.outstanding(), 0);
}

// [0] -> [3] -> [1]: descriptors may be in any order.
TEST_F(DeviceQueueTest, FollowsAChainAcrossTheTable) {
  VirtqDesc first = Link(3), second = Link(1), third = Page(0x3000);
  driver_.Describe(0, first);
  driver_.Describe(3, second);
  driver_.Describe(1, third);
  driver_.Offer(0);
  const auto chain = queue_.Pop().value();
  ASSERT_TRUE(chain.has_value());
  EXPECT_EQ(chain->head, 0);
  EXPECT_THAT(chain->descriptors, ElementsAre(first, second, third));
  EXPECT_EQ(queue_.outstanding(), 1);
  EXPECT_TRUE(queue_.CheckInvariants().ok());

  queue_.Push(0, 17);
  EXPECT_EQ(driver_.used_idx(), 1);
  EXPECT_EQ(driver_.used(0).id, 0u);
  EXPECT_EQ(driver_.used(0).len, 17u);
  EXPECT_EQ(queue_.outstanding(), 0);
}

// Changing a descriptor after Pop has no effect.
TEST_F(DeviceQueueTest, AChainIsACopy) {
  driver_.OfferChain({Page(0x1000)});
  const auto chain = queue_.Pop().value();
  driver_.Describe(0, Page(0xdead000));
  EXPECT_EQ(chain->descriptors[0].addr, 0x1000u);
}

TEST_F(DeviceQueueTest, AChainMayBeAsLongAsTheQueue) {
  driver_.OfferChain({Page(0), Page(0x1000), Page(0x2000), Page(0x3000)});
  EXPECT_EQ(queue_.Pop().value()->descriptors.size(), 4u);
}

TEST_F(DeviceQueueTest, GivesChainsBackInAnyOrder) {
  for (uint16_t i = 0; i < 4; ++i) {
    driver_.Describe(i, Page(i * kPageSize));
    driver_.Offer(i);
  }
  for (int i = 0; i < 4; ++i) ASSERT_TRUE(queue_.Pop()->has_value());
  for (const uint16_t head : {2, 0, 3, 1}) queue_.Push(head, 0);
  EXPECT_EQ(driver_.used(0).id, 2u);
  EXPECT_EQ(driver_.used(3).id, 1u);
  EXPECT_TRUE(queue_.CheckInvariants().ok());
}

TEST_F(DeviceQueueTest, BreaksIfTheIndexJumpsAhead) {
  driver_.JumpTo(5);
  ExpectBroken(
      "available index moved from 0 to 5, with 0 chains outstanding in a queue "
      "of 4");
}

TEST_F(DeviceQueueTest, BreaksIfTheIndexMovesBack) {
  driver_.JumpTo(0xffff);
  ExpectBroken(
      "available index moved from 0 to 65535, with 0 chains outstanding in a "
      "queue of 4");
}

// For each outstanding chain the driver has one descriptor less.
TEST_F(DeviceQueueTest, BreaksIfMoreIsAvailableThanPossible) {
  driver_.OfferChain({Page(0)});
  ASSERT_TRUE(queue_.Pop()->has_value());
  driver_.JumpTo(5);
  ExpectBroken(
      "available index moved from 1 to 5, with 1 chains outstanding in a queue "
      "of 4");
}

TEST_F(DeviceQueueTest, BreaksOnAHeadPastTheTable) {
  driver_.Offer(4);
  ExpectBroken("available ring has head 4, past the end of a table of 4");
}

TEST_F(DeviceQueueTest, BreaksOnANextPastTheTable) {
  driver_.Describe(2, Link(0xffff));
  driver_.Offer(2);
  ExpectBroken("descriptor 2 continues at 65535, past the end of a table of 4");
}

TEST_F(DeviceQueueTest, BreaksOnTheFirstNextPastTheTable) {
  driver_.Describe(0, Link(4));
  driver_.Offer(0);
  ExpectBroken("descriptor 0 continues at 4, past the end of a table of 4");
}

TEST_F(DeviceQueueTest, BreaksOnAChainOfOneThatLoops) {
  driver_.Describe(1, Link(1));
  driver_.Offer(1);
  ExpectBroken("chain 1 is longer than the queue of 4: it loops");
}

TEST_F(DeviceQueueTest, BreaksOnALongLoop) {
  for (uint16_t i = 0; i < 4; ++i) {
    driver_.Describe(i, Link(static_cast<uint16_t>((i + 1) % 4)));
  }
  driver_.Offer(2);
  ExpectBroken("chain 2 is longer than the queue of 4: it loops");
}

TEST_F(DeviceQueueTest, BreaksOnAChainThatIsOutstanding) {
  driver_.OfferChain({Page(0)});
  ASSERT_TRUE(queue_.Pop()->has_value());
  driver_.Offer(0);
  ExpectBroken("available ring has head 0, whose chain is outstanding already");
}

TEST_F(DeviceQueueTest, S2_7_7_NotifiesUnlessTheDriverDisabledIt) {
  EXPECT_TRUE(queue_.NeedsNotification());
  driver_.SuppressNotifications();
  EXPECT_FALSE(queue_.NeedsNotification());
}

TEST_F(DeviceQueueTest, S2_7_10_EnablingKicksReturnsWhetherChainsWereMissed) {
  queue_.DisableNotifications();
  EXPECT_EQ(driver_.memory().used_flags().load(), kVirtqUsedNoNotify);
  EXPECT_FALSE(queue_.EnableNotifications());
  EXPECT_EQ(driver_.memory().used_flags().load(), 0);
  queue_.DisableNotifications();
  driver_.OfferChain({Page(0)});
  EXPECT_TRUE(queue_.EnableNotifications());
}

using DeviceQueueDeathTest = DeviceQueueTest;

TEST_F(DeviceQueueDeathTest, PushOfAChainThatIsNotOutstanding) {
  EXPECT_DEATH(queue_.Push(0, 0), "chain 0 pushed, but not outstanding");
  EXPECT_DEATH(queue_.Push(4, 0), "chain 4 pushed, but not outstanding");
  driver_.OfferChain({Page(0)});
  ASSERT_TRUE(queue_.Pop()->has_value());
  queue_.Push(0, 0);
  EXPECT_DEATH(queue_.Push(0, 0), "chain 0 pushed, but not outstanding");
}

TEST(DeviceQueue, RefusesALayoutThatIsNotInRam) {
  const auto ram = MakeRam({{Gpa(0), 64 * kKiB}});
  EXPECT_TRUE(absl::IsInvalidArgument(
      DeviceQueue::Create(*ram, LayOutVirtqueue(Gpa(kGiB), 4)).status()));
}

// A vCPU writes random words to the ring while the device reads it. The chains
// make no sense, but each is complete and within bounds.
TEST(DeviceQueue, SurvivesAGuestThatWritesWhileItReads) {
  const auto ram = MakeRam({{Gpa(0), 64 * kKiB}});
  const VirtqueueLayout layout = LayOutVirtqueue(Gpa(0), 4);
  const VirtqueueMemory memory = VirtqueueMemory::Map(*ram, layout).value();
  std::atomic<bool> stop = false;
  std::thread vcpu([&] {
    Random random(1);
    while (!stop.load()) {
      const auto r = static_cast<uint16_t>(random.Below(5));
      memory.StoreDescriptor(static_cast<uint16_t>(random.Below(4)),
                             {.addr = random.Next(),
                              .len = static_cast<uint32_t>(random.Next()),
                              .flags = r,
                              .next = r});
      memory.available_ring(static_cast<uint16_t>(random.Below(4))).store(r);
      memory.available_idx().store(
          static_cast<uint16_t>(memory.available_idx().load() + (r == 0)));
    }
  });
  uint64_t popped = 0;
  for (int round = 0; round < 2000; ++round) {
    memory.available_idx().store(0);
    DeviceQueue queue = DeviceQueue::Create(*ram, layout).value();
    for (int i = 0; i < 16; ++i) {
      const auto chain = queue.Pop();
      if (!chain.ok()) break;
      if (!chain->has_value()) continue;
      ++popped;
      EXPECT_LE((*chain)->descriptors.size(), 4u);
      if (i % 2 == 0) queue.Push((*chain)->head, 0);
      EXPECT_TRUE(queue.CheckInvariants().ok());
    }
  }
  stop = true;
  vcpu.join();
  RecordProperty("popped", static_cast<int>(popped));
}

}  // namespace
}  // namespace guestmm::device_queue_test
