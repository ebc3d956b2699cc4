// Every policy while vCPUs run on threads: memory in use is never reported, and
// none is lost.

#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <thread>
#include <utility>
#include <vector>

#include "guestmm/base/random.h"
#include "guestmm/base/thread_workqueue.h"
#include "guestmm/buddy/page_allocator.h"
#include "guestmm/mm/migrate/memory_hotplug.h"
#include "guestmm/reporting/adaptive_policy.h"
#include "guestmm/reporting/linux_policy.h"
#include "guestmm/reporting/reporter.h"
#include "guestmm/reporting/v12_policy.h"
#include "tests/testing/fake_device.h"
#include "tests/testing/reporting_world.h"

namespace guestmm::reporter_stress_test {
namespace {

constexpr Order kSmall(2);
constexpr V12Options kSmallV12 = {
    .order = kSmall, .threshold = 2, .capacity = 2};
constexpr AdaptiveOptions kSmallGuestmm = {
    .order = kSmall,
    .floor = Order(0),
    .delay = std::chrono::milliseconds(1),
    .capacity = 2};

// A running guest: vCPU threads that allocate and free and own their pages, and
// a device thread that inspects every report. No page with an owner is ever
// reported, and all reported memory is isolated.
class RunningGuest {
 public:
  static constexpr uint64_t kBlocks = 64;
  static constexpr int kCpus = 2;
  // Two sections that may be added behind the existing ones.
  static constexpr PfnRange kMore = {Pfn(kBlocks * 4 + 16),
                                     Pfn(kBlocks * 4 + 48)};

  RunningGuest() {
    device_.set_inspect([this](std::span<const GpaRange> ranges) {
      ExpectIsolated(*allocator_, ranges);
      for (const GpaRange& range : ranges) {
        const uint64_t first = ToPfn(range.gpa).value();
        for (uint64_t i = 0; i < range.bytes / kPageSize; ++i) {
          EXPECT_FALSE(owned_.at(first + i)) << Pfn(first + i);
        }
      }
    });
  }

  // Starts the vCPUs, and lets each do `steps`.
  void Start(uint64_t seed, int steps) {
    for (int cpu = 0; cpu < kCpus; ++cpu) {
      vcpus_.emplace_back([this, seed, steps, cpu] {
        RunVcpu(cpu, steps, Random(seed * kCpus + static_cast<uint64_t>(cpu)));
      });
    }
  }
  void Join() { vcpus_.clear(); }

  PageAllocator& allocator() { return *allocator_; }
  Workqueue& workqueue() { return workqueue_; }
  FakeDevice& device() { return device_; }

 private:
  struct Block {
    Pfn pfn;
    Order order;
  };

  void Own(const Block& block, bool owned) {
    for (uint64_t i = 0; i < block.order.pages().value(); ++i) {
      owned_.at(block.pfn.value() + i) = owned;
    }
  }

  void RunVcpu(int cpu, int steps, Random random) {
    std::vector<Block> blocks;
    const auto free_one = [&] {
      std::swap(blocks[random.Below(blocks.size())], blocks.back());
      Own(blocks.back(), false);
      allocator_->Free(cpu, blocks.back().pfn, blocks.back().order);
      blocks.pop_back();
    };
    for (int step = 0; step < steps; ++step) {
      const Order order(random.OneIn(2) ? 0 : 2);
      if (blocks.size() < 20 && random.OneIn(2)) {
        if (const std::optional<Pfn> pfn = allocator_->Allocate(cpu, order)) {
          blocks.push_back({*pfn, order});
          Own(blocks.back(), true);
        }
      } else if (!blocks.empty()) {
        free_one();
      }
    }
    while (!blocks.empty()) free_one();
  }

  const std::unique_ptr<PageAllocator> allocator_ =
      PageAllocator::Create(
          {.memory = {BlocksFrom(Pfn(0), kBlocks, kSmall)},
           .hotplug_end = kMore.end,
           .cpus = kCpus,
           .max_order = Order(4),
           .section_order = Order(4),
           .min_free_kbytes = 0,
           .per_cpu_limits = PerCpuLimits{.batch = 2, .high = 4}})
          .value();
  ThreadWorkqueue device_thread_;
  ThreadWorkqueue workqueue_;
  FakeDevice device_{device_thread_};
  std::array<std::atomic<bool>, kMore.end.value()> owned_{};
  std::vector<std::jthread> vcpus_;
};

TEST(ReporterStressTest, VcpusRunWhileBlocksAreReported) {
  for (uint64_t seed = 1; seed <= 3; ++seed) {
    SCOPED_TRACE(testing::Message() << "seed " << seed);
    RunningGuest guest;
    Reporter reporter(guest.allocator(), guest.workqueue(),
                      std::make_unique<V12Policy>(kSmallV12));
    ASSERT_EQ(reporter.Enable(guest.device()), absl::OkStatus());
    // Almost always one round: under load the only pass may find nothing.
    while (reporter.counters().reported_blocks == 0) {
      guest.Start(seed, 3000);
      guest.Join();
      guest.workqueue().WaitUntil([&] { return reporter.AtRest(); });
    }
    EXPECT_EQ(guest.allocator().CheckInvariants(), absl::OkStatus());
    // Defect (h) of v12, mended: the counters equal the bits.
    EXPECT_EQ(reporter.policy().CheckInvariants(), absl::OkStatus());
    EXPECT_EQ(guest.allocator().Counts().isolated, PageCount(0));
    EXPECT_EQ(guest.allocator().Counts().allocated(), PageCount(0));
  }
}

TEST(ReporterStressTest, LinuxReportsWhileVcpusRun) {
  for (uint64_t seed = 1; seed <= 3; ++seed) {
    SCOPED_TRACE(testing::Message() << "seed " << seed);
    RunningGuest guest;
    Reporter reporter(guest.allocator(), guest.workqueue(),
                      std::make_unique<LinuxPolicy>(
                          LinuxOptions{.order = kSmall,
                                       .delay = std::chrono::microseconds(100),
                                       .capacity = 2}));
    ASSERT_EQ(reporter.Enable(guest.device()), absl::OkStatus());
    guest.Start(seed, 3000);
    guest.Join();
    guest.workqueue().WaitUntil([&] { return reporter.AtRest(); });
    EXPECT_GT(reporter.counters().reported_blocks, 0u);
    EXPECT_EQ(guest.allocator().CheckInvariants(), absl::OkStatus());
    EXPECT_EQ(guest.allocator().Counts().isolated, PageCount(0));
    EXPECT_EQ(guest.allocator().Counts().allocated(), PageCount(0));
  }
}

TEST(ReporterStressTest, AdaptiveReportsWhileVcpusRunAndMemoryComesAndGoes) {
  for (uint64_t seed = 1; seed <= 3; ++seed) {
    SCOPED_TRACE(testing::Message() << "seed " << seed);
    RunningGuest guest;
    Reporter reporter(guest.allocator(), guest.workqueue(),
                      std::make_unique<AdaptivePolicy>(kSmallGuestmm));
    MemoryHotplug hotplug(guest.allocator(), /*ram=*/nullptr,
                          &guest.workqueue());
    ASSERT_EQ(reporter.Enable(guest.device()), absl::OkStatus());
    guest.Start(seed, 3000);
    const PfnRange more = RunningGuest::kMore;
    for (int round = 0; round < 20; ++round) {
      ASSERT_EQ(hotplug.Add(more, /*node=*/0), absl::OkStatus());
      ASSERT_EQ(hotplug.Online(more, ZoneType::kMovable), absl::OkStatus());
      while (!hotplug.Offline(more).ok()) std::this_thread::yield();
      ASSERT_EQ(hotplug.Remove(more), absl::OkStatus());
    }
    guest.Join();
    EXPECT_TRUE(guest.workqueue().WaitUntil([&] { return reporter.AtRest(); },
                                            std::chrono::seconds(60)));
    EXPECT_GT(reporter.counters().reported_blocks, 0u);
    EXPECT_EQ(guest.allocator().CheckInvariants(), absl::OkStatus());
    EXPECT_EQ(reporter.policy().CheckInvariants(), absl::OkStatus());
    EXPECT_EQ(guest.allocator().Counts().isolated, PageCount(0));
    EXPECT_EQ(guest.allocator().Counts().allocated(), PageCount(0));
  }
}

TEST(ReporterStressTest, ReportingIsEnabledAndDisabledWhileVcpusRun) {
  for (uint64_t seed = 1; seed <= 3; ++seed) {
    SCOPED_TRACE(testing::Message() << "seed " << seed);
    RunningGuest guest;
    Reporter reporter(guest.allocator(), guest.workqueue(),
                      std::make_unique<V12Policy>(kSmallV12));
    guest.Start(seed, 3000);
    for (int round = 0; round < 100; ++round) {
      ASSERT_EQ(reporter.Enable(guest.device()), absl::OkStatus());
      for (int i = 0; i < round % 10; ++i) std::this_thread::yield();
      ASSERT_EQ(reporter.Disable(guest.device()), absl::OkStatus());
      EXPECT_EQ(guest.allocator().Counts().isolated, PageCount(0));
    }
    guest.Join();
    EXPECT_EQ(guest.allocator().CheckInvariants(), absl::OkStatus());
  }
}

TEST(ReporterStressTest, MemoryComesAndGoesWhileVcpusRun) {
  for (uint64_t seed = 1; seed <= 3; ++seed) {
    SCOPED_TRACE(testing::Message() << "seed " << seed);
    RunningGuest guest;
    V12Options options = kSmallV12;
    options.hotplug = true;
    Reporter reporter(guest.allocator(), guest.workqueue(),
                      std::make_unique<V12Policy>(options));
    MemoryHotplug hotplug(guest.allocator(), /*ram=*/nullptr,
                          &guest.workqueue());
    ASSERT_EQ(reporter.Enable(guest.device()), absl::OkStatus());
    guest.Start(seed, 3000);
    const PfnRange more = RunningGuest::kMore;
    for (int round = 0; round < 50; ++round) {
      if (hotplug.StateOf(more.start) == "absent") {
        ASSERT_EQ(hotplug.Add(more, /*node=*/0), absl::OkStatus());
        ASSERT_EQ(hotplug.Online(more, ZoneType::kMovable), absl::OkStatus());
      }
      for (int i = 0; i < round % 10; ++i) std::this_thread::yield();
      // Refused if vCPUs use memory there.
      const absl::Status offline = hotplug.Offline(more);
      if (offline.ok()) {
        ASSERT_EQ(hotplug.Remove(more), absl::OkStatus());
      } else {
        ASSERT_EQ(offline.code(), absl::StatusCode::kFailedPrecondition);
      }
    }
    guest.Join();
    // All of it is free now, and merged.
    if (hotplug.StateOf(more.start) == "online") {
      EXPECT_EQ(hotplug.Offline(more), absl::OkStatus());
    }
    guest.workqueue().WaitUntil([&] { return reporter.AtRest(); });
    EXPECT_EQ(guest.allocator().CheckInvariants(), absl::OkStatus());
    EXPECT_EQ(reporter.policy().CheckInvariants(), absl::OkStatus());
    EXPECT_EQ(guest.allocator().Counts().isolated, PageCount(0));
    EXPECT_EQ(guest.allocator().Counts().allocated(), PageCount(0));
  }
}

}  // namespace
}  // namespace guestmm::reporter_stress_test
