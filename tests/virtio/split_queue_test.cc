// Both sides of a split virtqueue together.

#include <gtest/gtest.h>

#include <atomic>
#include <deque>
#include <thread>
#include <vector>

#include "guestmm/base/random.h"
#include "guestmm/virtio/device/device_queue.h"
#include "guestmm/virtio/driver/driver_queue.h"
#include "tests/virtio/virtio_testing.h"

namespace guestmm::split_queue_test {
namespace {

// Both sides of a ring of 4 whose indexes start at the parameter.
class SplitQueueTest : public ::testing::TestWithParam<uint16_t> {
 protected:
  void CheckInvariants() {
    ASSERT_TRUE(driver_.CheckInvariants().ok()) << driver_.CheckInvariants();
    ASSERT_TRUE(device_.CheckInvariants().ok()) << device_.CheckInvariants();
  }

  const std::unique_ptr<GuestRam> ram_ = MakeRam({{Gpa(0), 64 * kKiB}});
  const VirtqueueLayout layout_ = LayOutVirtqueue(Gpa(0x1000), 4);
  DriverQueue driver_ =
      DriverQueue::Create(*ram_, layout_, {.start = GetParam()}).value();
  DeviceQueue device_ =
      DeviceQueue::Create(*ram_, layout_, {}, GetParam()).value();
};

INSTANTIATE_TEST_SUITE_P(Starts, SplitQueueTest,
                         ::testing::Values(0, 1, 0x7fff, 0xfffd, 0xffff));

// A long random program: chains of random length, returned in random order.
// Tokens, byte counts and addresses arrive as they were sent.
TEST_P(SplitQueueTest, EveryChainComesBackOnce) {
  struct Sent {
    uint64_t token;
    std::vector<GpaRange> readable;
    std::vector<GpaRange> writable;
  };
  struct Out {
    uint16_t head;
    Sent sent;
  };
  Random random(GetParam());
  std::deque<Sent> available;
  std::vector<Out> at_device;
  std::deque<std::pair<uint64_t, uint32_t>> used;
  uint64_t token = 0;
  uint64_t done = 0;
  while (done < 20000) {
    switch (random.Below(4)) {
      case 0: {
        Sent sent = {.token = token, .readable = {}, .writable = {}};
        const uint64_t count = random.Between(1, 4);
        for (uint64_t i = 0; i < count; ++i) {
          const GpaRange range = {Gpa(random.Next() & ~uint64_t{0xfff}),
                                  random.Between(1, 0xffff)};
          (random.OneIn(2) ? sent.readable : sent.writable).push_back(range);
        }
        const bool fits = count <= driver_.free_descriptors();
        const absl::Status status =
            driver_.Add(sent.readable, sent.writable, token);
        ASSERT_EQ(status.ok(), fits) << status;
        if (!fits) break;
        ++token;
        available.push_back(std::move(sent));
        break;
      }
      case 1: {
        const auto chain = device_.Pop();
        ASSERT_TRUE(chain.ok()) << chain.status();
        ASSERT_EQ(chain->has_value(), !available.empty());
        if (!chain->has_value()) break;
        std::vector<GpaRange> readable, writable;
        for (const VirtqDesc& d : (*chain)->descriptors) {
          ((d.flags & kVirtqDescWrite) == 0 ? readable : writable)
              .push_back({Gpa(d.addr), d.len});
        }
        EXPECT_EQ(readable, available.front().readable);
        EXPECT_EQ(writable, available.front().writable);
        at_device.push_back({(*chain)->head, std::move(available.front())});
        available.pop_front();
        break;
      }
      case 2: {
        if (at_device.empty()) break;
        const auto it = at_device.begin() +
                        static_cast<int64_t>(random.Below(at_device.size()));
        uint64_t room = 0;
        for (const GpaRange& range : it->sent.writable) room += range.bytes;
        const auto written = static_cast<uint32_t>(random.Between(0, room));
        device_.Push(it->head, written);
        used.emplace_back(it->sent.token, written);
        at_device.erase(it);
        break;
      }
      default: {
        const auto back = driver_.GetUsed();
        ASSERT_TRUE(back.ok()) << back.status();
        ASSERT_EQ(back->has_value(), !used.empty());
        if (!back->has_value()) break;
        EXPECT_EQ((*back)->token, used.front().first);
        EXPECT_EQ((*back)->bytes_written, used.front().second);
        used.pop_front();
        ++done;
        break;
      }
    }
    CheckInvariants();
  }
}

// 16-bit indexes wrap around, twice.
TEST_P(SplitQueueTest, S2_7_IndexesRunFreelyThroughSixteenBits) {
  const GpaRange page = {Gpa(0x8000), kPageSize};
  for (uint64_t i = 0; i < 0x10000 + 100; ++i) {
    ASSERT_TRUE(driver_.Add({}, {&page, 1}, i).ok());
    const auto chain = device_.Pop();
    ASSERT_TRUE(chain.ok() && chain->has_value()) << i;
    device_.Push((*chain)->head, 0);
    const auto used = driver_.GetUsed();
    ASSERT_TRUE(used.ok() && used->has_value()) << i;
    ASSERT_EQ((*used)->token, i);
  }
  CheckInvariants();
}

TEST_P(SplitQueueTest, AFullRingEmptiesAndFillsAgain) {
  const GpaRange page = {Gpa(0x8000), kPageSize};
  for (int round = 0; round < 3; ++round) {
    for (uint64_t i = 0; i < 4; ++i) {
      ASSERT_TRUE(driver_.Add({}, {&page, 1}, i).ok());
    }
    EXPECT_TRUE(absl::IsResourceExhausted(driver_.Add({}, {&page, 1}, 4)));
    CheckInvariants();
    while (const auto chain = device_.Pop().value()) {
      device_.Push(chain->head, 0);
    }
    // The device is done, but the driver has not looked yet.
    EXPECT_TRUE(absl::IsResourceExhausted(driver_.Add({}, {&page, 1}, 4)));
    for (uint64_t i = 0; i < 4; ++i) {
      EXPECT_EQ(driver_.GetUsed().value()->token, i);
    }
    EXPECT_FALSE(driver_.GetUsed().value().has_value());
  }
}

TEST_P(SplitQueueTest, EachSideRespectsTheOthersSuppression) {
  const GpaRange page = {Gpa(0x8000), kPageSize};
  device_.DisableNotifications();
  ASSERT_TRUE(driver_.Add({}, {&page, 1}, 0).ok());
  EXPECT_FALSE(driver_.NeedsKick());
  EXPECT_TRUE(device_.EnableNotifications()) << "a chain came meanwhile";
  EXPECT_TRUE(driver_.NeedsKick());

  driver_.DisableNotifications();
  device_.Push(device_.Pop().value()->head, 0);
  EXPECT_FALSE(device_.NeedsNotification());
  EXPECT_TRUE(driver_.EnableNotifications()) << "a chain came back meanwhile";
  EXPECT_TRUE(device_.NeedsNotification());
  ASSERT_TRUE(driver_.GetUsed()->has_value());
  EXPECT_FALSE(driver_.EnableNotifications());
  EXPECT_FALSE(device_.EnableNotifications());
}

// A side sleeps on this until the other notifies it.
class Doorbell final : public Notifier {
 public:
  void Notify() override {
    ++rings_;
    rings_.notify_all();
  }
  uint64_t rings() const { return rings_; }
  // Sleeps until the number of notifications exceeds `seen`.
  void AwaitMoreThan(uint64_t seen) const { rings_.wait(seen); }

 private:
  std::atomic<uint64_t> rings_{0};
};

// Options of the tests with threads: whether a side disables notifications
// while it is awake. If not, with the event index Pop and GetUsed advance the
// events.
struct OnThreads {
  VirtqueueFeatures features;
  bool turns_off;
};

class SplitQueueThreads : public ::testing::TestWithParam<OnThreads> {};

INSTANTIATE_TEST_SUITE_P(
    Features, SplitQueueThreads,
    ::testing::Values(
        OnThreads{.features = {}, .turns_off = true},
        OnThreads{.features = {.event_index = true}, .turns_off = true},
        OnThreads{.features = {.event_index = true}, .turns_off = false},
        OnThreads{.features = {.indirect = true, .event_index = true},
                  .turns_off = true}),
    [](const auto& each) {
      return std::string(each.param.features.indirect ? "Indirect" : "Direct") +
             (each.param.features.event_index ? "EventIndex" : "Flags") +
             (each.param.turns_off ? "TurnedOff" : "LeftOn");
    });

// Each side is a thread that sleeps when there is nothing to do. What one side
// writes before advancing its index, the other reads after seeing the index. No
// required notification is lost, or the test would hang.
TEST_P(SplitQueueThreads, S2_7_13_3_1_NoDataAndNoNotificationIsLost) {
  const auto ram = MakeRam({{Gpa(0), 64 * kKiB}});
  const VirtqueueLayout layout = LayOutVirtqueue(Gpa(0), 4);
  const VirtqueueFeatures features = GetParam().features;
  const bool turns_off = GetParam().turns_off;
  DriverQueue driver =
      DriverQueue::Create(*ram, layout,
                          {.features = features,
                           .tables = LayOutTables(layout, 3, 2),
                           .start = 0xfff0})
          .value();
  DeviceQueue device =
      DeviceQueue::Create(*ram, layout, features, 0xfff0).value();
  Doorbell kick;
  Doorbell used;
  constexpr uint64_t kChains = 5000;
  // Chain i has word i modulo 8 and one that is not checked; at most 4 chains
  // are outstanding.
  const auto buffer = [](uint64_t i) {
    return GpaRange{Gpa(0x8000 + i % 8 * sizeof(uint64_t)), sizeof(uint64_t)};
  };
  const auto word = [&](uint64_t i) -> uint64_t& {
    return *reinterpret_cast<uint64_t*>(
        ram->Translate(buffer(i))->bytes().data());
  };

  std::thread device_thread([&] {
    for (uint64_t i = 0; i < kChains;) {
      const uint64_t rung = kick.rings();
      const auto chain = device.Pop();
      GUESTMM_CHECK(chain.ok()) << Message(chain.status());
      if (!chain->has_value()) {
        if (!turns_off) {
          kick.AwaitMoreThan(rung);
          continue;
        }
        if (!device.EnableNotifications()) kick.AwaitMoreThan(rung);
        device.DisableNotifications();
        continue;
      }
      GUESTMM_CHECK(word(i) == 2 * i) << "the driver's write, plain memory";
      word(i) = 2 * i + 1;
      device.Push((*chain)->head, sizeof(uint64_t));
      if (device.NeedsNotification()) used.Notify();
      ++i;
    }
  });
  uint64_t sent = 0;
  for (uint64_t done = 0; done < kChains;) {
    const uint64_t rung = used.rings();
    while (sent < kChains && driver.free_descriptors() > 1) {
      word(sent) = 2 * sent;
      const GpaRange ranges[] = {buffer(sent), {Gpa(0x9000), 8}};
      ASSERT_TRUE(driver.Add({}, ranges, sent).ok());
      ++sent;
      if (driver.NeedsKick()) kick.Notify();
    }
    const auto back = driver.GetUsed();
    GUESTMM_CHECK(back.ok()) << Message(back.status());
    if (!back->has_value()) {
      if (!turns_off) {
        used.AwaitMoreThan(rung);
        continue;
      }
      if (!driver.EnableNotifications()) used.AwaitMoreThan(rung);
      driver.DisableNotifications();
      continue;
    }
    ASSERT_EQ((*back)->token, done);
    ASSERT_EQ(word(done), 2 * done + 1) << "the device's write, plain memory";
    ++done;
  }
  device_thread.join();
  EXPECT_TRUE(driver.CheckInvariants().ok());
  EXPECT_TRUE(device.CheckInvariants().ok());
}

// Starts two threads at the same moment, repeatedly.
class Starter {
 public:
  // Returns when both threads have called it.
  void Meet() {
    const uint64_t meeting = met_.load();
    if (arrived_.fetch_add(1) % 2 == 1) {
      met_ = meeting + 1;
      return;
    }
    // Spin, since sleeping would separate the two.
    for (int spins = 0; met_ == meeting; ++spins) {
      if (spins > 1000) std::this_thread::yield();
    }
  }

 private:
  std::atomic<uint64_t> arrived_{0};
  std::atomic<uint64_t> met_{0};
};

// One side advances its index and checks whether to notify. At the same time
// the other enables notifications and checks whether the index moved. Both may
// succeed; if neither does, a notification is lost and the queue hangs.
TEST_P(SplitQueueThreads, S2_7_13_4_1_OneOfTheTwoSeesTheOther) {
  const auto ram = MakeRam({{Gpa(0), 64 * kKiB}});
  const VirtqueueLayout layout = LayOutVirtqueue(Gpa(0), 4);
  const VirtqueueFeatures features = GetParam().features;
  DriverQueue driver =
      DriverQueue::Create(*ram, layout, {.features = features}).value();
  DeviceQueue device = DeviceQueue::Create(*ram, layout, features).value();
  const GpaRange page = {Gpa(0x8000), kPageSize};
  constexpr int kRounds = 10000;
  Starter starter;
  bool device_saw = false;
  bool device_notifies = false;
  std::thread device_thread([&] {
    for (int i = 0; i < kRounds; ++i) {
      device.DisableNotifications();
      starter.Meet();
      device_saw = device.EnableNotifications();
      starter.Meet();
      const uint16_t head = device.Pop().value()->head;
      starter.Meet();
      device.Push(head, 0);
      device_notifies = device.NeedsNotification();
      starter.Meet();
    }
  });
  int lost_kicks = 0;
  int lost_notifications = 0;
  for (int i = 0; i < kRounds; ++i) {
    starter.Meet();
    GUESTMM_CHECK(driver.Add({}, {&page, 1}, 0).ok());
    const bool kicks = driver.NeedsKick();
    starter.Meet();
    lost_kicks += !kicks && !device_saw;
    driver.DisableNotifications();
    starter.Meet();
    const bool driver_saw = driver.EnableNotifications();
    starter.Meet();
    lost_notifications += !driver_saw && !device_notifies;
    GUESTMM_CHECK(driver.GetUsed()->has_value());
  }
  device_thread.join();
  EXPECT_EQ(lost_kicks, 0);
  EXPECT_EQ(lost_notifications, 0);
}

}  // namespace
}  // namespace guestmm::split_queue_test
