// A request that fails, or waits, while memory is isolated for the host.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "guestmm/base/thread_workqueue.h"
#include "guestmm/base/virtual_time.h"
#include "guestmm/reporting/reporter.h"
#include "guestmm/reporting/v12_policy.h"
#include "tests/testing/fake_device.h"
#include "tests/testing/tiny_allocator.h"

namespace guestmm::premature_oom_test {
namespace {

using ::testing::ElementsAre;

TEST(PrematureOomTest, AFailureIsCountedWithWhatWasIsolated) {
  const auto allocator = MakeAllocator({.memory = {PagesFrom(Pfn(0), 64)},
                                        .max_order = Order(6),
                                        .section_order = Order(6),
                                        .min_free_kbytes = 0,
                                        .per_cpu_limits = kNoCache});
  EXPECT_TRUE(allocator->Allocate(0, Order(5)));
  // Blocks of 1, 2 and 4 pages remain.
  for (int i = 0; i < 25; ++i) EXPECT_TRUE(allocator->Allocate(0, Order(0)));
  IsolatedBlock block = Isolate(*allocator, Pfn(60));
  TakeAll(*allocator, 0, Order(0));
  VmStat stat = allocator->vmstat();
  EXPECT_EQ(stat.alloc_failed, 1);
  EXPECT_EQ(stat.alloc_failed_isolated, 1);
  EXPECT_EQ(stat.alloc_failed_isolated_pages, 4);
  EXPECT_FALSE(allocator->Allocate(0, Order(6), kGfpAtomic));
  stat = allocator->vmstat();
  EXPECT_EQ(stat.alloc_failed, 2);
  EXPECT_EQ(stat.alloc_failed_isolated, 2);
  EXPECT_EQ(stat.alloc_failed_isolated_pages, 8);
  Return(std::move(block));
  EXPECT_FALSE(allocator->Allocate(0, Order(6)));
  stat = allocator->vmstat();
  EXPECT_EQ(stat.alloc_failed, 3);
  EXPECT_EQ(stat.alloc_failed_isolated, 2);
  EXPECT_EQ(stat.alloc_waited_isolated, 0);
}

// Four blocks of four pages, and one more page, which stays free so that the
// last block can be isolated too; two blocks per report.
struct World {
  explicit World(bool wait, Workqueue& queue, std::unique_ptr<FakeDevice> to)
      : allocator(
            MakeAllocator({.memory = {PagesFrom(Pfn(0), 17)},
                           .max_order = Order(2),
                           .section_order = Order(2),
                           .min_free_kbytes = 0,
                           .per_cpu_limits = kNoCache,
                           .wait_for_isolated = wait ? &queue : nullptr})),
        device(std::move(to)),
        reporter(*allocator, queue,
                 std::make_unique<V12Policy>(V12Options{
                     .order = Order(2), .threshold = 2, .capacity = 2})) {
    EXPECT_EQ(reporter.Enable(*device), absl::OkStatus());
    for (int i = 0; i < 4; ++i) {
      blocks.push_back(*allocator->Allocate(0, Order(2)));
    }
  }

  std::unique_ptr<PageAllocator> allocator;
  std::unique_ptr<FakeDevice> device;
  Reporter reporter;
  std::vector<Pfn> blocks;
};

constexpr Nanoseconds kReportTime(1000);

// Frees two blocks: a batch, which is then with the host.
void SendABatch(World& world, VirtualTime& time) {
  world.allocator->Free(0, world.blocks[0], Order(2));
  world.allocator->Free(0, world.blocks[1], Order(2));
  time.RunFor(Nanoseconds(0));
  ASSERT_EQ(world.allocator->Counts().isolated, PageCount(8));
}

TEST(PrematureOomTest, WithoutTheOptionARequestFailsWhileABatchIsOut) {
  VirtualTime time(1);
  World world(/*wait=*/false, time,
              std::make_unique<FakeDevice>(time, kReportTime));
  ASSERT_NO_FATAL_FAILURE(SendABatch(world, time));
  EXPECT_FALSE(world.allocator->Allocate(0, Order(2)));
  const VmStat stat = world.allocator->vmstat();
  EXPECT_EQ(stat.alloc_failed_isolated, 1);
  EXPECT_EQ(stat.alloc_failed_isolated_pages, 8);
  EXPECT_EQ(stat.alloc_waited_isolated, 0);
  time.RunUntilIdle();
}

TEST(PrematureOomTest, WithItTheRequestWaitsUntilTheBatchIsBack) {
  VirtualTime time(1);
  World world(/*wait=*/true, time,
              std::make_unique<FakeDevice>(time, kReportTime));
  ASSERT_NO_FATAL_FAILURE(SendABatch(world, time));
  EXPECT_TRUE(world.allocator->Allocate(0, Order(2)));
  EXPECT_EQ(time.Now(), kReportTime);
  const VmStat stat = world.allocator->vmstat();
  EXPECT_EQ(stat.alloc_failed, 0);
  EXPECT_EQ(stat.alloc_waited_isolated, 1);
  ExpectInvariants(*world.allocator);
  time.RunUntilIdle();
}

// A work cannot wait for its own queue: it has to end, and to repeat the
// request when it is worth it. Nothing has failed.
TEST(PrematureOomTest, AWorkIsGivenWhatToWaitFor) {
  VirtualTime time(1);
  World world(/*wait=*/true, time,
              std::make_unique<FakeDevice>(time, kReportTime));
  ASSERT_NO_FATAL_FAILURE(SendABatch(world, time));
  std::vector<Nanoseconds> attempts;
  std::optional<Pfn> pfn;
  std::function<bool()> when_to_retry;
  Work step([&] {
    attempts.push_back(time.Now());
    pfn = world.allocator->Allocate(0, Order(2));
    if (!pfn)
      when_to_retry = world.allocator->WhenToRetry(0, Order(2), kGfpUser);
  });
  time.Queue(step);
  time.RunFor(Nanoseconds(0));
  EXPECT_EQ(pfn, std::nullopt);
  ASSERT_TRUE(when_to_retry);
  EXPECT_FALSE(when_to_retry());
  EXPECT_TRUE(time.QueueWhen(step, when_to_retry));
  time.RunUntilIdle();
  EXPECT_TRUE(pfn.has_value());
  EXPECT_THAT(attempts, ElementsAre(Nanoseconds(0), kReportTime));
  const VmStat stat = world.allocator->vmstat();
  EXPECT_EQ(stat.alloc_failed, 0);
  EXPECT_EQ(stat.alloc_failed_isolated, 0);
  EXPECT_EQ(stat.alloc_waited_isolated, 1);
  ExpectInvariants(*world.allocator);
}

// Outside any work the caller may wait inside Allocate; a request without
// reclaim never waits; and with nothing isolated there is nothing to wait for.
TEST(PrematureOomTest, OtherRequestsAreGivenNothingToWaitFor) {
  VirtualTime time(1);
  World world(/*wait=*/true, time,
              std::make_unique<FakeDevice>(time, kReportTime));
  const auto given_in_work = [&](Gfp gfp) {
    bool given = false;
    Work step([&] {
      given = world.allocator->WhenToRetry(0, Order(2), gfp) != nullptr;
    });
    time.Queue(step);
    time.RunFor(Nanoseconds(0));
    return given;
  };
  EXPECT_FALSE(given_in_work(kGfpUser));  // nothing is isolated
  ASSERT_NO_FATAL_FAILURE(SendABatch(world, time));
  EXPECT_FALSE(world.allocator->WhenToRetry(0, Order(2), kGfpUser));
  EXPECT_FALSE(given_in_work(kGfpAtomic));
  EXPECT_TRUE(given_in_work(kGfpUser));
  time.RunUntilIdle();
}

// The next batch is isolated at the moment the first one returns, and is as
// large: the returned memory is noticed all the same.
TEST(PrematureOomTest, ItDoesNotWaitForTheNextBatchThatIsAsLarge) {
  VirtualTime time(1);
  const auto allocator = MakeAllocator(
      {.memory = {PagesFrom(Pfn(0), 9), PagesFrom(kDma32Start, 9)},
       .max_order = Order(2),
       .section_order = Order(2),
       .min_free_kbytes = 0,
       .per_cpu_limits = kNoCache,
       .wait_for_isolated = &time});
  FakeDevice device(time, kReportTime);
  Reporter reporter(*allocator, time,
                    std::make_unique<V12Policy>(V12Options{
                        .order = Order(2), .threshold = 2, .capacity = 2}));
  ASSERT_EQ(reporter.Enable(device), absl::OkStatus());
  std::vector<Pfn> blocks;
  for (int i = 0; i < 4; ++i) {
    blocks.push_back(*allocator->Allocate(0, Order(2), kGfpDma32));
  }
  // From here on DMA32 is closed to this request, although it is counted.
  LowmemReserve reserve{};
  reserve[static_cast<size_t>(ZoneType::kDma32)] = PageCount(100);
  allocator->zone(0, ZoneType::kDma32).SetWatermarks({}, reserve);
  FreeAll(*allocator, 0, blocks, Order(2));
  time.RunFor(Nanoseconds(0));
  ASSERT_EQ(allocator->zone(0, ZoneType::kDma).isolated_pages(), PageCount(8));
  const auto pfn = allocator->Allocate(0, Order(2), kGfpDma32);
  ASSERT_TRUE(pfn.has_value());
  EXPECT_LT(*pfn, kDma32Start);
  EXPECT_EQ(time.Now(), kReportTime);
  EXPECT_EQ(allocator->zone(0, ZoneType::kDma32).isolated_pages(),
            PageCount(8));
  time.RunUntilIdle();
}

// If all isolated memory has returned and is too little, the wait ends.
TEST(PrematureOomTest, ItFailsOnceNothingIsIsolatedAnyMore) {
  VirtualTime time(1);
  World world(/*wait=*/true, time,
              std::make_unique<FakeDevice>(time, kReportTime));
  world.allocator->Free(0, world.blocks[0], Order(2));
  world.allocator->Free(0, world.blocks[2], Order(2));
  time.RunFor(Nanoseconds(0));
  EXPECT_EQ(TakeAll(*world.allocator, 0, Order(2)).size(), 2);
  EXPECT_EQ(world.allocator->vmstat().alloc_failed, 1);
  EXPECT_EQ(world.allocator->vmstat().alloc_failed_isolated, 0);
  time.RunUntilIdle();
}

TEST(PrematureOomTest, ARequestThatMayNotWaitDoesNotWaitForTheHost) {
  VirtualTime time(1);
  World world(/*wait=*/true, time,
              std::make_unique<FakeDevice>(time, kReportTime));
  ASSERT_NO_FATAL_FAILURE(SendABatch(world, time));
  EXPECT_FALSE(world.allocator->Allocate(0, Order(2), kGfpAtomic));
  EXPECT_EQ(time.Now(), Nanoseconds(0));
  EXPECT_EQ(world.allocator->vmstat().alloc_failed_isolated, 1);
  time.RunUntilIdle();
}

// On threads: the host answers only once the request is known to wait.
TEST(PrematureOomTest, OnThreadsARequestWaitsForTheHost) {
  ThreadWorkqueue queue;
  World world(/*wait=*/true, queue, std::make_unique<FakeDevice>());
  world.allocator->Free(0, world.blocks[0], Order(2));
  world.allocator->Free(0, world.blocks[1], Order(2));
  ASSERT_TRUE(queue.WaitUntil([&] { return world.device->outstanding(); }));
  std::optional<Pfn> pfn;
  std::thread vcpu([&] { pfn = world.allocator->Allocate(0, Order(2)); });
  while (world.allocator->vmstat().alloc_waited_isolated == 0) {
    std::this_thread::yield();
  }
  world.device->End();
  vcpu.join();
  EXPECT_TRUE(pfn.has_value());
  EXPECT_EQ(world.allocator->vmstat().alloc_failed, 0);
  EXPECT_TRUE(queue.WaitUntil([&] { return world.reporter.AtRest(); }));
  ExpectInvariants(*world.allocator);
}

}  // namespace
}  // namespace guestmm::premature_oom_test
