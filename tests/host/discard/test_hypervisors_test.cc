#include "tests/testing/test_hypervisors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "guestmm/host/discard/discarding_hypervisor.h"
#include "guestmm/host/discard/null_hypervisor.h"
#include "guestmm/ram/guest_ram.h"

namespace guestmm::test_hypervisors_test {
namespace {

using ::testing::ElementsAre;

constexpr GpaRange kA = {Gpa(0), kMiB};
constexpr GpaRange kB = {Gpa(2 * kMiB), kMiB};

// 4 MiB, all written to.
std::unique_ptr<GuestRam> TouchedRam() {
  auto ram = GuestRam::Create({.regions = {{Gpa(0), 4 * kMiB}},
                               .huge_pages = HugePages::kForbid})
                 .value();
  const Translation memory = ram->Translate({Gpa(0), 4 * kMiB}).value();
  const std::span<std::byte> bytes = memory.bytes();
  std::fill(bytes.begin(), bytes.end(), std::byte{1});
  return ram;
}

TEST(RecordingHypervisorTest, RemembersTheBatchesInOrder) {
  RecordingHypervisor hypervisor;
  EXPECT_EQ(hypervisor.Discard({{kB, kA}}), absl::OkStatus());
  EXPECT_EQ(hypervisor.Discard({{kA}}), absl::OkStatus());
  EXPECT_THAT(hypervisor.batches(),
              ElementsAre(ElementsAre(kB, kA), ElementsAre(kA)));
}

TEST(RecordingHypervisorTest, WithoutANextDiscardsNothing) {
  RecordingHypervisor hypervisor;
  EXPECT_EQ(hypervisor.Discard({{kA}}), absl::OkStatus());
  EXPECT_EQ(hypervisor.counters().bytes, 0u);
}

TEST(RecordingHypervisorTest, ForwardsToTheNext) {
  const auto ram = TouchedRam();
  DiscardingHypervisor next(*ram);
  RecordingHypervisor hypervisor(&next);
  EXPECT_EQ(hypervisor.Discard({{kA}}), absl::OkStatus());
  EXPECT_EQ(ram->ResidentBytes().value(), 3 * kMiB);
  EXPECT_EQ(hypervisor.counters().bytes, kMiB);
  EXPECT_EQ(hypervisor.Discard({{{Gpa(kGiB), kMiB}}}).code(),
            absl::StatusCode::kOutOfRange);
}

TEST(RecordingHypervisorTest, TheHookSeesTheMemoryStillThere) {
  const auto ram = TouchedRam();
  DiscardingHypervisor next(*ram);
  std::vector<GpaRange> seen;
  RecordingHypervisor hypervisor(&next, [&](std::span<const GpaRange> ranges) {
    seen.assign(ranges.begin(), ranges.end());
    EXPECT_EQ(ram->ResidentBytes().value(), 4 * kMiB);
  });
  EXPECT_EQ(hypervisor.Discard({{kA}}), absl::OkStatus());
  EXPECT_THAT(seen, ElementsAre(kA));
}

// No lock is held, so the hook may do what other threads could.
TEST(RecordingHypervisorTest, TheHookMayReEnter) {
  RecordingHypervisor* self = nullptr;
  RecordingHypervisor hypervisor(nullptr, [&](std::span<const GpaRange>) {
    if (self->batches().size() < 3) {
      EXPECT_EQ(self->Discard({{kB}}), absl::OkStatus());
    }
  });
  self = &hypervisor;
  EXPECT_EQ(hypervisor.Discard({{kA}}), absl::OkStatus());
  EXPECT_THAT(hypervisor.batches(),
              ElementsAre(ElementsAre(kA), ElementsAre(kB), ElementsAre(kB)));
}

TEST(RecordingHypervisorTest, AnyThreadMayDiscard) {
  RecordingHypervisor hypervisor;
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      for (int round = 0; round < 100; ++round) {
        EXPECT_EQ(hypervisor.Discard({{kA}}), absl::OkStatus());
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(hypervisor.batches().size(), 400u);
}

TEST(FailingHypervisorTest, FailsSelectedDiscardsAndForwardsTheRest) {
  RecordingHypervisor next;
  FailingHypervisor hypervisor(next,
                               [](uint64_t number) { return number == 1; });
  EXPECT_EQ(hypervisor.Discard({{kA}}), absl::OkStatus());
  const absl::Status status = hypervisor.Discard({{kA}});
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(std::string(status.message()),
            "discard refused by FailingHypervisor");
  EXPECT_EQ(hypervisor.Discard({{kB}}), absl::OkStatus());
  EXPECT_THAT(next.batches(), ElementsAre(ElementsAre(kA), ElementsAre(kB)));
}

TEST(FailingHypervisorTest, FailedDiscardsHaveNoEffectAndAreCounted) {
  const auto ram = TouchedRam();
  DiscardingHypervisor next(*ram);
  FailingHypervisor hypervisor(next, [](uint64_t) { return true; });
  EXPECT_FALSE(hypervisor.Discard({{kA}}).ok());
  EXPECT_EQ(ram->ResidentBytes().value(), 4 * kMiB);
  EXPECT_EQ(hypervisor.counters().failures, 1u);
  EXPECT_EQ(hypervisor.counters().calls, 0u);
}

// Counts its own failures in addition to those of the next one.
TEST(FailingHypervisorTest, AddsToTheCountersOfItsNext) {
  NullHypervisor null;
  FailingHypervisor inner(null, [](uint64_t number) { return number == 0; });
  FailingHypervisor outer(inner, [](uint64_t number) { return number == 1; });
  EXPECT_FALSE(outer.Discard({{kA}}).ok());  // inner
  EXPECT_FALSE(outer.Discard({{kA}}).ok());  // outer
  EXPECT_TRUE(outer.Discard({{kA}}).ok());
  EXPECT_EQ(outer.counters().failures, 2u);
  EXPECT_EQ(inner.counters().failures, 1u);
}

}  // namespace
}  // namespace guestmm::test_hypervisors_test
