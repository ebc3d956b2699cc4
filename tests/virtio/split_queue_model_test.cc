// Both sides of a split virtqueue, compared with a naive model of a queue and
// of sides that sleep: random programs, with every combination of features.

#include <gtest/gtest.h>

#include <deque>
#include <string>
#include <tuple>
#include <vector>

#include "guestmm/base/random.h"
#include "guestmm/virtio/device/device_queue.h"
#include "guestmm/virtio/driver/driver_queue.h"
#include "tests/virtio/virtio_testing.h"

namespace guestmm::split_queue_model_test {
namespace {

// A chain that was sent, and its result.
struct Sent {
  uint64_t token;
  std::vector<GpaRange> readable;
  std::vector<GpaRange> writable;
  uint32_t written = 0;
};

// Whether `event` is one of the last `moved` entries before `idx`: the
// specification's rule (§2.7.7.2, §2.7.10.1), entry by entry.
bool OneIs(uint16_t event, uint16_t idx, uint64_t moved) {
  for (uint64_t i = 1; i <= moved; ++i) {
    if (static_cast<uint16_t>(idx - i) == event) return true;
  }
  return false;
}

// The worker of one side: awake until it finds nothing to do, then asleep until
// the other side notifies it.
struct Worker {
  bool is_awake = true;
  bool is_rung = false;
  // Chains since the other side was last asked whether it wants a notification.
  uint64_t unasked = 0;

  bool Rests() const { return !is_awake && !is_rung && unasked == 0; }
};

class World {
 public:
  World(VirtqueueFeatures features, uint64_t seed)
      : features_(features),
        random_(seed),
        size_(static_cast<uint16_t>(1 << random_.Between(0, 3))),
        start_(random_.OneIn(2)
                   ? static_cast<uint16_t>(random_.Between(0xfff0, 0xffff))
                   : static_cast<uint16_t>(random_.Next())),
        layout_(LayOutVirtqueue(Gpa(0), size_)),
        tables_(LayOutTables(
            layout_, size_ == 1 ? uint16_t{0} : Small(size_ + 1u),
            size_ == 1 ? uint16_t{0}
                       : static_cast<uint16_t>(random_.Between(2, size_)))) {}

  void Run() {
    for (int round = 0; round < 20; ++round) {
      const uint64_t steps = random_.Below(60);
      for (uint64_t i = 0; i < steps; ++i) Step(/*adds=*/true);
      if (::testing::Test::HasFatalFailure()) return;
      ComeToRest();
      if (::testing::Test::HasFatalFailure()) return;
    }
  }

 private:
  uint16_t Small(uint64_t limit) {
    return static_cast<uint16_t>(random_.Below(limit));
  }

  // Runs until both sleep. Only notifications wake them. Then nothing may be
  // left.
  void ComeToRest() {
    int steps = 0;
    while (!at_driver_.Rests() || !at_device_.Rests() || !out_.empty()) {
      ASSERT_LT(++steps, 100000) << "they never rest";
      Step(/*adds=*/false);
      if (::testing::Test::HasFatalFailure()) return;
    }
    ASSERT_TRUE(available_.empty()) << "a kick was lost";
    ASSERT_TRUE(used_.empty()) << "a notification was lost";
    ASSERT_EQ(driver_.free_descriptors(), size_);
  }

  void Step(bool adds) {
    if (random_.OneIn(2)) {
      StepDriver(adds);
    } else {
      StepDevice();
    }
    ASSERT_TRUE(driver_.CheckInvariants().ok()) << driver_.CheckInvariants();
    ASSERT_TRUE(device_.CheckInvariants().ok()) << device_.CheckInvariants();
  }

  // Wakes the worker if it was notified, and sometimes without a reason
  // (§2.7.7.1, §2.7.10.2: both sides handle spurious notifications). Whether it
  // is awake.
  bool Wake(Worker& worker) {
    if (!worker.is_awake && (worker.is_rung || random_.OneIn(16))) {
      worker.is_rung = false;
      worker.is_awake = true;
    }
    return worker.is_awake;
  }

  void StepDriver(bool adds) {
    // The driver does not wait for a notification to send a chain.
    if (adds && random_.OneIn(2)) {
      Add();
      return;
    }
    if (at_driver_.unasked > 0 && random_.OneIn(2)) {
      AskForKick();
      return;
    }
    if (!Wake(at_driver_)) return;
    if (random_.OneIn(8)) {
      driver_.DisableNotifications();
      driver_is_off_ = true;
      return;
    }
    if (TakeBack()) return;
    // Nothing to do. Before it sleeps it notifies the other side of what it
    // added, enables notifications if they are disabled, and looks again.
    if (at_driver_.unasked > 0) {
      AskForKick();
    } else if (!driver_is_off_ && random_.OneIn(2)) {
      at_driver_.is_awake = false;
    } else {
      driver_is_off_ = false;
      const bool missed = driver_.EnableNotifications();
      ASSERT_EQ(missed, !used_.empty());
      at_driver_.is_awake = missed;
    }
  }

  void StepDevice() {
    if (at_device_.unasked > 0 && random_.OneIn(2)) {
      AskForNotification();
      return;
    }
    // Chains may be returned at any time.
    if (!out_.empty() && random_.OneIn(2)) {
      GiveBack();
      return;
    }
    if (!Wake(at_device_)) return;
    if (random_.OneIn(8)) {
      device_.DisableNotifications();
      device_is_off_ = true;
      return;
    }
    if (Take()) return;
    if (!out_.empty()) {
      GiveBack();
    } else if (at_device_.unasked > 0) {
      AskForNotification();
    } else if (!device_is_off_ && random_.OneIn(2)) {
      at_device_.is_awake = false;
    } else {
      device_is_off_ = false;
      const bool missed = device_.EnableNotifications();
      ASSERT_EQ(missed, !available_.empty());
      at_device_.is_awake = missed;
    }
  }

  void Add() {
    Sent sent = {.token = next_token_, .readable = {}, .writable = {}};
    const uint64_t count = random_.Between(1, size_);
    for (uint64_t i = 0; i < count; ++i) {
      const GpaRange range = {Gpa(random_.Next()), random_.Between(1, 0xffff)};
      (random_.OneIn(2) ? sent.readable : sent.writable).push_back(range);
    }
    const bool has_table = features_.indirect && count > 1 &&
                           count <= tables_.entries &&
                           driver_.free_tables() > 0;
    const bool fits = (has_table ? 1 : count) <= driver_.free_descriptors();
    const absl::Status status =
        driver_.Add(sent.readable, sent.writable, sent.token);
    ASSERT_EQ(status.ok(), fits) << status;
    if (!fits) return;
    ++next_token_;
    ++at_driver_.unasked;
    available_.push_back(std::move(sent));
  }

  void AskForKick() {
    const bool expected =
        features_.event_index
            ? OneIs(memory_.avail_event().load(),
                    memory_.available_idx().load(), at_driver_.unasked)
            : !device_is_off_;
    ASSERT_EQ(driver_.NeedsKick(), expected);
    at_driver_.unasked = 0;
    if (expected) at_device_.is_rung = true;
  }

  void AskForNotification() {
    const bool expected =
        features_.event_index
            ? OneIs(memory_.used_event().load(), memory_.used_idx().load(),
                    at_device_.unasked)
            : !driver_is_off_;
    ASSERT_EQ(device_.NeedsNotification(), expected);
    at_device_.unasked = 0;
    if (expected) at_driver_.is_rung = true;
  }

  // Each returns whether there was a chain.
  bool Take() {
    const auto chain = device_.Pop();
    EXPECT_TRUE(chain.ok()) << chain.status();
    if (!chain.ok()) return false;
    EXPECT_EQ(chain->has_value(), !available_.empty());
    if (!chain->has_value() || available_.empty()) return false;
    EXPECT_EQ((*chain)->table_fault, TableFault::kNone);
    std::vector<GpaRange> readable, writable;
    for (const VirtqDesc& d : (*chain)->descriptors) {
      ((d.flags & kVirtqDescWrite) == 0 ? readable : writable)
          .push_back({Gpa(d.addr), d.len});
    }
    EXPECT_EQ(readable, available_.front().readable);
    EXPECT_EQ(writable, available_.front().writable);
    out_.emplace_back((*chain)->head, std::move(available_.front()));
    available_.pop_front();
    return true;
  }

  void GiveBack() {
    const auto it = out_.begin() + static_cast<int64_t>(Small(out_.size()));
    uint64_t room = 0;
    for (const GpaRange& range : it->second.writable) room += range.bytes;
    it->second.written = static_cast<uint32_t>(random_.Between(0, room));
    device_.Push(it->first, it->second.written);
    ++at_device_.unasked;
    used_.push_back(std::move(it->second));
    out_.erase(it);
  }

  bool TakeBack() {
    const auto back = driver_.GetUsed();
    EXPECT_TRUE(back.ok()) << back.status();
    if (!back.ok()) return false;
    EXPECT_EQ(back->has_value(), !used_.empty());
    if (!back->has_value() || used_.empty()) return false;
    EXPECT_EQ((*back)->token, used_.front().token);
    EXPECT_EQ((*back)->bytes_written, used_.front().written);
    used_.pop_front();
    return true;
  }

  const VirtqueueFeatures features_;
  Random random_;
  const uint16_t size_;
  const uint16_t start_;
  const VirtqueueLayout layout_;
  const IndirectTables tables_;
  const std::unique_ptr<GuestRam> ram_ = MakeRam({{Gpa(0), 64 * kKiB}});
  DriverQueue driver_ =
      DriverQueue::Create(
          *ram_, layout_,
          {.features = features_, .tables = tables_, .start = start_})
          .value();
  DeviceQueue device_ =
      DeviceQueue::Create(*ram_, layout_, features_, start_).value();
  const VirtqueueMemory memory_ = VirtqueueMemory::Map(*ram_, layout_).value();

  // The model: the location of each chain.
  uint64_t next_token_ = 0;
  std::deque<Sent> available_;
  std::vector<std::pair<uint16_t, Sent>> out_;
  std::deque<Sent> used_;
  Worker at_driver_;
  Worker at_device_;
  bool driver_is_off_ = false;
  bool device_is_off_ = false;
};

class SplitQueueModelTest
    : public ::testing::TestWithParam<std::tuple<bool, bool>> {};

INSTANTIATE_TEST_SUITE_P(
    Features, SplitQueueModelTest,
    ::testing::Combine(::testing::Bool(), ::testing::Bool()),
    [](const auto& each) {
      return std::string(std::get<0>(each.param) ? "Indirect" : "Direct") +
             (std::get<1>(each.param) ? "EventIndex" : "Flags");
    });

// Every chain arrives as it was sent and is returned once, in order. Each side
// wants to notify exactly when the specification says so. When both sleep,
// nothing is left to handle.
TEST_P(SplitQueueModelTest, NothingIsLeftWhenBothSleep) {
  const VirtqueueFeatures features = {.indirect = std::get<0>(GetParam()),
                                      .event_index = std::get<1>(GetParam())};
  for (uint64_t seed = 1; seed <= 60; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    World(features, seed).Run();
    if (HasFailure()) return;
  }
}

}  // namespace
}  // namespace guestmm::split_queue_model_test
