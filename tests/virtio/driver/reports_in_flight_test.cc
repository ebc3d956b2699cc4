// The balloon driver with several reports outstanding, with the real device and
// with one that misbehaves.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <memory>
#include <thread>
#include <vector>

#include "guestmm/base/thread_workqueue.h"
#include "guestmm/host/discard/null_hypervisor.h"
#include "guestmm/virtio/device/balloon_device.h"
#include "tests/testing/test_hypervisors.h"
#include "tests/virtio/driver/balloon_driver_testing.h"
#include "tests/virtio/virtio_testing.h"

namespace guestmm::reports_in_flight_test {
namespace {

using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::IsEmpty;

class ReportsInFlightTest : public BalloonDriverGuest {
 protected:
  static constexpr size_t kReports = 3;

  void Start(BalloonDriverOptions options = {}) {
    options.max_reports = kReports;
    auto driver =
        BalloonDriver::Create(watched_, *ram_, *allocator_, time_, options);
    ASSERT_TRUE(driver.ok()) << driver.status();
    driver_ = *std::move(driver);
  }
  static GpaRange Range(size_t report) {
    return {Gpa(4 * kMiB + report * kPageSize), kPageSize};
  }
  absl::Status Report(size_t report) {
    return driver_->Report({{Range(report)}}, clients_[report]);
  }
  void ReportAll() {
    for (size_t i = 0; i < kReports; ++i) ASSERT_TRUE(Report(i).ok());
    EXPECT_EQ(driver_->CheckInvariants(), absl::OkStatus());
  }

  std::array<RecordingClient, kReports + 1> clients_;
  RecordingHypervisor hypervisor_;
  BalloonDevice device_{*ram_, hypervisor_, time_};
  WatchedDevice watched_{device_};
  std::unique_ptr<BalloonDriver> driver_;
};

TEST_F(ReportsInFlightTest, EachEndsWithItsOwnClient) {
  Start();
  EXPECT_EQ(driver_->max_reports(), kReports);
  ReportAll();
  time_.RunUntilIdle();
  for (size_t i = 0; i < kReports; ++i) {
    EXPECT_THAT(clients_[i].ended(), ElementsAre("OK")) << i;
  }
  EXPECT_THAT(hypervisor_.batches(),
              ElementsAre(ElementsAre(Range(0)), ElementsAre(Range(1)),
                          ElementsAre(Range(2))));
  EXPECT_EQ(driver_->CheckInvariants(), absl::OkStatus());
  // They wait for one kick.
  EXPECT_EQ(driver_->kicks(), 1u);
}

TEST_F(ReportsInFlightTest, OneMoreIsRefused) {
  Start();
  ReportAll();
  const absl::Status status = Report(kReports);
  EXPECT_TRUE(absl::IsResourceExhausted(status));
  EXPECT_EQ(Message(status), "3 reports are outstanding: must be at most 3");
  time_.RunUntilIdle();
  EXPECT_THAT(clients_[kReports].ended(), IsEmpty());
  EXPECT_TRUE(Report(kReports).ok());
  time_.RunUntilIdle();
}

TEST_F(ReportsInFlightTest, WithoutIndirectTablesThereIsOne) {
  Start({.queue_features = {.event_index = true}});
  EXPECT_EQ(driver_->max_reports(), 1u);
  ASSERT_TRUE(Report(0).ok());
  EXPECT_TRUE(absl::IsResourceExhausted(Report(1)));
}

TEST_F(ReportsInFlightTest, NoMoreThanTheQueueHasDescriptors) {
  Start({.reporting_queue_size = 2});
  EXPECT_EQ(driver_->max_reports(), 2u);
}

TEST_F(ReportsInFlightTest, ARemovalEndsAll) {
  Start();
  ReportAll();
  driver_->Remove();
  for (size_t i = 0; i < kReports; ++i) {
    EXPECT_THAT(clients_[i].ended(), ElementsAre(kReportWasReset)) << i;
  }
  ExpectNoPageLost();
  EXPECT_THAT(hypervisor_.batches(), IsEmpty());
}

TEST_F(ReportsInFlightTest, AFreezeEndsAllAndARestoreTakesThemAnew) {
  Start();
  ReportAll();
  EXPECT_TRUE(driver_->Freeze());
  ASSERT_EQ(driver_->Restore(), absl::OkStatus());
  ReportAll();
  time_.RunUntilIdle();
  for (size_t i = 0; i < kReports; ++i) {
    EXPECT_THAT(clients_[i].ended(), ElementsAre(kReportWasReset, "OK")) << i;
  }
}

// A reset while the device discards the second of three: the first has ended,
// the others end with the reset, and the third is not discarded.
TEST_F(ReportsInFlightTest, AResetInTheMiddle) {
  RecordingHypervisor hypervisor(nullptr, [&](std::span<const GpaRange> batch) {
    if (batch.front() == Range(1)) driver_->Freeze();
  });
  BalloonDevice device(*ram_, hypervisor, time_);
  driver_ = BalloonDriver::Create(device, *ram_, *allocator_, time_,
                                  {.max_reports = kReports})
                .value();
  ReportAll();
  time_.RunUntilIdle();
  EXPECT_THAT(hypervisor.batches(),
              ElementsAre(ElementsAre(Range(0)), ElementsAre(Range(1))));
  for (size_t i = 0; i < kReports; ++i) {
    EXPECT_EQ(clients_[i].ended().size(), 1u) << i;
  }
  EXPECT_THAT(clients_[1].ended(), ElementsAre(kReportWasReset));
  EXPECT_THAT(clients_[2].ended(), ElementsAre(kReportWasReset));
  driver_.reset();
}

// Returns chains of the reporting queue as a test says.
class ReturningDevice final : public ForwardingDevice {
 public:
  explicit ReturningDevice(VirtioDevice& device) : ForwardingDevice(device) {}

  absl::StatusOr<Notifier*> SetUpQueue(uint16_t index,
                                       const VirtqueueLayout& layout,
                                       Notifier& used) override {
    if (index != 2) return ForwardingDevice::SetUpQueue(index, layout, used);
    layout_ = layout;
    used_ = &used;
    next_ = 0;
    return &kick_;
  }
  // Returns the chain with `head`, as many as `bytes` written.
  void Return(const GuestRam& ram, uint32_t head) {
    const VirtqueueMemory memory = VirtqueueMemory::Map(ram, layout_).value();
    memory.StoreUsed(memory.slot(next_), {.id = head, .len = 0});
    memory.used_idx().store(++next_);
  }
  uint16_t HeadOf(const GuestRam& ram, uint16_t entry) const {
    const VirtqueueMemory memory = VirtqueueMemory::Map(ram, layout_).value();
    return memory.available_ring(memory.slot(entry)).load();
  }
  void Call() { used_->Notify(); }

 private:
  VirtqueueLayout layout_;
  Notifier* used_ = nullptr;
  CountingNotifier kick_;
  uint16_t next_ = 0;
};

class HostileReturnsTest : public ReportsInFlightTest {
 protected:
  HostileReturnsTest() {
    driver_ = BalloonDriver::Create(returning_, *ram_, *allocator_, time_,
                                    {.max_reports = kReports})
                  .value();
    time_.RunUntilIdle();
    ReportAll();
  }
  ~HostileReturnsTest() override { driver_.reset(); }
  void Return(uint16_t entry) {
    returning_.Return(*ram_, returning_.HeadOf(*ram_, entry));
  }
  void Call() {
    returning_.Call();
    time_.RunUntilIdle();
  }

  ReturningDevice returning_{device_};
};

TEST_F(HostileReturnsTest, InAnyOrderIsAllowed) {
  Return(2);
  Return(0);
  Call();
  EXPECT_THAT(clients_[0].ended(), ElementsAre("OK"));
  EXPECT_THAT(clients_[1].ended(), IsEmpty());
  EXPECT_THAT(clients_[2].ended(), ElementsAre("OK"));
  EXPECT_EQ(driver_->CheckInvariants(), absl::OkStatus());
  Return(1);
  Call();
  EXPECT_THAT(clients_[1].ended(), ElementsAre("OK"));
}

// The first is acknowledged, but the device may be doing anything with it: all
// end with the reset, once.
TEST_F(HostileReturnsTest, OneTwiceBreaksTheQueue) {
  Return(1);
  Return(1);
  Call();
  for (size_t i = 0; i < kReports; ++i) {
    EXPECT_THAT(clients_[i].ended(), ElementsAre(kReportWasReset)) << i;
  }
  EXPECT_TRUE(driver_->is_down());
}

TEST_F(HostileReturnsTest, MoreThanThereAreBreaksTheQueue) {
  for (uint16_t i = 0; i < kReports; ++i) Return(i);
  Return(0);
  Call();
  for (size_t i = 0; i < kReports; ++i) {
    EXPECT_THAT(clients_[i].ended(), ElementsAre(kReportWasReset)) << i;
  }
}

}  // namespace
}  // namespace guestmm::reports_in_flight_test
