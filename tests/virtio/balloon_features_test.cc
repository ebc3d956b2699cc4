// The balloon with indirect descriptors and the event index: device and driver
// with every combination of offered and accepted features, and a device with
// hostile tables.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <memory>
#include <tuple>
#include <vector>

#include "guestmm/base/virtual_time.h"
#include "guestmm/host/discard/null_hypervisor.h"
#include "guestmm/virtio/device/balloon_device.h"
#include "guestmm/virtio/driver/balloon_driver.h"
#include "tests/testing/test_hypervisors.h"
#include "tests/virtio/virtio_testing.h"

namespace guestmm::balloon_features_test {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

class CountingClient final : public ReportingDevice::Client {
 public:
  void ReportDone(absl::Status status) override {
    EXPECT_TRUE(status.ok()) << status;
    ++reports_;
  }
  int reports() const { return reports_; }

 private:
  int reports_ = 0;
};

VirtqueueFeatures Features(int bits) {
  return {.indirect = (bits & 1) != 0, .event_index = (bits & 2) != 0};
}

// Offered, accepted.
class BalloonFeaturesTest
    : public ::testing::TestWithParam<std::tuple<int, int>> {};

INSTANTIATE_TEST_SUITE_P(All, BalloonFeaturesTest,
                         ::testing::Combine(::testing::Range(0, 4),
                                            ::testing::Range(0, 4)));

// More reports than a 16-bit index can count, of one range, two ranges, and the
// maximum. Each arrives unchanged and is acknowledged.
TEST_P(BalloonFeaturesTest, ReportsArriveAndAreAcknowledged) {
  const auto [offered, wanted] = GetParam();
  const auto ram = MakeRam({{Gpa(0), 8 * kMiB}});
  const auto allocator = PageAllocator::Create({.memory = {{Pfn(0), Pfn(1024)}},
                                                .cpus = 1,
                                                .max_order = kMaxOrder,
                                                .min_free_kbytes = 64,
                                                .per_cpu_limits = {}})
                             .value();
  VirtualTime time(1);
  NullHypervisor hypervisor;
  BalloonDevice device(
      *ram, hypervisor, time,
      {.reporting_queue_size = 4, .queue_features = Features(offered)});
  const auto driver =
      BalloonDriver::Create(
          device, *ram, *allocator, time,
          {.reporting_queue_size = 4, .queue_features = Features(wanted)})
          .value();
  CountingClient client;
  std::vector<GpaRange> ranges;
  for (uint64_t i = 0; i < 4; ++i) {
    ranges.push_back({Gpa((4 + i) * kMiB), kPageSize});
  }
  constexpr int kReports = 0x10000 + 10;
  uint64_t sent = 0;
  for (int i = 0; i < kReports; ++i) {
    const std::span<const GpaRange> some(ranges.data(),
                                         static_cast<size_t>(i % 4 + 1));
    ASSERT_TRUE(driver->Report(some, client).ok());
    sent += some.size();
    time.RunUntilIdle();
    ASSERT_EQ(client.reports(), i + 1) << "a notification was lost";
  }
  EXPECT_EQ(device.counters().ranges, sent);
  EXPECT_EQ(device.counters().skipped(), 0u);
  EXPECT_EQ(driver->kicks(), uint64_t{kReports});
  EXPECT_TRUE(driver->CheckInvariants().ok());
  driver->Remove();
  EXPECT_EQ(allocator->Counts().allocated(), PageCount(0));
}

// A device whose driver accepted indirect descriptors, and may write anything.
class BalloonTablesTest : public ::testing::Test {
 protected:
  static constexpr uint64_t kTable = 0x2000;

  BalloonTablesTest() {
    constexpr uint8_t kAgreed =
        kVirtioAcknowledge | kVirtioDriver | kVirtioFeaturesOk;
    GUESTMM_CHECK(device_
                      .SetDriverFeatures(kVirtioFVersion1 |
                                         kBalloonFPageReporting |
                                         kVirtioFIndirectDesc)
                      .ok());
    device_.SetStatus(kAgreed);
    kick_ = device_.SetUpQueue(2, layout_, used_).value();
    device_.SetStatus(kAgreed | kVirtioDriverOk);
  }
  static VirtqDesc Page(uint64_t gpa) {
    return {.addr = gpa, .len = kPageSize, .flags = kVirtqDescWrite, .next = 0};
  }
  static VirtqDesc TableOf(uint32_t entries, uint64_t gpa = kTable) {
    return {.addr = gpa,
            .len = entries * 16,
            .flags = kVirtqDescIndirect,
            .next = 0};
  }
  // Linked in order.
  void WriteTable(std::vector<VirtqDesc> entries) {
    for (size_t i = 0; i + 1 < entries.size(); ++i) {
      entries[i].flags |= kVirtqDescNext;
      entries[i].next = static_cast<uint16_t>(i + 1);
    }
    const uint64_t bytes = entries.size() * sizeof(VirtqDesc);
    std::memcpy(ram_->Translate({Gpa(kTable), bytes})->bytes().data(),
                entries.data(), bytes);
  }
  void KickAndRun() {
    kick_->Notify();
    time_.RunUntilIdle();
  }

  const std::unique_ptr<GuestRam> ram_ = MakeRam({{Gpa(0), kMiB}});
  const VirtqueueLayout layout_ = LayOutVirtqueue(Gpa(0x1000), 4);
  HostileDriver driver_{*ram_, layout_};
  CountingNotifier used_;
  Notifier* kick_ = nullptr;
  RecordingHypervisor hypervisor_;
  VirtualTime time_{1};
  BalloonDevice device_{*ram_, hypervisor_, time_};
};

TEST_F(BalloonTablesTest, DiscardsTheRangesInATable) {
  WriteTable({Page(0x10000), Page(0x20000)});
  driver_.OfferChain({Page(0x30000), TableOf(2)});
  KickAndRun();
  EXPECT_THAT(hypervisor_.batches(),
              ElementsAre(ElementsAre(GpaRange{Gpa(0x30000), kPageSize},
                                      GpaRange{Gpa(0x10000), kPageSize},
                                      GpaRange{Gpa(0x20000), kPageSize})));
  EXPECT_EQ(device_.counters().skipped(), 0u);
  EXPECT_EQ(driver_.used_idx(), 1);
}

// A bad descriptor in a table is treated like any other.
TEST_F(BalloonTablesTest, SkipsABadDescriptorOfATable) {
  WriteTable({Page(0x10000), Page(0x20010), Page(0x30000)});
  driver_.OfferChain({TableOf(3)});
  KickAndRun();
  EXPECT_THAT(hypervisor_.batches(),
              ElementsAre(ElementsAre(GpaRange{Gpa(0x10000), kPageSize},
                                      GpaRange{Gpa(0x30000), kPageSize})));
  EXPECT_EQ(device_.counters().skipped_unaligned, 1u);
  EXPECT_EQ(device_.counters().skipped(), 1u);
  EXPECT_EQ(driver_.used_idx(), 1);
}

// A bad table is skipped and counted; descriptors before it are discarded; the
// chain is acknowledged; and the device continues.
TEST_F(BalloonTablesTest, SkipsABadTableAndCountsIt) {
  const auto count = [&](TableFault fault) {
    return device_.counters().skipped_tables[static_cast<size_t>(fault)];
  };
  driver_.OfferChain({Page(0x10000), TableOf(0)});
  KickAndRun();
  EXPECT_EQ(count(TableFault::kSize), 1u);
  driver_.OfferChain({Page(0x10000), TableOf(1, kGiB)});
  KickAndRun();
  EXPECT_EQ(count(TableFault::kOutsideRam), 1u);
  WriteTable({Page(0x20000), TableOf(1)});
  driver_.OfferChain({Page(0x10000), TableOf(2)});
  KickAndRun();
  EXPECT_EQ(count(TableFault::kNested), 1u);
  driver_.OfferChain({Page(0x10000), TableOf(1)});
  KickAndRun();
  EXPECT_EQ(count(TableFault::kNextPastTable), 1u);
  driver_.OfferChain({Page(0x10000), TableOf(2), Page(0x20000)});
  KickAndRun();
  EXPECT_EQ(count(TableFault::kGoesOn), 1u);
  WriteTable({Page(0x20000), Page(0x20000), Page(0x20000), Page(0x20000)});
  driver_.OfferChain({Page(0x10000), TableOf(4)});
  KickAndRun();
  EXPECT_EQ(count(TableFault::kTooLong), 1u);

  EXPECT_EQ(count(TableFault::kNone), 0u);
  EXPECT_EQ(device_.counters().skipped(), 6u);
  EXPECT_EQ(device_.counters().acknowledged, 6u);
  EXPECT_EQ(driver_.used_idx(), 6);
  EXPECT_THAT(hypervisor_.batches(),
              ::testing::Each(ElementsAre(GpaRange{Gpa(0x10000), kPageSize})));
  EXPECT_EQ(device_.counters().broken_queues, 0u);
}

TEST_F(BalloonTablesTest, AcknowledgesAChainWithOnlyABadTable) {
  driver_.OfferChain({TableOf(1, kGiB)});
  KickAndRun();
  EXPECT_THAT(hypervisor_.batches(), IsEmpty());
  EXPECT_EQ(driver_.used_idx(), 1);
  EXPECT_EQ(device_.counters().acknowledged, 1u);
}

}  // namespace
}  // namespace guestmm::balloon_features_test
