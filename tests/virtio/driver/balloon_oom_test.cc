// Allocations that find no memory while the host has pages of the balloon or
// hints: they wait until it has answered, or is reset.

#include <gtest/gtest.h>

#include <chrono>
#include <functional>
#include <latch>
#include <memory>
#include <optional>
#include <thread>
#include <tuple>
#include <vector>

#include "guestmm/base/thread_workqueue.h"
#include "guestmm/host/discard/discarding_hypervisor.h"
#include "tests/testing/await.h"
#include "tests/virtio/balloon_testing.h"
#include "tests/virtio/virtio_testing.h"

namespace guestmm::balloon_oom_test {
namespace {

constexpr uint16_t kInflateIndex = 0;
constexpr uint16_t kDeflateIndex = 1;
constexpr uint16_t kFreePageIndex = 2;
// More than the guest has.
constexpr uint32_t kAllPages = 5000;
constexpr Nanoseconds kLater = std::chrono::milliseconds(1);

void FillBalloon(BalloonGuest& guest) {
  ASSERT_TRUE(guest.Start().ok());
  guest.device().SetTarget(kAllPages);
  guest.time().RunUntilIdle();
  ASSERT_GT(guest.driver().balloon_pages(), PageCount(500));
}

class BalloonOomTest
    : public ::testing::TestWithParam<std::tuple<int, uint64_t>> {};

INSTANTIATE_TEST_SUITE_P(
    OrdersAndFeatures, BalloonOomTest,
    ::testing::Combine(::testing::Values(0, 3, 4),
                       ::testing::Values(uint64_t{0}, kBalloonFMustTellHost)));

TEST_P(BalloonOomTest, NoRequestFailsWhileTheBalloonHasPages) {
  const auto [value, features] = GetParam();
  const Order order(value);
  BalloonGuest guest({.features = features | kBalloonFDeflateOnOom});
  ASSERT_NO_FATAL_FAILURE(FillBalloon(guest));
  PageAllocator& allocator = guest.allocator();
  std::vector<Pfn> blocks;
  while (const auto pfn = allocator.Allocate(0, order)) blocks.push_back(*pfn);
  EXPECT_EQ(guest.driver().balloon_pages(), PageCount(0));
  EXPECT_EQ(allocator.Counts().allocated(),
            order.pages() * blocks.size() + guest.driver().queue_pages());
  for (const Pfn pfn : blocks) allocator.Free(0, pfn, order);
  guest.time().RunUntilIdle();
  EXPECT_EQ(guest.device().actual(), 0u);
  EXPECT_TRUE(allocator.CheckInvariants().ok());
}

// Of the balloon without DEFLATE_ON_OOM a request may use only what the host
// gives back, and all of that.
TEST(BalloonWaitTest, ARequestWaitsForWhatTheHostGivesBack) {
  BalloonGuest guest({.features = 0});
  ASSERT_NO_FATAL_FAILURE(FillBalloon(guest));
  guest.slow().Hold(kDeflateIndex);
  guest.device().SetTarget(100);
  guest.time().RunUntilIdle();
  Work answer([&] { guest.slow().LetGo(kDeflateIndex); });
  guest.time().Queue(answer, kLater);
  EXPECT_GT(guest.TakeAllPages(), 500u);
  EXPECT_EQ(guest.driver().balloon_pages(), PageCount(100));
  EXPECT_EQ(guest.held_pages(), 100u);
}

// Pages that are still being inflated may be used once they are in the balloon:
// with DEFLATE_ON_OOM, or if the host has lowered its target meanwhile. One
// page is enough, though it comes back to a per-CPU list.
TEST(BalloonWaitTest, ARequestWaitsForAnInflationThatIsUndone) {
  for (const uint64_t features : {kBalloonFDeflateOnOom, uint64_t{0}}) {
    for (const uint32_t target : {1, 50}) {
      SCOPED_TRACE(target);
      BalloonGuest guest({.features = features});
      ASSERT_TRUE(guest.Start().ok());
      guest.slow().Hold(kInflateIndex);
      guest.device().SetTarget(target);
      guest.time().RunUntilIdle();
      if (features == 0) guest.device().SetTarget(0);
      guest.time().RunUntilIdle();
      ASSERT_EQ(guest.held_pages(), target);
      Work answer([&] { guest.slow().LetGo(kInflateIndex); });
      guest.time().Queue(answer, kLater);
      EXPECT_GT(guest.TakeAllPages(), 500u);
      EXPECT_EQ(guest.held_pages(), 0u);
    }
  }
}

class HintWaitTest : public ::testing::TestWithParam<bool> {};

INSTANTIATE_TEST_SUITE_P(WithAndWithoutDone, HintWaitTest, ::testing::Bool());

// Whether or not the driver sees DONE.
TEST_P(HintWaitTest, ARequestWaitsForHints) {
  BalloonGuest guest({.features = kBalloonFFreePageHint});
  ASSERT_TRUE(guest.Start().ok());
  // The device has seen the run's id, and no hint yet.
  guest.slow().Hold(kFreePageIndex);
  ASSERT_TRUE(guest.device().StartHinting().ok());
  guest.time().RunUntilIdle();
  guest.slow().LetGo(kFreePageIndex);
  guest.slow().Hold(kFreePageIndex);
  guest.time().RunUntilIdle();
  ASSERT_GT(guest.driver().hinted_pages(), PageCount(500));
  if (!GetParam()) {
    guest.slow().hint_command = guest.config().free_page_hint_cmd_id;
  }
  Work answer([&] { guest.slow().LetGo(kFreePageIndex); });
  guest.time().Queue(answer, kLater);
  EXPECT_GT(guest.TakeAllPages(), 500u);
  EXPECT_EQ(guest.driver().hinted_pages(), PageCount(0));
  EXPECT_EQ(guest.held_pages(), 0u);
}

// The host never answers; the driver is destroyed between two events.
TEST(BalloonWaitTest, AResetEndsTheWaitOfAWork) {
  BalloonGuest guest({.features = kBalloonFDeflateOnOom});
  ASSERT_NO_FATAL_FAILURE(FillBalloon(guest));
  guest.slow().Hold(kDeflateIndex);
  size_t taken = 0;
  std::function<bool()> when_to_retry;
  Work step([&] {
    taken += guest.TakeAllPages();
    when_to_retry = guest.allocator().WhenToRetry(0, Order(0), kGfpUser);
  });
  guest.time().Queue(step);
  guest.time().RunUntilIdle();
  ASSERT_TRUE(when_to_retry);
  const size_t before = taken;
  EXPECT_TRUE(guest.time().QueueWhen(step, when_to_retry));
  guest.Stop();
  guest.time().RunUntilIdle();
  EXPECT_GT(taken, before + 500);
  EXPECT_FALSE(when_to_retry);
}

enum class Ends { kFreeze, kDestruction };

class BalloonResetTest : public ::testing::TestWithParam<Ends> {};

INSTANTIATE_TEST_SUITE_P(BothWays, BalloonResetTest,
                         ::testing::Values(Ends::kFreeze, Ends::kDestruction));

// As before, on threads: the device's thread is busy with something else.
TEST_P(BalloonResetTest, EndsTheWaitOfAThread) {
  const auto ram = MakeRam({{Gpa(0), 8 * kMiB}});
  DiscardingHypervisor hypervisor(*ram);
  // Outlive the thread that they keep busy.
  std::latch answers{1};
  Work busy([&] { answers.wait(); });
  ThreadWorkqueue host;
  ThreadWorkqueue guest;
  BalloonDevice device(*ram, hypervisor, host,
                       {.features = kBalloonFDeflateOnOom});
  const auto allocator = PageAllocator::Create({.memory = {{Pfn(0), Pfn(1024)}},
                                                .max_order = Order(4),
                                                .min_free_kbytes = 64})
                             .value();
  auto driver = BalloonDriver::Create(device, *ram, *allocator, guest).value();
  constexpr PageCount kTarget(700);
  device.SetTarget(static_cast<uint32_t>(kTarget.value()));
  ASSERT_TRUE(Await([&] { return device.actual() == kTarget.value(); }));
  host.Queue(busy);

  std::vector<Pfn> taken;
  std::thread vcpu([&] {
    while (const auto pfn = allocator->Allocate(0, Order(0))) {
      taken.push_back(*pfn);
    }
  });
  EXPECT_TRUE(Await([&] { return driver->balloon_pages() < kTarget; }));
  if (GetParam() == Ends::kFreeze) {
    EXPECT_TRUE(driver->Freeze());
  } else {
    driver.reset();
  }
  vcpu.join();
  EXPECT_GT(taken.size(), kTarget.value());
  EXPECT_EQ(allocator->Counts().allocated(), PageCount(taken.size()));
  for (const Pfn pfn : taken) allocator->Free(0, pfn, Order(0));
  answers.count_down();
}

}  // namespace
}  // namespace guestmm::balloon_oom_test
