// Hotplug in a guest that reports by v12-hotplug, and a device that writes to
// pinned memory.

#include <gtest/gtest.h>

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "guestmm/base/random.h"
#include "guestmm/base/virtual_time.h"
#include "guestmm/machine/real/guest.h"
#include "guestmm/mm/migrate/memory_hotplug.h"
#include "guestmm/reporting/reporter.h"
#include "guestmm/reporting/v12_policy.h"
#include "tests/testing/dma_device.h"

namespace guestmm::guest_hotplug_test {
namespace {

constexpr uint64_t kBlockBytes = kSectionOrder.bytes();
constexpr Pfn kBootEnd = ToPfn(Gpa(2 * kBlockBytes));
constexpr PfnRange kAdded = {kBootEnd, kBootEnd + kSectionOrder.pages()};

std::unique_ptr<Guest> MakeGuest(VirtualTime& time) {
  return Guest::Create({.memory = MemoryMap::Pc(2 * kBlockBytes),
                        .hotplug_end = Gpa(4 * kBlockBytes),
                        .make_policy =
                            [] {
                              return std::make_unique<V12Policy>(
                                  V12Options{.hotplug = true});
                            },
                        .virtual_time = &time})
      .value();
}

// Allocates every free block of 2 MiB.
std::vector<Pfn> TakeAll(Vcpu& vcpu) {
  std::vector<Pfn> blocks;
  while (const std::optional<Pfn> pfn = vcpu.Allocate(kPageblockOrder)) {
    vcpu.Touch(*pfn, kPageblockOrder, /*stamp=*/1);
    blocks.push_back(*pfn);
  }
  return blocks;
}

TEST(GuestHotplugTest, AddedMemoryIsUsedReportedAndTakenAwayAgain) {
  VirtualTime time(1);
  const auto guest = MakeGuest(time);
  ASSERT_EQ(guest->hotplug().Add(kAdded, 0), absl::OkStatus());
  ASSERT_EQ(guest->hotplug().Online(kAdded, ZoneType::kMovable),
            absl::OkStatus());
  time.RunUntilIdle();
  ASSERT_EQ(guest->CheckInvariants(), absl::OkStatus());

  const std::vector<Pfn> blocks = TakeAll(guest->vcpu(0));
  uint64_t in_added = 0;
  for (const Pfn pfn : blocks) in_added += kAdded.Contains(pfn) ? 1 : 0;
  EXPECT_GT(in_added, 0);
  // Memory in use cannot be removed, and loses nothing.
  EXPECT_EQ(guest->hotplug().Offline(kAdded).code(),
            absl::StatusCode::kFailedPrecondition);
  for (const Pfn pfn : blocks) {
    ASSERT_EQ(guest->vcpu(0).FindCorrupted(pfn, kPageblockOrder, 1),
              std::nullopt);
  }
  const GpaRange added = {ToGpa(kAdded.start), kBlockBytes};
  EXPECT_GE(guest->ram().ResidentBytes(added).value(),
            in_added * kPageblockOrder.bytes());

  for (const Pfn pfn : blocks) guest->vcpu(0).Free(pfn, kPageblockOrder);
  // A report is in flight now; the removal waits for its blocks.
  EXPECT_EQ(guest->hotplug().Offline(kAdded), absl::OkStatus());
  EXPECT_EQ(guest->hotplug().Remove(kAdded), absl::OkStatus());
  EXPECT_FALSE(guest->ram().Translate(added).has_value());
  time.RunUntilIdle();
  EXPECT_EQ(guest->CheckInvariants(), absl::OkStatus());
  EXPECT_GT(guest->reporter()->counters().reported_blocks, 0);
}

TEST(GuestHotplugTest, ADeviceLosesNothingThroughReportsAndDiscards) {
  VirtualTime time(2);
  const auto guest = MakeGuest(time);
  Vcpu& vcpu = guest->vcpu(0);
  DmaDevice device(guest->ram());
  Random random(3);
  std::vector<Pfn> pinned;
  std::vector<Pfn> others;
  for (int i = 0; i < 32; ++i) {
    const Pfn pfn = vcpu.Allocate(kPageblockOrder).value();
    vcpu.Touch(pfn, kPageblockOrder, /*stamp=*/1);
    (i % 4 == 0 ? pinned : others).push_back(pfn);
  }
  for (const Pfn pfn : pinned) {
    guest->allocator().Pin(pfn);
    device.Map(pfn, kPageblockOrder);
    // The owner frees it while the device still has it pinned.
    vcpu.Free(pfn, kPageblockOrder);
  }
  for (const Pfn pfn : others) {
    vcpu.Free(pfn, kPageblockOrder);
    device.WriteSome(random);
    time.RunFor(std::chrono::microseconds(1));
    ASSERT_EQ(guest->CheckInvariants(), absl::OkStatus());
  }
  time.RunUntilIdle();
  EXPECT_GT(guest->reporter()->counters().reported_blocks, 0);
  EXPECT_EQ(device.FirstLost(), std::nullopt);
  device.Unmap(pinned.front());
  guest->allocator().Unpin(0, pinned.front());
  EXPECT_EQ(guest->allocator().pages().Get(pinned.front()).state,
            PageState::kFree);
  for (size_t i = 1; i < pinned.size(); ++i) {
    device.Unmap(pinned[i]);
    guest->allocator().Unpin(0, pinned[i]);
  }
  EXPECT_EQ(guest->CheckInvariants(), absl::OkStatus());
}

}  // namespace
}  // namespace guestmm::guest_hotplug_test
