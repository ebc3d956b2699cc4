// A guest and its balloon: poisoned free memory with reporting, suspend and
// resume, inflation and hints.

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "guestmm/base/virtual_time.h"
#include "guestmm/machine/real/guest.h"
#include "guestmm/reporting/linux_policy.h"
#include "guestmm/reporting/reporter.h"
#include "guestmm/reporting/v12_policy.h"
#include "guestmm/virtio/device/balloon_device.h"
#include "guestmm/virtio/driver/balloon_driver.h"
#include "guestmm/virtio/wire/balloon.h"

namespace guestmm::guest_balloon_test {
namespace {

constexpr Order kHuge = kPageblockOrder;

GuestOptions Options(VirtualTime& time) {
  return {
      .memory = MemoryMap::Pc(128 * kMiB),
      .huge_pages = HugePages::kForbid,
      .make_policy = [] { return std::make_unique<V12Policy>(V12Options{}); },
      .virtual_time = &time};
}

// Allocates every free block of 2 MiB.
std::vector<Pfn> AllocateAll(Guest& guest) {
  std::vector<Pfn> blocks;
  while (const std::optional<Pfn> pfn = guest.vcpu(0).Allocate(kHuge)) {
    blocks.push_back(*pfn);
  }
  return blocks;
}

void Touch(Guest& guest, const std::vector<Pfn>& blocks) {
  for (const Pfn pfn : blocks) guest.vcpu(0).Touch(pfn, kHuge, /*stamp=*/1);
}

void Free(Guest& guest, const std::vector<Pfn>& blocks) {
  for (const Pfn pfn : blocks) guest.vcpu(0).Free(pfn, kHuge);
}

bool IsZero(Guest& guest, Pfn pfn) {
  const auto block = guest.ram().Translate({ToGpa(pfn), kHuge.bytes()});
  return std::all_of(block->bytes().begin(), block->bytes().end(),
                     [](std::byte byte) { return byte == std::byte{0}; });
}

// The guest's poisoning mode, and whether its balloon offers PAGE_POISON.
class GuestPoisonTest
    : public testing::TestWithParam<std::tuple<PagePoisonMode, bool>> {};

INSTANTIATE_TEST_SUITE_P(
    EveryCombination, GuestPoisonTest,
    testing::Combine(testing::Values(PagePoisonMode::kOff,
                                     PagePoisonMode::kPoison,
                                     PagePoisonMode::kInitOnFree),
                     testing::Bool()));

// All memory is allocated, freed, reported if guest and device agreed on that,
// and allocated again: it still holds the guest's poison.
TEST_P(GuestPoisonTest, S5_5_6_7_ThePoisonIsThereAfterReporting) {
  const auto [mode, offered] = GetParam();
  VirtualTime time(1);
  GuestOptions options = Options(time);
  options.page_poison.mode = mode;
  options.balloon_features =
      kBalloonFPageReporting | (offered ? kBalloonFPagePoison : 0);
  const auto guest = Guest::Create(options).value();
  const bool reports = mode == PagePoisonMode::kOff || offered;
  ASSERT_EQ(guest->reporter() != nullptr, reports)
      << "without PAGE_POISON a guest that poisons reports nothing";
  EXPECT_EQ((guest->driver()->features() & kBalloonFPagePoison) != 0,
            offered && mode != PagePoisonMode::kOff);

  for (int round = 0; round < 3; ++round) {
    const std::vector<Pfn> blocks = AllocateAll(*guest);
    ASSERT_GT(blocks.size(), 40u);
    if (mode == PagePoisonMode::kInitOnFree) {
      for (const Pfn pfn : blocks) EXPECT_TRUE(IsZero(*guest, pfn)) << pfn;
    }
    Touch(*guest, blocks);
    Free(*guest, blocks);
    time.RunUntilIdle();
    ASSERT_EQ(guest->CheckInvariants(), absl::OkStatus());
  }
  if (mode == PagePoisonMode::kPoison) {
    EXPECT_EQ(guest->page_poison()->corrupted_pages(), 0u);
  }
  const BalloonDeviceCounters counters = guest->device()->counters();
  EXPECT_EQ(counters.reports > 0, reports);
  // Memory with a nonzero poison is kept; all other memory is discarded.
  const bool keeps = mode == PagePoisonMode::kPoison && offered;
  EXPECT_EQ(counters.poisoned_bytes > 0, keeps);
  EXPECT_EQ(counters.bytes > 0, reports && !keeps);
  EXPECT_EQ(counters.skipped(), 0u);
}

// A guest is suspended with a report in flight: its blocks are returned,
// nothing more is reported, and Resume continues as before.
TEST(GuestBalloonTest, SuspendsInTheMiddleOfAReportAndResumes) {
  VirtualTime time(1);
  const auto guest = Guest::Create(Options(time)).value();
  const std::vector<Pfn> blocks = AllocateAll(*guest);
  Touch(*guest, blocks);
  Free(*guest, blocks);
  time.WaitUntil(
      [&] { return guest->allocator().Counts().isolated > PageCount(0); });
  ASSERT_GT(guest->allocator().Counts().isolated, PageCount(0));

  ASSERT_EQ(guest->Suspend(), absl::OkStatus());
  EXPECT_EQ(guest->allocator().Counts().isolated, PageCount(0));
  EXPECT_EQ(guest->allocator().Counts().allocated(), PageCount(0))
      << "queues too";
  EXPECT_EQ(guest->device()->status(), 0);
  EXPECT_EQ(guest->CheckInvariants(), absl::OkStatus());
  EXPECT_TRUE(absl::IsNotFound(guest->Suspend())) << "nothing to end";
  const uint64_t before = guest->device()->counters().reports;
  const std::vector<Pfn> again = AllocateAll(*guest);
  Touch(*guest, again);
  Free(*guest, again);
  time.RunUntilIdle();
  EXPECT_EQ(guest->device()->counters().reports, before);

  ASSERT_EQ(guest->Resume(), absl::OkStatus());
  const absl::Status twice = guest->Resume();
  EXPECT_EQ(twice,
            absl::FailedPreconditionError("the balloon driver is not frozen"));
  const std::vector<Pfn> later = AllocateAll(*guest);
  Free(*guest, later);
  time.RunUntilIdle();
  EXPECT_GT(guest->device()->counters().reports, before);
  EXPECT_EQ(guest->CheckInvariants(), absl::OkStatus());
}

TEST(GuestBalloonTest, WithoutABalloonThereIsNothingToSuspend) {
  VirtualTime time(1);
  const auto guest =
      Guest::Create({.memory = MemoryMap::Pc(32 * kMiB), .virtual_time = &time})
          .value();
  EXPECT_EQ(guest->Suspend(),
            absl::FailedPreconditionError("the guest has no balloon"));
  EXPECT_EQ(guest->Resume(),
            absl::FailedPreconditionError("the guest has no balloon"));
}

// Without a policy, the host inflates the balloon by half of the guest's memory
// and deflates it again.
TEST(GuestBalloonTest, TheHostTakesMemoryAndGivesItBack) {
  VirtualTime time(1);
  GuestOptions options = Options(time);
  options.make_policy = {};
  options.balloon_features = kBalloonFStatsVq | kBalloonFMustTellHost;
  const auto guest = Guest::Create(options).value();
  const std::vector<Pfn> blocks = AllocateAll(*guest);
  Touch(*guest, blocks);
  Free(*guest, blocks);
  const uint64_t full = guest->ram().ResidentBytes().value();
  constexpr uint32_t kHalf = 64 * kMiB / kBalloonPageSize;

  guest->device()->SetTarget(kHalf);
  time.RunUntilIdle();
  EXPECT_EQ(guest->device()->actual(), kHalf);
  EXPECT_EQ(guest->driver()->balloon_pages(), PageCount(kHalf));
  // The queues may have touched more of their pages meanwhile.
  EXPECT_LE(guest->ram().ResidentBytes().value(),
            full - 64 * kMiB + guest->driver()->queue_pages().bytes());
  ASSERT_TRUE(guest->device()->RequestStatistics().ok());
  time.RunUntilIdle();
  const BalloonStatistics statistics = guest->device()->statistics();
  EXPECT_EQ(statistics[BalloonStat::kTotal], 128 * kMiB);
  EXPECT_LT(statistics[BalloonStat::kFree], 64 * kMiB);

  guest->device()->SetTarget(0);
  time.RunUntilIdle();
  EXPECT_EQ(guest->device()->actual(), 0u);
  EXPECT_EQ(guest->allocator().Counts().allocated(),
            guest->driver()->queue_pages());
  EXPECT_EQ(guest->device()->counters().skipped(), 0u);
  EXPECT_EQ(guest->device()->counters().bad_pfns, 0u);
  EXPECT_EQ(guest->CheckInvariants(), absl::OkStatus());
}

// One run of hints discards free memory that a policy has not reported.
TEST(GuestBalloonTest, HintsGiveAllFreeMemoryBackOnce) {
  VirtualTime time(1);
  GuestOptions options = Options(time);
  options.make_policy = {};
  options.balloon_features = kBalloonFFreePageHint;
  const auto guest = Guest::Create(options).value();
  const std::vector<Pfn> blocks = AllocateAll(*guest);
  Touch(*guest, blocks);
  Free(*guest, blocks);
  ASSERT_TRUE(guest->device()->StartHinting().ok());
  time.RunUntilIdle();
  EXPECT_FALSE(guest->device()->hinting());
  EXPECT_EQ(guest->driver()->hinted_pages(), PageCount(0)) << "all are back";
  EXPECT_GT(guest->device()->counters().hinted_bytes, 100 * kMiB);
  EXPECT_LT(guest->ram().ResidentBytes().value(), 28 * kMiB);
  EXPECT_EQ(guest->CheckInvariants(), absl::OkStatus());
}

}  // namespace
}  // namespace guestmm::guest_balloon_test
