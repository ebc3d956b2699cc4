// A reporter, a balloon driver and a device that are removed, frozen, broken or
// reset at any point. Blocks return to the buddy allocator only when the host
// can no longer discard them.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "guestmm/base/random.h"
#include "guestmm/base/virtual_time.h"
#include "guestmm/buddy/page_allocator.h"
#include "guestmm/reporting/reporter.h"
#include "guestmm/reporting/v12_policy.h"
#include "guestmm/virtio/device/balloon_device.h"
#include "guestmm/virtio/driver/balloon_driver.h"
#include "tests/testing/test_hypervisors.h"
#include "tests/virtio/virtio_testing.h"

namespace guestmm::balloon_lifecycle_test {
namespace {

using ::testing::HasSubstr;

// A device whose resets complete when the test says so, as of a process that
// was stopped.
class StoppableDevice final : public ForwardingDevice {
 public:
  using ForwardingDevice::ForwardingDevice;

  void Stop() { is_stopped_ = true; }
  void Continue() {
    is_stopped_ = false;
    if (std::exchange(has_reset_, false)) ForwardingDevice::SetStatus(0);
  }
  bool is_stopped() const { return is_stopped_; }

  void SetStatus(uint8_t status) override {
    if (is_stopped_) {
      has_reset_ |= status == 0;
    } else {
      ForwardingDevice::SetStatus(status);
    }
  }

 private:
  bool is_stopped_ = false;
  bool has_reset_ = false;
};

constexpr Order kBlock(2);
constexpr uint64_t kPages = 2048;

// 8 MiB, reported as blocks of four pages in batches of two.
class BalloonLifecycleTest : public ::testing::Test {
 protected:
  BalloonLifecycleTest() {
    driver_ =
        BalloonDriver::Create(stoppable_, *ram_, *allocator_, time_).value();
    reporter_ = std::make_unique<Reporter>(
        *allocator_, time_,
        std::make_unique<V12Policy>(
            V12Options{.order = kBlock, .threshold = 2, .capacity = 2}));
    EXPECT_TRUE(reporter_->Enable(*driver_).ok());
  }

  std::vector<Pfn> Take(size_t count) {
    std::vector<Pfn> blocks;
    for (size_t i = 0; i < count; ++i) {
      blocks.push_back(allocator_->Allocate(0, kBlock).value());
    }
    return blocks;
  }
  void Free(const std::vector<Pfn>& blocks) {
    // Every other one, so that they do not merge.
    for (size_t i = 0; i < blocks.size(); i += 2) {
      allocator_->Free(0, blocks[i], kBlock);
    }
  }
  PageCount isolated() const { return allocator_->Counts().isolated; }
  // Puts a batch into the ring that the device has not looked at.
  void PutABatchInFlight() {
    Free(Take(4));
    time_.WaitUntil([&] { return isolated() > PageCount(0); });
    ASSERT_EQ(isolated(), kBlock.pages() * 2);
    ASSERT_EQ(device_.counters().reports, 0u);
  }
  absl::Status CheckInvariants() {
    absl::Status status = allocator_->CheckInvariants();
    status.Update(driver_->CheckInvariants());
    status.Update(device_.CheckInvariants());
    if (isolated() != reporter_->in_flight_pages()) {
      status.Update(absl::InternalError("S2"));
    }
    return status;
  }

  const std::unique_ptr<GuestRam> ram_ = MakeRam({{Gpa(0), kPages* kPageSize}});
  const std::unique_ptr<PageAllocator> allocator_ =
      PageAllocator::Create({.memory = {{Pfn(0), Pfn(kPages)}},
                             .cpus = 1,
                             .max_order = kMaxOrder,
                             .min_free_kbytes = 64,
                             .per_cpu_limits = {}})
          .value();
  VirtualTime time_{1};
  RecordingHypervisor hypervisor_;
  BalloonDevice device_{
      *ram_,
      hypervisor_,
      time_,
      {.features = kBalloonFPageReporting | kBalloonFDeflateOnOom}};
  StoppableDevice stoppable_{device_};
  std::unique_ptr<BalloonDriver> driver_;
  std::unique_ptr<Reporter> reporter_;
};

TEST_F(BalloonLifecycleTest, AFreezeInTheMiddleOfAReportGivesTheBlocksBack) {
  PutABatchInFlight();
  EXPECT_TRUE(driver_->Freeze());
  EXPECT_TRUE(driver_->is_down());
  time_.RunUntilIdle();
  EXPECT_EQ(isolated(), PageCount(0));
  // One report was in flight, and the next one was refused.
  EXPECT_GE(reporter_->counters().failed_reports, 1u);
  EXPECT_EQ(reporter_->counters().reports, 0u);
  EXPECT_TRUE(hypervisor_.batches().empty());
  EXPECT_EQ(CheckInvariants(), absl::OkStatus());
  EXPECT_TRUE(driver_->Freeze()) << "again: no effect";

  ASSERT_EQ(driver_->Restore(), absl::OkStatus());
  Free(Take(8));
  time_.RunUntilIdle();
  EXPECT_GT(reporter_->counters().reports, 0u);
  EXPECT_EQ(isolated(), PageCount(0));
}

TEST_F(BalloonLifecycleTest, ReportErrorsNameTheReason) {
  struct Client final : ReportingDevice::Client {
    void ReportDone(absl::Status) override { ADD_FAILURE(); }
  } client;
  const std::vector<GpaRange> range = {{Gpa(0), kPageSize}};
  ASSERT_TRUE(reporter_->Disable(*driver_).ok());
  EXPECT_EQ(driver_->Restore(),
            absl::FailedPreconditionError("the balloon driver is not frozen"));
  driver_->Freeze();
  EXPECT_EQ(driver_->Report(range, client),
            absl::FailedPreconditionError("the balloon driver is frozen"));
  driver_->Remove();
  EXPECT_EQ(driver_->Report(range, client),
            absl::FailedPreconditionError("the balloon driver was removed"));
  EXPECT_EQ(driver_->Restore(),
            absl::FailedPreconditionError("the balloon driver was removed"));
}

// §2.4 and S1: the host may discard until the reset is complete.
TEST_F(BalloonLifecycleTest, BlocksStayIsolatedWhileTheHostIsStopped) {
  PutABatchInFlight();
  stoppable_.Stop();
  EXPECT_FALSE(driver_->Freeze()) << "cannot wait for it, and does not";
  EXPECT_FALSE(driver_->is_down());
  time_.RunFor(std::chrono::seconds(60));
  EXPECT_EQ(isolated(), kBlock.pages() * 2) << "isolated, and counted";
  EXPECT_EQ(CheckInvariants(), absl::OkStatus());
  EXPECT_THAT(driver_->Restore().ToString(),
              HasSubstr("the balloon has not completed its reset"));
  // The guest continues without them.
  Free(Take(4));
  // The host continues and discards: they are still isolated.
  ASSERT_GT(device_.counters().reports, 0u) << "the device itself went on";
  EXPECT_EQ(isolated(), kBlock.pages() * 2);
  stoppable_.Continue();
  time_.RunUntilIdle();
  EXPECT_TRUE(driver_->is_down());
  EXPECT_EQ(isolated(), PageCount(0));
  EXPECT_EQ(driver_->Restore(), absl::OkStatus());
  EXPECT_EQ(CheckInvariants(), absl::OkStatus());
}

TEST_F(BalloonLifecycleTest, RemovedWhileTheHostIsStopped) {
  PutABatchInFlight();
  stoppable_.Stop();
  EXPECT_FALSE(driver_->Remove());
  time_.RunFor(std::chrono::seconds(1));
  EXPECT_EQ(isolated(), kBlock.pages() * 2);
  stoppable_.Continue();
  time_.RunUntilIdle();
  EXPECT_TRUE(driver_->is_down());
  ASSERT_TRUE(reporter_->Disable(*driver_).ok());
  EXPECT_EQ(isolated(), PageCount(0));
  EXPECT_EQ(driver_->queue_pages(), PageCount(0));
}

// After NEEDS_RESET from any queue the driver is down, its pages are free, and
// it can be set up again.
TEST_F(BalloonLifecycleTest, ABrokenDeviceCanBeSetUpAgain) {
  reporter_.reset();
  driver_.reset();
  WatchedDevice watched(device_);
  driver_ = BalloonDriver::Create(watched, *ram_, *allocator_, time_).value();
  for (const uint16_t index : {0, 1, 2}) {
    device_.SetTarget(16);
    time_.RunUntilIdle();
    ASSERT_EQ(driver_->balloon_pages(), PageCount(16));
    watched.QueueMemory(*ram_, index).available_idx().store(1000);
    watched.kick(index).Notify();
    time_.RunUntilIdle();
    EXPECT_EQ(device_.counters().broken_queues, index + 1u);
    EXPECT_TRUE(driver_->is_down());
    EXPECT_EQ(allocator_->Counts().allocated(), PageCount(0));
    ASSERT_EQ(driver_->Restore(), absl::OkStatus());
  }
  driver_.reset();
  EXPECT_EQ(allocator_->CheckInvariants(), absl::OkStatus());
}

// The reporter relies on the number of entries that there was.
TEST_F(BalloonLifecycleTest, ADeviceThatShrankIsRefused) {
  reporter_.reset();
  driver_.reset();
  BalloonDevice small(*ram_, hypervisor_, time_, {.reporting_queue_size = 8});
  ForwardingDevice exchanged(device_);
  driver_ = BalloonDriver::Create(exchanged, *ram_, *allocator_, time_).value();
  ASSERT_TRUE(driver_->Freeze());
  exchanged.ForwardTo(small);
  EXPECT_EQ(driver_->Restore(),
            absl::FailedPreconditionError(
                "reporting queue: queue 2 of 8 descriptors: the driver needs "
                "32, the device has 8"));
  EXPECT_EQ(small.status(), kVirtioFailed);
  EXPECT_TRUE(driver_->is_down());
  EXPECT_EQ(allocator_->Counts().allocated(), PageCount(0));
  exchanged.ForwardTo(device_);
  EXPECT_EQ(driver_->Restore(), absl::OkStatus());
  driver_.reset();
}

// A random program, from a printed seed. In the end nothing is lost.
TEST_F(BalloonLifecycleTest, AnythingAtAnyTime) {
  constexpr uint64_t kSeed = 5;
  SCOPED_TRACE(kSeed);
  Random random(kSeed);
  std::vector<Pfn> held;
  bool is_frozen = false;
  for (int step = 0; step < 20000; ++step) {
    switch (random.Below(10)) {
      case 0:
      case 1:
      case 2:
        if (const auto pfn = allocator_->Allocate(0, kBlock)) {
          held.push_back(*pfn);
        }
        break;
      case 3:
      case 4:
      case 5:
        if (!held.empty()) {
          std::swap(held[random.Below(held.size())], held.back());
          allocator_->Free(0, held.back(), kBlock);
          held.pop_back();
        }
        break;
      case 6:
        time_.RunFor(std::chrono::microseconds(random.Below(3000)));
        break;
      case 7:
        if (random.Below(4) == 0) {
          driver_->Freeze();
          is_frozen = true;
        }
        break;
      case 8:
        if (random.Below(8) == 0) stoppable_.Stop();
        if (random.Below(2) == 0) stoppable_.Continue();
        break;
      default:
        device_.SetTarget(static_cast<uint32_t>(random.Below(300)));
        if (is_frozen && driver_->is_down() && !stoppable_.is_stopped()) {
          ASSERT_EQ(driver_->Restore(), absl::OkStatus());
          is_frozen = false;
        }
    }
    ASSERT_EQ(CheckInvariants(), absl::OkStatus()) << step;
  }
  stoppable_.Continue();
  device_.SetTarget(0);
  time_.RunFor(std::chrono::seconds(1));
  EXPECT_GT(reporter_->counters().reports, 100u);
  EXPECT_GT(reporter_->counters().failed_reports, 10u);
  EXPECT_GT(device_.counters().inflated_pages, 100u);
  EXPECT_EQ(isolated(), PageCount(0));
  for (const Pfn pfn : held) allocator_->Free(0, pfn, kBlock);
  EXPECT_TRUE(reporter_->Disable(*driver_).ok());
  driver_->Remove();
  EXPECT_EQ(allocator_->Counts().allocated(), PageCount(0));
}

}  // namespace
}  // namespace guestmm::balloon_lifecycle_test
