// The event index (VIRTIO_F_EVENT_IDX): each side with the test as the other.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "guestmm/virtio/device/device_queue.h"
#include "guestmm/virtio/driver/driver_queue.h"
#include "tests/virtio/virtio_testing.h"

namespace guestmm::event_index_test {
namespace {

constexpr VirtqueueFeatures kEventIndex = {.event_index = true};

uint16_t Index(int value) { return static_cast<uint16_t>(value); }

// The definition, entry by entry.
bool NaiveNeedsEvent(uint16_t event, uint16_t idx, uint64_t moved) {
  for (uint64_t i = 1; i <= moved; ++i) {
    if (static_cast<uint16_t>(idx - i) == event) return true;
  }
  return false;
}

TEST(NeedsEvent, MatchesTheDefinitionEntryByEntry) {
  for (const int idx : {0, 1, 2, 0x7fff, 0x8000, 0xfffe, 0xffff}) {
    for (int event = idx - 70; event <= idx + 70; ++event) {
      for (const uint64_t moved : {0, 1, 2, 3, 32, 64, 0xffff, 0x10000}) {
        ASSERT_EQ(NeedsEvent(Index(event), Index(idx), moved),
                  NaiveNeedsEvent(Index(event), Index(idx), moved))
            << event << " " << idx << " " << moved;
      }
    }
  }
}

// §2.7.7.2's example: "after the first buffer is used (and again after the
// 65536th buffer, etc)".
TEST(NeedsEvent, S2_7_7_2_WrapsAroundAfterSixteenBits) {
  int notifications = 0;
  for (int used = 1; used <= 3 * 0x10000; ++used) {
    if (!NeedsEvent(0, Index(used), 1)) continue;
    EXPECT_EQ(used % 0x10000, 1);
    ++notifications;
  }
  EXPECT_EQ(notifications, 3);
}

// Both sides of a ring of 4 whose indexes start at the parameter. The test
// reads and forges the events in memory.
class EventIndexTest : public ::testing::TestWithParam<uint16_t> {
 protected:
  void Add() {
    const GpaRange page = {Gpa(0x8000), kPageSize};
    ASSERT_TRUE(driver_.Add({}, {&page, 1}, 0).ok());
  }
  void TakeAndGiveBack() { device_.Push(device_.Pop().value()->head, 0); }
  void TakeBack() { ASSERT_TRUE(driver_.GetUsed()->has_value()); }
  // The index of the entry `n` entries after the start.
  static uint16_t At(int n) { return Index(GetParam() + n); }

  const std::unique_ptr<GuestRam> ram_ = MakeRam({{Gpa(0), 64 * kKiB}});
  const VirtqueueLayout layout_ = LayOutVirtqueue(Gpa(0), 4);
  DriverQueue driver_ =
      DriverQueue::Create(*ram_, layout_,
                          {.features = kEventIndex, .start = GetParam()})
          .value();
  DeviceQueue device_ =
      DeviceQueue::Create(*ram_, layout_, kEventIndex, GetParam()).value();
  const VirtqueueMemory memory_ = VirtqueueMemory::Map(*ram_, layout_).value();
};

INSTANTIATE_TEST_SUITE_P(Starts, EventIndexTest,
                         ::testing::Values(0, 1, 0x7fff, 0xfffd, 0xfffe,
                                           0xffff));

TEST_P(EventIndexTest, BothSidesInitiallyWantNotifications) {
  EXPECT_EQ(memory_.avail_event().load(), At(0));
  EXPECT_EQ(memory_.used_event().load(), At(0));
  Add();
  EXPECT_TRUE(driver_.NeedsKick());
  TakeAndGiveBack();
  EXPECT_TRUE(device_.NeedsNotification());
}

TEST_P(EventIndexTest, S2_7_10_1_KicksIfTheEntryIsTheOneAskedFor) {
  memory_.avail_event().store(At(2));
  Add();
  EXPECT_FALSE(driver_.NeedsKick());
  Add();
  EXPECT_FALSE(driver_.NeedsKick());
  Add();
  EXPECT_TRUE(driver_.NeedsKick());
  EXPECT_FALSE(driver_.NeedsKick()) << "nothing was added since";
  Add();
  EXPECT_FALSE(driver_.NeedsKick());
}

TEST_P(EventIndexTest, S2_7_10_1_KicksIfItIsOneOfSeveralAdded) {
  memory_.avail_event().store(At(1));
  Add();
  Add();
  Add();
  EXPECT_TRUE(driver_.NeedsKick());
}

TEST_P(EventIndexTest, S2_7_10_1_IgnoresUsedFlags) {
  memory_.used_flags().store(kVirtqUsedNoNotify);
  Add();
  EXPECT_TRUE(driver_.NeedsKick());
  memory_.used_flags().store(0);
  Add();
  EXPECT_FALSE(driver_.NeedsKick());
}

TEST_P(EventIndexTest, S2_7_7_2_NotifiesIfTheEntryIsTheOneAskedFor) {
  for (int i = 0; i < 4; ++i) Add();
  memory_.used_event().store(At(2));
  TakeAndGiveBack();
  EXPECT_FALSE(device_.NeedsNotification());
  TakeAndGiveBack();
  EXPECT_FALSE(device_.NeedsNotification());
  TakeAndGiveBack();
  EXPECT_TRUE(device_.NeedsNotification());
  EXPECT_FALSE(device_.NeedsNotification()) << "nothing was pushed since";
  TakeAndGiveBack();
  EXPECT_FALSE(device_.NeedsNotification());
}

TEST_P(EventIndexTest, S2_7_7_2_IgnoresAvailableFlags) {
  Add();
  Add();
  memory_.available_flags().store(kVirtqAvailNoInterrupt);
  TakeAndGiveBack();
  EXPECT_TRUE(device_.NeedsNotification());
  memory_.available_flags().store(0);
  TakeAndGiveBack();
  EXPECT_FALSE(device_.NeedsNotification());
}

TEST_P(EventIndexTest, S2_7_7_1_And_S2_7_10_2_FlagsStayZero) {
  driver_.DisableNotifications();
  device_.DisableNotifications();
  EXPECT_EQ(memory_.available_flags().load(), 0);
  EXPECT_EQ(memory_.used_flags().load(), 0);
  driver_.EnableNotifications();
  device_.EnableNotifications();
  EXPECT_EQ(memory_.available_flags().load(), 0);
  EXPECT_EQ(memory_.used_flags().load(), 0);
}

// A side that does not disable notifications gets one for each chain that it
// waits for.
TEST_P(EventIndexTest, EachChainTakenMovesTheEvent) {
  for (int i = 1; i <= 6; ++i) {
    Add();
    EXPECT_TRUE(driver_.NeedsKick());
    TakeAndGiveBack();
    EXPECT_EQ(memory_.avail_event().load(), At(i));
    EXPECT_TRUE(device_.NeedsNotification());
    TakeBack();
    EXPECT_EQ(memory_.used_event().load(), At(i));
  }
}

TEST_P(EventIndexTest, NeitherSideIsNotifiedWhileDisabled) {
  device_.DisableNotifications();
  driver_.DisableNotifications();
  for (int i = 0; i < 20; ++i) {
    Add();
    EXPECT_FALSE(driver_.NeedsKick());
    TakeAndGiveBack();
    EXPECT_FALSE(device_.NeedsNotification());
    TakeBack();
  }
}

TEST_P(EventIndexTest,
       S2_7_14_EnablingNotificationsReturnsWhetherChainsWereMissed) {
  driver_.DisableNotifications();
  device_.DisableNotifications();
  EXPECT_FALSE(device_.EnableNotifications());
  device_.DisableNotifications();
  Add();
  EXPECT_TRUE(device_.EnableNotifications());
  TakeAndGiveBack();
  EXPECT_TRUE(driver_.EnableNotifications());
  TakeBack();
  EXPECT_FALSE(driver_.EnableNotifications());
  Add();
  EXPECT_TRUE(driver_.NeedsKick());
  TakeAndGiveBack();
  EXPECT_TRUE(device_.NeedsNotification());
}

// Both sides poll, and do not ask whether to notify for 65536 entries, after
// which the indexes are the same again. One of the entries was the event.
TEST_P(EventIndexTest, KicksAndNotifiesAfterAWholeRound) {
  for (int i = 0; i < 0x10000; ++i) {
    Add();
    TakeAndGiveBack();
    TakeBack();
  }
  EXPECT_TRUE(driver_.NeedsKick());
  EXPECT_TRUE(device_.NeedsNotification());
}

// A device may take over from another one at any index.
TEST_P(EventIndexTest, ANewDeviceAsksForTheFirstKick) {
  memory_.avail_event().store(At(-7));
  DeviceQueue device =
      DeviceQueue::Create(*ram_, layout_, kEventIndex, GetParam()).value();
  Add();
  EXPECT_TRUE(driver_.NeedsKick());
}

// Without the feature the two words are ignored.
TEST(NoEventIndex, S2_7_7_2_And_S2_7_10_1_EventsAreIgnored) {
  const auto ram = MakeRam({{Gpa(0), 64 * kKiB}});
  const VirtqueueLayout layout = LayOutVirtqueue(Gpa(0), 4);
  DriverQueue driver = DriverQueue::Create(*ram, layout).value();
  DeviceQueue device = DeviceQueue::Create(*ram, layout).value();
  const VirtqueueMemory memory = VirtqueueMemory::Map(*ram, layout).value();
  memory.used_event().store(0x1234);
  memory.avail_event().store(0x1234);
  const GpaRange page = {Gpa(0x8000), kPageSize};
  for (int i = 0; i < 3; ++i) {
    driver.DisableNotifications();
    device.DisableNotifications();
    ASSERT_TRUE(driver.Add({}, {&page, 1}, 0).ok());
    EXPECT_FALSE(driver.NeedsKick());
    EXPECT_TRUE(device.EnableNotifications());
    EXPECT_TRUE(driver.NeedsKick());
    device.Push(device.Pop().value()->head, 0);
    EXPECT_FALSE(device.NeedsNotification());
    EXPECT_TRUE(driver.EnableNotifications());
    EXPECT_TRUE(device.NeedsNotification());
    ASSERT_TRUE(driver.GetUsed()->has_value());
  }
  EXPECT_EQ(memory.used_event().load(), 0x1234);
  EXPECT_EQ(memory.avail_event().load(), 0x1234);
}

// A hostile event only affects the side that wrote it: the other one handles
// it.
TEST_P(EventIndexTest, AnyEventIsHandled) {
  for (int event = 0; event < 0x10000; event += 0x101) {
    memory_.avail_event().store(Index(event));
    memory_.used_event().store(Index(event));
    const uint16_t entry = memory_.available_idx().load();
    Add();
    EXPECT_EQ(driver_.NeedsKick(), Index(event) == entry);
    TakeAndGiveBack();
    EXPECT_EQ(device_.NeedsNotification(), Index(event) == entry);
    TakeBack();
  }
}

}  // namespace
}  // namespace guestmm::event_index_test
