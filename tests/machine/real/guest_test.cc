// The whole path: the host gets back the memory that a guest frees, and no
// other.

#include "guestmm/machine/real/guest.h"

#include <gtest/gtest.h>

#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "guestmm/base/virtual_time.h"
#include "guestmm/host/discard/discarding_hypervisor.h"
#include "guestmm/host/discard/null_hypervisor.h"
#include "guestmm/reporting/reporter.h"
#include "guestmm/reporting/reporting_policy.h"
#include "guestmm/reporting/v12_policy.h"
#include "guestmm/virtio/device/balloon_device.h"
#include "guestmm/virtio/wire/balloon.h"
#include "tests/testing/test_hypervisors.h"

namespace guestmm::guest_test {
namespace {

constexpr Order kHuge = kPageblockOrder;

std::unique_ptr<ReportingPolicy> MakeV12() {
  return std::make_unique<V12Policy>(V12Options{});
}

GuestOptions SmallGuest(VirtualTime& time) {
  return {.memory = MemoryMap::Pc(128 * kMiB),
          .huge_pages = HugePages::kForbid,
          .make_policy = MakeV12,
          .virtual_time = &time};
}

uint64_t Resident(Guest& guest, Pfn pfn, Order order) {
  return guest.ram()
      .ResidentBytes({.gpa = ToGpa(pfn), .bytes = order.bytes()})
      .value();
}

std::vector<Pfn> AllocateTouched(Guest& guest, int blocks) {
  std::vector<Pfn> pfns;
  for (int i = 0; i < blocks; ++i) {
    pfns.push_back(guest.vcpu(0).Allocate(kHuge).value());
    guest.vcpu(0).Touch(pfns.back(), kHuge, /*stamp=*/1);
  }
  return pfns;
}

// Keeps a quarter of the blocks. After reporting, the freed ones are not
// resident by the kernel's account, and the others are. `gone` is false if the
// host discards nothing; then all are resident, so the check can fail.
void FreedBlocksAreGone(Guest& guest, VirtualTime& time, bool gone) {
  const uint64_t queues = guest.ram().ResidentBytes().value();
  const std::vector<Pfn> blocks = AllocateTouched(guest, 40);
  ASSERT_EQ(guest.ram().ResidentBytes().value(), 40 * kHuge.bytes() + queues);
  for (size_t i = 0; i < blocks.size(); ++i) {
    if (i % 4 != 0) guest.vcpu(0).Free(blocks[i], kHuge);
  }
  time.RunUntilIdle();
  ASSERT_EQ(guest.CheckInvariants(), absl::OkStatus());

  int still_there = 0;
  for (size_t i = 0; i < blocks.size(); ++i) {
    if (i % 4 == 0) {
      EXPECT_EQ(Resident(guest, blocks[i], kHuge), kHuge.bytes());
      EXPECT_EQ(guest.vcpu(0).FindCorrupted(blocks[i], kHuge, 1), std::nullopt);
    } else if (Resident(guest, blocks[i], kHuge) > 0) {
      EXPECT_EQ(Resident(guest, blocks[i], kHuge), kHuge.bytes());
      ++still_there;
    }
  }
  if (gone) {
    // Fewer blocks than the threshold may remain unreported.
    EXPECT_LT(still_there, 16);
    // More if a block merged with memory that was never touched.
    EXPECT_GE(guest.hypervisor().counters().bytes,
              static_cast<uint64_t>(30 - still_there) * kHuge.bytes());
  } else {
    EXPECT_EQ(still_there, 30);
    EXPECT_GT(guest.reporter()->counters().reported_bytes, 0u);
  }
}

TEST(GuestTest, FreedBlocksAreGoneFromTheHostAndNoOthers) {
  VirtualTime time(1);
  const auto guest = Guest::Create(SmallGuest(time)).value();
  FreedBlocksAreGone(*guest, time, /*gone=*/true);
}

// Its queue refreshes them; ending the reporting does not end that.
TEST(GuestTest, TheListsOf6_12DecayWhileItIsIdle) {
  VirtualTime time(1);
  GuestOptions options = SmallGuest(time);
  options.kernel = KernelVersion::kV6_12;
  const auto guest = Guest::Create(options).value();
  std::vector<Pfn> pages;
  for (int i = 0; i < 8192; ++i) {
    pages.push_back(guest->vcpu(0).Allocate(Order(0)).value());
  }
  for (const Pfn pfn : pages) guest->vcpu(0).Free(pfn, Order(0));
  const PageCount after = guest->allocator().Counts().cached;
  guest->RunUntil(guest->Now() + std::chrono::seconds(2));
  const PageCount soon = guest->allocator().Counts().cached;
  EXPECT_GT(after, soon);
  guest->StopReporting();
  guest->RunUntil(guest->Now() + std::chrono::minutes(1));
  EXPECT_GT(soon, guest->allocator().Counts().cached);
  EXPECT_EQ(guest->CheckInvariants(), absl::OkStatus());
}

TEST(GuestTest, WithoutTheDiscardNothingIsGone) {
  VirtualTime time(1);
  GuestOptions options = SmallGuest(time);
  options.make_hypervisor = [](const GuestRam&) {
    return std::make_unique<NullHypervisor>();
  };
  const auto guest = Guest::Create(options).value();
  FreedBlocksAreGone(*guest, time, /*gone=*/false);
}

TEST(GuestTest, WithoutAPolicyNothingIsReported) {
  const auto guest = Guest::Create({.memory = MemoryMap::Pc(128 * kMiB),
                                    .huge_pages = HugePages::kForbid})
                         .value();
  EXPECT_EQ(guest->reporter(), nullptr);
  EXPECT_EQ(guest->device(), nullptr);
  for (const Pfn pfn : AllocateTouched(*guest, 20)) {
    guest->vcpu(0).Free(pfn, kHuge);
  }
  EXPECT_TRUE(guest->WaitUntilAtRest(Nanoseconds(0)));
  EXPECT_EQ(guest->ram().ResidentBytes().value(), 20 * kHuge.bytes());
  EXPECT_EQ(guest->CheckInvariants(), absl::OkStatus());
}

// Calls a hook, then discards with madvise.
class HookedHypervisor final : public Hypervisor {
 public:
  HookedHypervisor(const GuestRam& ram, RecordingHypervisor::Hook hook)
      : madvise_(ram), recording_(&madvise_, std::move(hook)) {}
  absl::Status Discard(std::span<const GpaRange> ranges) override {
    return recording_.Discard(ranges);
  }
  DiscardCounters counters() const override { return madvise_.counters(); }

 private:
  DiscardingHypervisor madvise_;
  RecordingHypervisor recording_;
};

// Safety (S1): at the instant of a discard every page of it is isolated, even
// while vCPUs allocate, write and free, which they do here from inside the
// discard. Nothing that they wrote is lost.
TEST(GuestTest, WhatTheHostDiscardsIsIsolatedWhateverVcpusDo) {
  constexpr uint64_t kSeed = 1;
  SCOPED_TRACE(kSeed);
  VirtualTime time(kSeed);
  Random random(kSeed);
  GuestOptions options = SmallGuest(time);
  Guest* self = nullptr;
  std::vector<std::pair<Pfn, Order>> blocks;
  const auto step = [&] {
    Vcpu& vcpu = self->vcpu(0);
    if (random.OneIn(2)) {
      const Order order(random.OneIn(2) ? 9
                                        : static_cast<int>(random.Below(9)));
      if (const auto pfn = vcpu.Allocate(order)) {
        vcpu.Touch(*pfn, order, kSeed);
        blocks.emplace_back(*pfn, order);
      }
    } else if (!blocks.empty()) {
      std::swap(blocks[random.Below(blocks.size())], blocks.back());
      const auto [pfn, order] = blocks.back();
      ASSERT_EQ(vcpu.FindCorrupted(pfn, order, kSeed), std::nullopt);
      vcpu.Free(pfn, order);
      blocks.pop_back();
    }
  };
  uint64_t pages = 0;
  options.make_hypervisor = [&](const GuestRam& ram) {
    return std::make_unique<HookedHypervisor>(
        ram, [&](std::span<const GpaRange> ranges) {
          for (int i = 0; i < 20; ++i) step();
          for (const GpaRange& range : ranges) {
            const PageInfo head =
                self->allocator().pages().Get(ToPfn(range.gpa));
            ASSERT_EQ(head.state, PageState::kIsolated);
            ASSERT_EQ(head.order.bytes(), range.bytes);
            pages += head.order.pages().value();
          }
          ASSERT_EQ(self->CheckInvariants(), absl::OkStatus());
        });
  };
  const auto guest = Guest::Create(options).value();
  self = guest.get();
  for (int i = 0; i < 2000; ++i) {
    step();
    time.RunFor(Nanoseconds(0));
  }
  EXPECT_GT(pages, 10000u);
  for (const auto& [pfn, order] : blocks) {
    EXPECT_EQ(guest->vcpu(0).FindCorrupted(pfn, order, kSeed), std::nullopt);
  }
}

// Runs random steps. Returns what was reported, and the free lists at the end.
std::string RunOf(uint64_t seed) {
  VirtualTime time(seed);
  RecordingHypervisor* recording = nullptr;
  GuestOptions options = SmallGuest(time);
  options.vcpus = 2;
  options.make_hypervisor = [&](const GuestRam&) {
    auto made = std::make_unique<RecordingHypervisor>();
    recording = made.get();
    return made;
  };
  const auto guest = Guest::Create(options).value();
  Random random(seed);
  std::vector<std::pair<Pfn, Order>> blocks;
  std::vector<std::unique_ptr<Work>> steps;
  // The vCPUs' steps are events among those of the reporter and the device.
  for (int id = 0; id < 2; ++id) {
    for (int i = 0; i < 400; ++i) {
      steps.push_back(std::make_unique<Work>([&, id] {
        Vcpu& vcpu = guest->vcpu(id);
        if (random.OneIn(2)) {
          const Order order(
              random.OneIn(3) ? 9 : static_cast<int>(random.Below(4)));
          if (const auto pfn = vcpu.Allocate(order)) {
            blocks.emplace_back(*pfn, order);
          }
        } else if (!blocks.empty()) {
          std::swap(blocks[random.Below(blocks.size())], blocks.back());
          vcpu.Free(blocks.back().first, blocks.back().second);
          blocks.pop_back();
        }
      }));
      time.Queue(*steps.back(), Nanoseconds(10 * i));
    }
  }
  time.RunUntilIdle();
  EXPECT_EQ(guest->CheckInvariants(), absl::OkStatus());

  std::ostringstream text;
  for (const std::vector<GpaRange>& batch : recording->batches()) {
    for (const GpaRange& range : batch) text << range << " ";
    text << "\n";
  }
  for (const auto& zone : guest->allocator().zones()) {
    LockHolder hold(zone->lock());
    for (int order = 0; order <= kMaxOrder.value(); ++order) {
      for (int type = 0; type < kMigrateTypes; ++type) {
        zone->ForEachFreeBlock(Order(order), static_cast<MigrateType>(type),
                               [&](Pfn pfn) { text << pfn.value() << " "; });
      }
    }
  }
  return text.str();
}

TEST(GuestTest, InVirtualTimeTheSameSeedIsTheSameRun) {
  for (const uint64_t seed : {1u, 2u, 3u}) EXPECT_EQ(RunOf(seed), RunOf(seed));
  EXPECT_NE(RunOf(1), RunOf(2));
}

TEST(GuestTest, ALargeReportFitsTheQueue) {
  VirtualTime time(1);
  GuestOptions options = SmallGuest(time);
  options.memory = MemoryMap::Pc(256 * kMiB);
  options.make_policy = [] {
    return std::make_unique<V12Policy>(
        V12Options{.threshold = 40, .capacity = 100});
  };
  const auto guest = Guest::Create(options).value();
  const std::vector<Pfn> blocks = AllocateTouched(*guest, 110);
  // Every other one, so that they do not merge and each is an entry.
  for (const Pfn block : blocks) {
    if ((block.value() >> kHuge.value()) % 2 == 1) {
      guest->vcpu(0).Free(block, kHuge);
    }
  }
  time.RunUntilIdle();
  EXPECT_EQ(guest->CheckInvariants(), absl::OkStatus());
  // One report has more entries than the queue has by default.
  EXPECT_EQ(guest->reporter()->counters().reports, 1u);
  EXPECT_GT(guest->reporter()->counters().reported_blocks, 32u);
}

TEST(GuestTest, CreateSaysWhatWasWrong) {
  EXPECT_EQ(Guest::Create({}).status().message(), "guest RAM has no region");
  EXPECT_EQ(Guest::Create({.memory = MemoryMap::Pc(kMiB), .vcpus = 0})
                .status()
                .message(),
            "cpus=0: must be at least 1");
}

TEST(GuestTest, CreateRefusesAFactoryThatMakesNoPolicy) {
  EXPECT_EQ(Guest::Create({.memory = MemoryMap::Pc(16 * kMiB),
                           .make_policy = [] { return nullptr; }})
                .status()
                .message(),
            "make_policy made no policy");
}

TEST(GuestTest, PagePoisoningFindsWritesToFreeMemory) {
  const auto guest =
      Guest::Create({.memory = MemoryMap::Pc(32 * kMiB),
                     .huge_pages = HugePages::kForbid,
                     .page_poison = {.mode = PagePoisonMode::kPoison}})
          .value();
  EXPECT_EQ(guest->ram().ResidentBytes().value(), 32 * kMiB);
  Vcpu& vcpu = guest->vcpu(0);
  const Pfn pfn = vcpu.Allocate(kHuge).value();
  vcpu.Touch(pfn, kHuge, /*stamp=*/1);
  vcpu.Free(pfn, kHuge);
  ASSERT_EQ(vcpu.Allocate(kHuge), pfn);
  EXPECT_EQ(guest->page_poison()->corrupted_pages(), 0u);
  vcpu.Free(pfn, kHuge);
  vcpu.Touch(pfn, kHuge, /*stamp=*/2);
  ASSERT_EQ(vcpu.Allocate(kHuge), pfn);
  EXPECT_EQ(guest->page_poison()->corrupted_pages(), kHuge.pages().value());
}

TEST(GuestTest, WithoutPagePoisoningThereIsNone) {
  const auto guest =
      Guest::Create({.memory = MemoryMap::Pc(32 * kMiB)}).value();
  EXPECT_EQ(guest->page_poison(), nullptr);
}

TEST(GuestTest, CreateRefusesAPolicyWithABalloonThatTakesNoReports) {
  VirtualTime time(1);
  GuestOptions options = SmallGuest(time);
  options.balloon_features = kBalloonFStatsVq;
  EXPECT_EQ(Guest::Create(options).status(),
            absl::InvalidArgumentError(
                "balloon_features is 0x2: must have PAGE_REPORTING, since the "
                "guest is to report"));
}

// A guest may be destroyed while a report is in flight.
TEST(GuestTest, EndsWithAReportInFlight) {
  VirtualTime time(1);
  const auto guest = Guest::Create(SmallGuest(time)).value();
  for (const Pfn pfn : AllocateTouched(*guest, 40)) {
    guest->vcpu(0).Free(pfn, kHuge);
  }
  // The reporter has run, the device has not.
  time.WaitUntil(
      [&] { return guest->allocator().Counts().isolated > PageCount(0); });
  EXPECT_GT(guest->allocator().Counts().isolated, PageCount(0));
}

// All memory is allocated except for sixteen blocks in a report in flight when
// another block is requested.
class GuestWaitTest : public testing::TestWithParam<bool> {
 protected:
  GuestWaitTest() {
    std::vector<Pfn> taken;
    while (const std::optional<Pfn> pfn = vcpu_.Allocate(kHuge)) {
      taken.push_back(*pfn);
    }
    // Every other one, so that they do not merge.
    for (const Pfn pfn : taken) {
      if (freed_ < 16 && (pfn.value() >> kHuge.value()) % 2 == 1) {
        vcpu_.Free(pfn, kHuge);
        ++freed_;
      }
    }
    before_ = guest_->allocator().vmstat();
    time_.WaitUntil(
        [&] { return guest_->allocator().Counts().isolated > PageCount(0); });
  }

  static GuestOptions Options(VirtualTime& time) {
    GuestOptions options = SmallGuest(time);
    options.wait_for_isolated = GetParam();
    return options;
  }

  VirtualTime time_{1};
  const std::unique_ptr<Guest> guest_ = Guest::Create(Options(time_)).value();
  Vcpu& vcpu_ = guest_->vcpu(0);
  uint64_t freed_ = 0;
  VmStat before_;
};

TEST_P(GuestWaitTest, ForMemoryThatIsIsolated) {
  const PageCount isolated = guest_->allocator().Counts().isolated;
  ASSERT_EQ(isolated, kHuge.pages() * 16);
  const bool waits = GetParam();
  const std::optional<Pfn> pfn = vcpu_.Allocate(kHuge);
  EXPECT_EQ(pfn.has_value(), waits);
  const VmStat stat = guest_->allocator().vmstat();
  EXPECT_EQ(stat.alloc_waited_isolated - before_.alloc_waited_isolated,
            waits ? 1u : 0u);
  EXPECT_EQ(stat.alloc_failed - before_.alloc_failed, waits ? 0u : 1u);
  EXPECT_EQ(stat.alloc_failed_isolated - before_.alloc_failed_isolated,
            waits ? 0u : 1u);
  EXPECT_EQ(
      stat.alloc_failed_isolated_pages - before_.alloc_failed_isolated_pages,
      waits ? 0u : isolated.value());
  // A waiter gets the returned batch; without one it is still in flight.
  EXPECT_EQ(guest_->allocator().Counts().isolated,
            waits ? PageCount(0) : isolated);
  EXPECT_EQ(guest_->reporter()->counters().reports, waits ? 1u : 0u);
  EXPECT_EQ(guest_->CheckInvariants(), absl::OkStatus());
  time_.RunUntilIdle();
  // Once it has returned, either kind of request succeeds.
  EXPECT_TRUE(vcpu_.Allocate(kHuge).has_value());
  EXPECT_EQ(guest_->CheckInvariants(), absl::OkStatus());
}

INSTANTIATE_TEST_SUITE_P(AllocationsWait, GuestWaitTest, testing::Bool());

}  // namespace
}  // namespace guestmm::guest_test
