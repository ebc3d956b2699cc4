// The reporter with real threads: vCPUs, its own, and the device's.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <latch>
#include <memory>
#include <optional>
#include <span>
#include <thread>
#include <utility>
#include <vector>

#include "guestmm/base/thread_workqueue.h"
#include "guestmm/buddy/page_allocator.h"
#include "guestmm/mm/migrate/memory_hotplug.h"
#include "guestmm/reporting/reporter.h"
#include "guestmm/reporting/v12_policy.h"
#include "tests/testing/fake_device.h"
#include "tests/testing/reporting_world.h"
#include "tests/testing/watched_policy.h"

namespace guestmm::reporter_threads_test {
namespace {

using ::testing::SizeIs;

constexpr Order kSmall(2);
constexpr V12Options kSmallV12 = {
    .order = kSmall, .threshold = 2, .capacity = 2};

std::unique_ptr<PageAllocator> MakeAllocator(uint64_t blocks) {
  return PageAllocator::Create(
             {.memory = {BlocksFrom(Pfn(0), blocks, kSmall)},
              .max_order = kSmall,
              .section_order = Order(4),
              .min_free_kbytes = 0,
              .per_cpu_limits = PerCpuLimits{.batch = 2, .high = 4}})
      .value();
}

// Allocates `count` blocks and frees them, which marks them. A pass may begin
// as soon as the threshold is reached.
void FreeBlocks(PageAllocator& allocator, int count) {
  std::vector<Pfn> blocks;
  for (int i = 0; i < count; ++i) {
    blocks.push_back(allocator.Allocate(0, kSmall).value());
  }
  for (const Pfn pfn : blocks) allocator.Free(0, pfn, kSmall);
}

// Marks six blocks before the pass begins: three reports.
constexpr V12Options kSixBlocks = {
    .order = kSmall, .threshold = 6, .capacity = 2};

// Forwards everything to a ThreadWorkqueue, with hooks for a test.
class WatchedWorkqueue final : public Workqueue {
 public:
  std::function<void()> on_queue = [] {};
  std::function<void()> on_condition_looked_at = [] {};

  Nanoseconds Now() const override { return queue_.Now(); }
  bool Queue(Work& work, Nanoseconds delay = Nanoseconds(0)) override {
    on_queue();
    return queue_.Queue(work, delay);
  }
  void CancelSync(Work& work) override { queue_.CancelSync(work); }
  bool MayWait() const override { return queue_.MayWait(); }
  bool WaitUntil(absl::FunctionRef<bool()> condition,
                 Nanoseconds timeout = kForever) override {
    return queue_.WaitUntil(
        [&] {
          const bool holds = condition();
          on_condition_looked_at();
          return holds;
        },
        timeout);
  }

 private:
  ThreadWorkqueue queue_;
};

TEST(ReporterThreadsTest, OfTwoEnablesThatRaceOneWins) {
  const auto allocator = MakeAllocator(4);
  ThreadWorkqueue queue;
  Reporter reporter(*allocator, queue, std::make_unique<V12Policy>(kSmallV12));
  for (int round = 0; round < 100; ++round) {
    std::array<FakeDevice, 2> devices;
    std::array<absl::Status, 2> results;
    std::latch start{2};
    {
      std::vector<std::jthread> threads;
      for (size_t i = 0; i < 2; ++i) {
        threads.emplace_back([&, i] {
          start.arrive_and_wait();
          results[i] = reporter.Enable(devices[i]);
        });
      }
    }
    const size_t winner = results[0].ok() ? 0 : 1;
    EXPECT_EQ(results[winner], absl::OkStatus());
    EXPECT_EQ(results[1 - winner].code(), absl::StatusCode::kAlreadyExists);
    EXPECT_EQ(reporter.Disable(devices[winner]), absl::OkStatus());
  }
}

TEST(ReporterThreadsTest, AReportMayEndOnAnyThread) {
  const auto allocator = MakeAllocator(8);
  ThreadWorkqueue queue;
  FakeDevice device;
  Reporter reporter(*allocator, queue, std::make_unique<V12Policy>(kSixBlocks));
  ASSERT_EQ(reporter.Enable(device), absl::OkStatus());
  FreeBlocks(*allocator, 6);
  for (int report = 0; report < 3; ++report) {
    queue.WaitUntil([&] { return device.outstanding(); });
    std::jthread([&] { device.End(); }).join();
  }
  EXPECT_TRUE(queue.WaitUntil([&] { return reporter.AtRest(); }));
  EXPECT_EQ(reporter.counters().reported_blocks, 6u);
  EXPECT_EQ(allocator->CheckInvariants(), absl::OkStatus());
}

// The device's thread ends the report before Report returns.
TEST(ReporterThreadsTest, AReportMayEndBeforeReportReturns) {
  const auto allocator = MakeAllocator(8);
  ThreadWorkqueue queue;
  class QuickDevice final : public ReportingDevice {
   public:
    size_t max_report_entries() const override { return 32; }
    absl::Status Report(std::span<const GpaRange>, Client& client) override {
      std::jthread([&] { client.ReportDone(absl::OkStatus()); }).join();
      return absl::OkStatus();
    }
  };
  QuickDevice device;
  Reporter reporter(*allocator, queue, std::make_unique<V12Policy>(kSixBlocks));
  ASSERT_EQ(reporter.Enable(device), absl::OkStatus());
  FreeBlocks(*allocator, 6);
  EXPECT_TRUE(queue.WaitUntil([&] { return reporter.AtRest(); }));
  EXPECT_EQ(reporter.counters().reported_blocks, 6u);
  EXPECT_EQ(allocator->Counts().isolated, PageCount(0));
}

TEST(ReporterThreadsTest, DisableWaitsForTheBatchInFlight) {
  const auto allocator = MakeAllocator(8);
  ThreadWorkqueue queue;
  FakeDevice device;
  Reporter reporter(*allocator, queue, std::make_unique<V12Policy>(kSmallV12));
  ASSERT_EQ(reporter.Enable(device), absl::OkStatus());
  FreeBlocks(*allocator, 2);
  queue.WaitUntil([&] { return device.outstanding(); });
  std::jthread ends([&] { device.End(); });
  EXPECT_EQ(reporter.Disable(device), absl::OkStatus());
  EXPECT_EQ(allocator->Counts().isolated, PageCount(0));
  EXPECT_EQ(allocator->CheckInvariants(), absl::OkStatus());
}

// A batch is being made when Disable checks whether one is in flight: Disable
// waits for that batch, too.
TEST(ReporterThreadsTest, DisableWaitsForTheBatchBeingMade) {
  const auto allocator = MakeAllocator(8);
  std::latch making{1};
  std::latch looked{1};
  std::atomic<int> batches = 0;
  WatchedWorkqueue queue;
  queue.on_condition_looked_at = [&] {
    if (!looked.try_wait()) looked.count_down();
  };
  FakeDevice device;
  {
    auto policy = std::make_unique<WatchedPolicy>(kSmallV12);
    policy->on_next_batch = [&] {
      if (++batches > 1) return;
      making.count_down();
      looked.wait();
    };
    Reporter reporter(*allocator, queue, std::move(policy));
    ASSERT_EQ(reporter.Enable(device), absl::OkStatus());
    FreeBlocks(*allocator, 4);
    making.wait();
    std::jthread ends([&] {
      while (!device.outstanding()) std::this_thread::yield();
      device.End();
    });
    EXPECT_EQ(reporter.Disable(device), absl::OkStatus());
  }
  EXPECT_THAT(device.reports(), SizeIs(1));
  EXPECT_EQ(allocator->Counts().isolated, PageCount(0));
  EXPECT_EQ(allocator->CheckInvariants(), absl::OkStatus());
}

// Two sections of 4 blocks each, and a page. The first section is with the
// host.
class OfflineThreadsTest : public testing::Test {
 protected:
  static constexpr PfnRange kFirstSection = {Pfn(0), Pfn(16)};

  void SetUp() override {
    ASSERT_EQ(reporter_.Enable(device_), absl::OkStatus());
    std::vector<Pfn> blocks;
    while (const std::optional<Pfn> pfn = allocator_->Allocate(0, kSmall)) {
      blocks.push_back(*pfn);
    }
    for (const Pfn pfn : blocks) {
      if (kFirstSection.Contains(pfn)) {
        allocator_->Free(0, pfn, kSmall);
      } else {
        second_section_.push_back(pfn);
      }
    }
    queue_.WaitUntil([&] { return device_.outstanding(); });
    ASSERT_EQ(allocator_->Counts().isolated, kFirstSection.pages());
    queue_.on_condition_looked_at = [this] {
      if (!waiting_.try_wait()) waiting_.count_down();
    };
  }

  const std::unique_ptr<PageAllocator> allocator_ =
      PageAllocator::Create({.memory = {BlocksFrom(Pfn(0), 8, kSmall)},
                             .max_order = kSmall,
                             .section_order = Order(4),
                             .min_free_kbytes = 0})
          .value();
  WatchedWorkqueue queue_;
  FakeDevice device_;
  Reporter reporter_{*allocator_, queue_,
                     std::make_unique<V12Policy>(V12Options{
                         .order = kSmall, .threshold = 4, .capacity = 4})};
  MemoryHotplug hotplug_{*allocator_, /*ram=*/nullptr, &queue_};
  // A caller waits on the queue.
  std::latch waiting_{1};
  // Its blocks, in use.
  std::vector<Pfn> second_section_;
};

TEST_F(OfflineThreadsTest, WaitsForTheBatchInFlight) {
  std::jthread offline(
      [&] { EXPECT_EQ(hotplug_.Offline(kFirstSection), absl::OkStatus()); });
  waiting_.wait();
  EXPECT_EQ(hotplug_.StateOf(Pfn(0)), "online");
  device_.End();
  offline.join();
  EXPECT_EQ(hotplug_.StateOf(Pfn(0)), "offline");
  EXPECT_EQ(allocator_->CheckInvariants(), absl::OkStatus());
  EXPECT_EQ(reporter_.policy().CheckInvariants(), absl::OkStatus());
}

TEST_F(OfflineThreadsTest, ReportingIsDisabledWhileItWaits) {
  std::jthread offline(
      [&] { EXPECT_EQ(hotplug_.Offline(kFirstSection), absl::OkStatus()); });
  waiting_.wait();
  std::jthread disable(
      [&] { EXPECT_EQ(reporter_.Disable(device_), absl::OkStatus()); });
  device_.End();
  offline.join();
  disable.join();
  EXPECT_EQ(hotplug_.StateOf(Pfn(0)), "offline");
  EXPECT_EQ(allocator_->CheckInvariants(), absl::OkStatus());
}

// The new observer is notified of all memory, and of removals.
TEST_F(OfflineThreadsTest, ReportingIsEnabledAgainWhileItWaits) {
  std::jthread offline(
      [&] { EXPECT_EQ(hotplug_.Offline(kFirstSection), absl::OkStatus()); });
  waiting_.wait();
  std::jthread again([&] {
    EXPECT_EQ(reporter_.Disable(device_), absl::OkStatus());
    EXPECT_EQ(reporter_.Enable(device_), absl::OkStatus());
  });
  device_.End();
  offline.join();
  again.join();
  for (const Pfn pfn : second_section_) allocator_->Free(0, pfn, kSmall);
  EXPECT_TRUE(queue_.WaitUntil([&] { return device_.outstanding(); }));
  for (const GpaRange& range : device_.in_flight()) {
    EXPECT_GE(ToPfn(range.gpa), kFirstSection.end);
  }
  device_.End();
  EXPECT_TRUE(queue_.WaitUntil([&] { return reporter_.AtRest(); }));
  EXPECT_EQ(allocator_->CheckInvariants(), absl::OkStatus());
  EXPECT_EQ(reporter_.policy().CheckInvariants(), absl::OkStatus());
}

TEST_F(OfflineThreadsTest, BeginsWhileDisablingWaits) {
  std::jthread disable(
      [&] { EXPECT_EQ(reporter_.Disable(device_), absl::OkStatus()); });
  waiting_.wait();
  std::jthread offline(
      [&] { EXPECT_EQ(hotplug_.Offline(kFirstSection), absl::OkStatus()); });
  device_.End();
  offline.join();
  EXPECT_EQ(hotplug_.StateOf(Pfn(0)), "offline");
}

thread_local bool is_device_thread = false;

// The end of a report may be seen, and the reporter destroyed, before the
// thread that called ReportDone has left it: it must not use the reporter then.
TEST(ReporterThreadsTest, ReportDoneIsOverBeforeTheReporterIs) {
  for (int round = 0; round < 5; ++round) {
    const auto allocator = MakeAllocator(8);
    std::atomic<bool> going = false;
    std::atomic<bool> gone = false;
    std::latch ending{1};
    WatchedWorkqueue queue;
    FakeDevice device;
    auto reporter = std::make_unique<Reporter>(
        *allocator, queue, std::make_unique<V12Policy>(kSmallV12));
    ASSERT_EQ(reporter->Enable(device), absl::OkStatus());
    FreeBlocks(*allocator, 2);
    queue.WaitUntil([&] { return device.outstanding(); });
    // Lets all other threads run while the device's thread queues the work. Few
    // times: on a busy machine each may be a time slice of others.
    queue.on_queue = [&] {
      if (!is_device_thread) return;
      ending.count_down();
      going.wait(false);
      for (int i = 0; i < 500 && !gone; ++i) std::this_thread::yield();
      EXPECT_FALSE(gone);
    };
    std::jthread ends([&] {
      is_device_thread = true;
      device.End();
    });
    ending.wait();
    going = true;
    going.notify_one();
    reporter->Wake();
    reporter.reset();
    gone = true;
  }
}

}  // namespace
}  // namespace guestmm::reporter_threads_test
