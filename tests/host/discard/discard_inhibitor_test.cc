#include "guestmm/host/discard/discard_inhibitor.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <span>
#include <thread>
#include <utility>
#include <vector>

#include "guestmm/base/check.h"
#include "guestmm/host/discard/null_hypervisor.h"
#include "tests/testing/test_hypervisors.h"

namespace guestmm::discard_inhibitor_test {
namespace {

using ::testing::ElementsAre;

constexpr GpaRange kA = {Gpa(0), kMiB};
constexpr GpaRange kB = {Gpa(2 * kMiB), 3 * kMiB};

// An inhibitor, and the hypervisor behind it.
struct Inhibited {
  explicit Inhibited(RecordingHypervisor::Hook on_discard = {})
      : Inhibited(std::make_unique<RecordingHypervisor>(
            nullptr, std::move(on_discard))) {}
  explicit Inhibited(std::unique_ptr<RecordingHypervisor> recording)
      : next(*recording), inhibitor(std::move(recording)) {}

  RecordingHypervisor& next;
  DiscardInhibitor inhibitor;
};

TEST(DiscardInhibitorTest, ForwardsInitially) {
  Inhibited world;
  EXPECT_FALSE(world.inhibitor.inhibited());
  EXPECT_EQ(world.inhibitor.Discard({{kA, kB}}), absl::OkStatus());
  EXPECT_THAT(world.next.batches(), ElementsAre(ElementsAre(kA, kB)));
  EXPECT_EQ(world.inhibitor.counters().inhibited_discards, 0u);
  EXPECT_EQ(world.inhibitor.counters().inhibited_bytes, 0u);
}

TEST(DiscardInhibitorTest, InhibitedIsAcknowledgedAndCounted) {
  Inhibited world;
  world.inhibitor.Inhibit();
  EXPECT_TRUE(world.inhibitor.inhibited());
  EXPECT_EQ(world.inhibitor.Discard({{kA, kB}}), absl::OkStatus());
  EXPECT_EQ(world.inhibitor.Discard({{kA}}), absl::OkStatus());
  EXPECT_TRUE(world.next.batches().empty());
  EXPECT_EQ(world.inhibitor.counters().inhibited_discards, 2u);
  EXPECT_EQ(world.inhibitor.counters().inhibited_bytes, 5 * kMiB);
}

// Inhibited discards are not done later.
TEST(DiscardInhibitorTest, ForwardsAgainAfterAllow) {
  Inhibited world;
  world.inhibitor.Inhibit();
  EXPECT_EQ(world.inhibitor.Discard({{kA}}), absl::OkStatus());
  world.inhibitor.Allow();
  EXPECT_FALSE(world.inhibitor.inhibited());
  EXPECT_EQ(world.inhibitor.Discard({{kB}}), absl::OkStatus());
  EXPECT_THAT(world.next.batches(), ElementsAre(ElementsAre(kB)));
}

TEST(DiscardInhibitorTest, Nests) {
  Inhibited world;
  world.inhibitor.Inhibit();
  world.inhibitor.Inhibit();
  world.inhibitor.Allow();
  EXPECT_TRUE(world.inhibitor.inhibited());
  EXPECT_EQ(world.inhibitor.Discard({{kA}}), absl::OkStatus());
  EXPECT_TRUE(world.next.batches().empty());
  world.inhibitor.Allow();
  EXPECT_FALSE(world.inhibitor.inhibited());
}

TEST(DiscardInhibitorTest, ForwardsErrorsAndCounters) {
  NullHypervisor null;
  DiscardInhibitor inhibitor(
      std::make_unique<FailingHypervisor>(null, [](uint64_t) { return true; }));
  EXPECT_EQ(inhibitor.Discard({{kA}}).code(), absl::StatusCode::kUnavailable);
  inhibitor.Inhibit();
  EXPECT_EQ(inhibitor.Discard({{kA}}), absl::OkStatus());
  EXPECT_EQ(inhibitor.counters().failures, 1u);
  EXPECT_EQ(inhibitor.counters().inhibited_bytes, kMiB);
}

TEST(DiscardInhibitorTest, AddsToTheCountersOfItsNext) {
  auto inner =
      std::make_unique<DiscardInhibitor>(std::make_unique<NullHypervisor>());
  inner->Inhibit();
  DiscardInhibitor outer(std::move(inner));
  EXPECT_EQ(outer.Discard({{kA}}), absl::OkStatus());  // inner
  outer.Inhibit();
  EXPECT_EQ(outer.Discard({{kB}}), absl::OkStatus());  // outer
  EXPECT_EQ(outer.counters().inhibited_discards, 2u);
  EXPECT_EQ(outer.counters().inhibited_bytes, 4 * kMiB);
}

TEST(DiscardInhibitorDeathTest, AllowWithoutInhibit) {
  DiscardInhibitor inhibitor(std::make_unique<NullHypervisor>());
  EXPECT_DEATH(inhibitor.Allow(), "Allow called more often than Inhibit");
}

// Once Inhibit has returned the device may start, so no discard may be in
// progress.
TEST(DiscardInhibitorThreadsTest, InhibitWaitsForDiscardsInProgress) {
  std::atomic<bool> is_inside{false};
  std::atomic<bool> may_end{false};
  std::atomic<bool> ended{false};
  Inhibited world([&](std::span<const GpaRange>) {
    is_inside = true;
    is_inside.notify_all();
    may_end.wait(false);
    ended = true;
  });
  std::thread discarding(
      [&] { GUESTMM_CHECK(world.inhibitor.Discard({{kA}}).ok()); });
  is_inside.wait(false);
  std::thread inhibiting([&] {
    world.inhibitor.Inhibit();
    GUESTMM_CHECK(ended);
  });
  // It is inhibiting: other discards are inhibited while it still waits.
  while (!world.inhibitor.inhibited()) std::this_thread::yield();
  EXPECT_EQ(world.inhibitor.Discard({{kB}}), absl::OkStatus());
  EXPECT_FALSE(ended);
  may_end = true;
  may_end.notify_all();
  discarding.join();
  inhibiting.join();
  EXPECT_THAT(world.next.batches(), ElementsAre(ElementsAre(kA)));
}

// Two devices come and go while two threads discard. No discard runs while a
// device is there. Each discard is either forwarded or counted.
TEST(DiscardInhibitorThreadsTest, NoDiscardRunsWhileInhibited) {
  constexpr int kRounds = 2000;
  std::atomic<int> devices{0};
  Inhibited world([&](std::span<const GpaRange>) {
    GUESTMM_CHECK(devices == 0) << "a discard under a device";
    std::this_thread::yield();
    GUESTMM_CHECK(devices == 0) << "a device came during a discard";
  });
  std::vector<std::thread> threads;
  for (int i = 0; i < 2; ++i) {
    threads.emplace_back([&] {
      for (int round = 0; round < kRounds; ++round) {
        GUESTMM_CHECK(world.inhibitor.Discard({{kA}}).ok());
      }
    });
    threads.emplace_back([&] {
      for (int round = 0; round < kRounds; ++round) {
        world.inhibitor.Inhibit();
        ++devices;
        std::this_thread::yield();
        --devices;
        world.inhibitor.Allow();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_FALSE(world.inhibitor.inhibited());
  EXPECT_EQ(world.next.batches().size() +
                world.inhibitor.counters().inhibited_discards,
            2u * kRounds);
}

}  // namespace
}  // namespace guestmm::discard_inhibitor_test
