// A device that writes by DMA, while a hypervisor discards.

#include "tests/testing/dma_device.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <optional>
#include <thread>
#include <vector>

#include "guestmm/host/discard/discard_inhibitor.h"
#include "guestmm/host/discard/discarding_hypervisor.h"

namespace guestmm::dma_device_test {
namespace {

class DmaDeviceTest : public testing::Test {
 protected:
  static constexpr Order kOrder{4};

  static GpaRange RangeOf(Pfn pfn, Order order) {
    return {.gpa = ToGpa(pfn), .bytes = order.bytes()};
  }
  std::byte& ByteAt(Gpa gpa) {
    return ram_->Translate({gpa, 1})->bytes().front();
  }

  const std::unique_ptr<GuestRam> ram_ =
      GuestRam::Create(
          {.regions = {{Gpa(0), 4 * kMiB}}, .huge_pages = HugePages::kForbid})
          .value();
  DiscardInhibitor hypervisor_{std::make_unique<DiscardingHypervisor>(*ram_)};
  DmaDevice device_{*ram_};
  Random random_{1};
};

TEST_F(DmaDeviceTest, FindsWhatItWrote) {
  EXPECT_EQ(device_.FirstLost(), std::nullopt);
  device_.WriteSome(random_);  // no block is mapped
  device_.Map(Pfn(32), kOrder);
  EXPECT_EQ(device_.FirstLost(), std::nullopt);
  device_.Map(Pfn(16), Order(0));
  for (int i = 0; i < 1000; ++i) device_.WriteSome(random_);
  EXPECT_EQ(device_.FirstLost(), std::nullopt);
}

TEST_F(DmaDeviceTest, WritesToAllOfItsPagesAndToNoOther) {
  device_.Map(Pfn(32), kOrder);
  for (int i = 0; i < 1000; ++i) device_.WriteSome(random_);
  EXPECT_EQ(ram_->ResidentBytes().value(), kOrder.bytes());
  EXPECT_EQ(ram_->ResidentBytes(RangeOf(Pfn(32), kOrder)).value(),
            kOrder.bytes());
}

TEST_F(DmaDeviceTest, WritesNewBytes) {
  device_.Map(Pfn(0), Order(0));
  const Translation page = ram_->Translate(RangeOf(Pfn(0), Order(0))).value();
  const std::vector<std::byte> before(page.bytes().begin(), page.bytes().end());
  for (int i = 0; i < 1000; ++i) device_.WriteSome(random_);
  // 64 lines and some 8000 writes: each line was written again.
  for (size_t line = 0; line < before.size(); line += 64) {
    EXPECT_NE(std::memcmp(&before[line], &page.bytes()[line], 64), 0) << line;
  }
}

TEST_F(DmaDeviceTest, NamesTheFirstByteThatIsLost) {
  device_.Map(Pfn(32), kOrder);
  device_.Map(Pfn(16), Order(0));
  const Gpa last = ToGpa(Pfn(47)) + (kPageSize - 1);
  for (const Gpa gpa : {last, ToGpa(Pfn(40)) + 65, ToGpa(Pfn(16)) + 7}) {
    ByteAt(gpa) = ~ByteAt(gpa);
    EXPECT_EQ(device_.FirstLost(), gpa);
  }
}

TEST_F(DmaDeviceTest, CatchesADiscardOfOneOfItsPages) {
  device_.Map(Pfn(32), kOrder);
  ASSERT_EQ(hypervisor_.Discard({{RangeOf(Pfn(37), Order(0))}}),
            absl::OkStatus());
  EXPECT_EQ(device_.FirstLost(), ToGpa(Pfn(37)));
}

TEST_F(DmaDeviceTest, LosesNothingWhileDiscardsAreInhibited) {
  device_.Map(Pfn(32), kOrder);
  hypervisor_.Inhibit();
  ASSERT_EQ(hypervisor_.Discard({{RangeOf(Pfn(32), kOrder)}}),
            absl::OkStatus());
  EXPECT_EQ(device_.FirstLost(), std::nullopt);
  EXPECT_EQ(hypervisor_.counters().inhibited_bytes, kOrder.bytes());
  EXPECT_EQ(hypervisor_.counters().bytes, 0u);
}

TEST_F(DmaDeviceTest, PinsItsBlocksInGuestRam) {
  device_.Map(Pfn(256), kOrder);
  EXPECT_EQ(ram_->RemoveRegion({Gpa(kMiB), kMiB}).code(),
            absl::StatusCode::kFailedPrecondition);
  device_.Unmap(Pfn(256));
  EXPECT_EQ(ram_->RemoveRegion({Gpa(kMiB), kMiB}), absl::OkStatus());
  EXPECT_EQ(device_.FirstLost(), std::nullopt);
}

TEST_F(DmaDeviceTest, UnmappedBlocksAreNoLongerWritten) {
  device_.Map(Pfn(32), kOrder);
  device_.Map(Pfn(64), kOrder);
  device_.Unmap(Pfn(32));
  ASSERT_EQ(hypervisor_.Discard({{RangeOf(Pfn(32), kOrder)}}),
            absl::OkStatus());
  for (int i = 0; i < 100; ++i) device_.WriteSome(random_);
  EXPECT_EQ(device_.FirstLost(), std::nullopt);
  EXPECT_EQ(ram_->ResidentBytes(RangeOf(Pfn(32), kOrder)).value(), 0u);
}

using DmaDeviceDeathTest = DmaDeviceTest;

TEST_F(DmaDeviceDeathTest, BlocksOutsideGuestRam) {
  EXPECT_DEATH(device_.Map(Pfn(1020), kOrder), "is not in guest RAM");
  EXPECT_DEATH(device_.Unmap(Pfn(32)), "no block is mapped at");
}

// The device attaches while its own pages are being discarded, as if the guest
// reported them by mistake. From Inhibit on it loses nothing.
TEST_F(DmaDeviceTest, OnAThreadWhileDiscardsAreInhibited) {
  std::atomic<bool> stop{false};
  std::atomic<uint64_t> discards{0};
  std::thread discarding([&] {
    while (!stop) {
      EXPECT_EQ(hypervisor_.Discard({{RangeOf(Pfn(32), kOrder)}}),
                absl::OkStatus());
      ++discards;
    }
  });
  while (discards < 10) std::this_thread::yield();
  hypervisor_.Inhibit();
  device_.Map(Pfn(32), kOrder);
  std::thread writer([&] { device_.Run(Random(2), stop); });
  for (int i = 0; i < 200; ++i) {
    EXPECT_EQ(device_.FirstLost(), std::nullopt);
    device_.WriteSome(random_);
  }
  const uint64_t seen = discards;
  while (discards < seen + 10) std::this_thread::yield();
  stop = true;
  discarding.join();
  writer.join();
  EXPECT_EQ(device_.FirstLost(), std::nullopt);
  hypervisor_.Allow();
  ASSERT_EQ(hypervisor_.Discard({{RangeOf(Pfn(32), kOrder)}}),
            absl::OkStatus());
  EXPECT_EQ(device_.FirstLost(), ToGpa(Pfn(32)));
}

}  // namespace
}  // namespace guestmm::dma_device_test
