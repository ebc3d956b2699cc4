// vCPUs, reporter and device on threads: no page in use ever loses its contents
// while memory is reported, nor does one that a directly assigned device may
// write to.

#include <gtest/gtest.h>

#include <atomic>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "guestmm/base/random.h"
#include "guestmm/host/discard/discard_inhibitor.h"
#include "guestmm/host/discard/discarding_hypervisor.h"
#include "guestmm/machine/real/guest.h"
#include "guestmm/reporting/reporter.h"
#include "guestmm/reporting/v12_policy.h"
#include "guestmm/virtio/device/balloon_device.h"
#include "guestmm/virtio/driver/balloon_driver.h"
#include "guestmm/virtio/wire/balloon.h"
#include "tests/testing/await.h"
#include "tests/testing/dma_device.h"

namespace guestmm::guest_threads_test {
namespace {

struct Block {
  Pfn pfn;
  Order order;
  uint64_t stamp;
};

// Allocates, writes, verifies and frees blocks of random orders. Returns the
// number of pages that lost their contents.
int Churn(Vcpu& vcpu, uint64_t seed, int steps) {
  Random random(seed);
  std::vector<Block> blocks;
  int corrupted = 0;
  const auto release = [&](const Block& block) {
    if (vcpu.FindCorrupted(block.pfn, block.order, block.stamp)) ++corrupted;
    vcpu.Free(block.pfn, block.order);
  };
  for (int i = 0; i < steps; ++i) {
    if (random.OneIn(2) && blocks.size() < 20) {
      const Order order(random.OneIn(2) ? 9
                                        : static_cast<int>(random.Below(9)));
      if (const std::optional<Pfn> pfn = vcpu.Allocate(order)) {
        blocks.push_back({*pfn, order, random.Next()});
        vcpu.Touch(*pfn, order, blocks.back().stamp);
      }
    } else if (!blocks.empty()) {
      std::swap(blocks[random.Below(blocks.size())], blocks.back());
      release(blocks.back());
      blocks.pop_back();
    }
  }
  for (const Block& block : blocks) release(block);
  return corrupted;
}

constexpr int kVcpus = 3;
constexpr uint64_t kSeed = 20190812;

GuestOptions ThreadedGuest() {
  return {
      .memory = MemoryMap::Pc(192 * kMiB), .vcpus = kVcpus, .make_policy = [] {
        // Small, so that reports are in flight most of the time.
        return std::make_unique<V12Policy>(
            V12Options{.threshold = 2, .capacity = 4});
      }};
}

// Runs the first vCPUs of a guest, each on a thread of its own.
class Churning {
 public:
  Churning(Guest& guest, int vcpus, uint64_t seed, int steps)
      : running_(vcpus) {
    for (int id = 0; id < vcpus; ++id) {
      threads_.emplace_back([this, &guest, id, seed, steps] {
        corrupted_ +=
            Churn(guest.vcpu(id), seed + static_cast<uint64_t>(id), steps);
        --running_;
      });
    }
  }
  ~Churning() { Join(); }
  Churning(const Churning&) = delete;
  Churning& operator=(const Churning&) = delete;

  bool IsOver() const { return running_ == 0; }
  // Returns the number of pages that lost their contents.
  int Join() {
    for (std::thread& thread : threads_) thread.join();
    threads_.clear();
    return corrupted_;
  }

 private:
  std::atomic<int> running_;
  std::atomic<int> corrupted_ = 0;
  std::vector<std::thread> threads_;
};

TEST(GuestThreadsTest, ContentsSurviveReporting) {
  SCOPED_TRACE(kSeed);
  const auto guest = Guest::Create(ThreadedGuest()).value();
  EXPECT_EQ(Churning(*guest, kVcpus, kSeed, 400).Join(), 0);
  ASSERT_TRUE(guest->WaitUntilAtRest(Workqueue::kForever));
  EXPECT_EQ(guest->CheckInvariants(), absl::OkStatus());
  EXPECT_GT(guest->reporter()->counters().reports, 0u);
  EXPECT_EQ(guest->device()->counters().skipped(), 0u);
  EXPECT_EQ(guest->allocator().Counts().allocated(),
            guest->driver()->queue_pages());
}

// A driver on a vCPU of its own pins memory for a device, frees it while the
// device still writes to it, and unpins it later.
TEST(GuestThreadsTest, ADeviceLosesNothingThroughReportsAndDiscards) {
  SCOPED_TRACE(kSeed);
  GuestOptions options = ThreadedGuest();
  options.vcpus = kVcpus + 1;
  const auto guest = Guest::Create(options).value();
  Vcpu& driver = guest->vcpu(kVcpus);
  DmaDevice device(guest->ram());
  std::deque<std::pair<Pfn, Order>> pinned;
  const auto pin = [&](Order order) {
    const std::optional<Pfn> pfn = driver.Allocate(order);
    if (!pfn) return;
    guest->allocator().Pin(*pfn);
    device.Map(*pfn, order);
    driver.Free(*pfn, order);
    pinned.emplace_back(*pfn, order);
  };
  const auto unpin = [&] {
    const auto [pfn, order] = pinned.front();
    pinned.pop_front();
    EXPECT_EQ(guest->ram().ResidentBytes({ToGpa(pfn), order.bytes()}).value(),
              order.bytes());
    device.Unmap(pfn);
    guest->allocator().Unpin(kVcpus, pfn);
  };
  // Allocated before memory is scarce.
  for (int i = 0; i < 3; ++i) pin(kPageblockOrder);

  std::atomic<bool> stop{false};
  std::thread writer([&] { device.Run(Random(kSeed), stop); });
  Churning churning(*guest, kVcpus, kSeed, 300);
  for (int round = 0; round < 24; ++round) {
    pin(round % 4 == 0 ? kPageblockOrder : Order(round % 4));
    EXPECT_EQ(device.FirstLost(), std::nullopt);
    if (pinned.size() > 6) unpin();
  }
  EXPECT_EQ(churning.Join(), 0);
  EXPECT_GT(guest->hypervisor().counters().bytes, 0u);
  // Joins the writer even if a check fails.
  EXPECT_TRUE(guest->WaitUntilAtRest(Workqueue::kForever));
  EXPECT_EQ(guest->CheckInvariants(), absl::OkStatus());
  // All memory except the queues and the pinned blocks is free.
  PageCount in_use = guest->driver()->queue_pages();
  for (const auto& [pfn, order] : pinned) in_use += order.pages();
  EXPECT_EQ(guest->allocator().Counts().allocated(), in_use);
  stop = true;
  writer.join();
  EXPECT_EQ(device.FirstLost(), std::nullopt);

  while (!pinned.empty()) unpin();
  ASSERT_TRUE(guest->WaitUntilAtRest(Workqueue::kForever));
  EXPECT_EQ(guest->CheckInvariants(), absl::OkStatus());
  EXPECT_EQ(guest->allocator().Counts().allocated(),
            guest->driver()->queue_pages());
}

// A device that needs guest RAM to stay mapped: between Inhibit and Allow
// nothing is discarded, while the guest reports, allocates and frees as before.
TEST(GuestThreadsTest, NothingIsDiscardedWhileInhibited) {
  SCOPED_TRACE(kSeed);
  DiscardInhibitor* inhibitor = nullptr;
  GuestOptions options = ThreadedGuest();
  options.huge_pages = HugePages::kForbid;
  options.make_hypervisor = [&](const GuestRam& ram) {
    auto made = std::make_unique<DiscardInhibitor>(
        std::make_unique<DiscardingHypervisor>(ram));
    inhibitor = made.get();
    return made;
  };
  const auto guest = Guest::Create(options).value();

  // Inhibit is called while discards are under way.
  Churning before(*guest, kVcpus, kSeed, 200);
  while (inhibitor->counters().bytes == 0 && !before.IsOver()) {
    std::this_thread::yield();
  }
  inhibitor->Inhibit();
  const DiscardCounters at_inhibit = inhibitor->counters();
  uint64_t resident = guest->ram().ResidentBytes().value();
  EXPECT_GT(at_inhibit.bytes, 0u);
  EXPECT_EQ(before.Join(), 0);
  ASSERT_TRUE(guest->WaitUntilAtRest(Workqueue::kForever));

  const uint64_t reports = guest->reporter()->counters().reports;
  Churning during(*guest, kVcpus, kSeed + 10, 200);
  bool is_over = false;
  while (!is_over) {
    is_over = during.IsOver();
    const uint64_t now = guest->ram().ResidentBytes().value();
    EXPECT_GE(now, resident);
    resident = now;
  }
  EXPECT_EQ(during.Join(), 0);
  ASSERT_TRUE(guest->WaitUntilAtRest(Workqueue::kForever));
  EXPECT_GE(guest->ram().ResidentBytes().value(), resident);
  EXPECT_GT(guest->reporter()->counters().reports, reports);
  const DiscardCounters inhibited = inhibitor->counters();
  EXPECT_EQ(inhibited.calls, at_inhibit.calls);
  EXPECT_EQ(inhibited.bytes, at_inhibit.bytes);
  EXPECT_GT(inhibited.inhibited_discards, at_inhibit.inhibited_discards);
  EXPECT_EQ(guest->CheckInvariants(), absl::OkStatus());

  inhibitor->Allow();
  EXPECT_EQ(Churning(*guest, kVcpus, kSeed + 20, 200).Join(), 0);
  ASSERT_TRUE(guest->WaitUntilAtRest(Workqueue::kForever));
  EXPECT_GT(inhibitor->counters().bytes, inhibited.bytes);
  EXPECT_EQ(inhibitor->counters().inhibited_discards,
            inhibited.inhibited_discards);
  EXPECT_EQ(guest->CheckInvariants(), absl::OkStatus());
  EXPECT_EQ(guest->allocator().Counts().allocated(),
            guest->driver()->queue_pages());
}

// Four vCPUs at once need what the balloon has: each gets its share, whatever
// the order.
TEST(GuestThreadsTest, NoAllocationFailsWhileTheBalloonHasPages) {
  constexpr int kTakers = 4;
  constexpr PageCount kTarget(7500);
  constexpr uint64_t kTaken = 6144;
  for (const uint64_t features : {uint64_t{0}, kBalloonFMustTellHost}) {
    for (const Order order : {Order(0), Order(3), kPageblockOrder}) {
      SCOPED_TRACE(order);
      const auto guest =
          Guest::Create({.memory = MemoryMap::Pc(32 * kMiB),
                         .vcpus = kTakers,
                         .balloon_features = features | kBalloonFDeflateOnOom})
              .value();
      guest->device()->SetTarget(static_cast<uint32_t>(kTarget.value()));
      ASSERT_TRUE(
          Await([&] { return guest->device()->actual() == kTarget.value(); }));
      std::atomic<int> failed = 0;
      std::vector<std::vector<Pfn>> taken(kTakers);
      std::vector<std::thread> threads;
      for (size_t id = 0; id < kTakers; ++id) {
        threads.emplace_back([&, id] {
          Vcpu& vcpu = guest->vcpu(static_cast<int>(id));
          for (uint64_t i = 0; i < (kTaken / kTakers) >> order.value(); ++i) {
            const std::optional<Pfn> pfn = vcpu.Allocate(order);
            pfn ? taken[id].push_back(*pfn) : static_cast<void>(++failed);
          }
        });
      }
      for (std::thread& thread : threads) thread.join();
      EXPECT_EQ(failed, 0);
      for (size_t id = 0; id < kTakers; ++id) {
        for (const Pfn pfn : taken[id]) {
          guest->vcpu(static_cast<int>(id)).Free(pfn, order);
        }
      }
      EXPECT_EQ(guest->CheckInvariants(), absl::OkStatus());
    }
  }
}

}  // namespace
}  // namespace guestmm::guest_threads_test
