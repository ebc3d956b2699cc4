// The balloon's driver and device on threads of their own.

#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <memory>
#include <thread>
#include <vector>

#include "guestmm/base/random.h"
#include "guestmm/base/thread_workqueue.h"
#include "guestmm/host/discard/discarding_hypervisor.h"
#include "guestmm/virtio/device/balloon_device.h"
#include "guestmm/virtio/driver/balloon_driver.h"
#include "tests/virtio/virtio_testing.h"

namespace guestmm::balloon_threads_test {
namespace {

// 8 MiB for the allocator, then 1 MiB to report.
class BalloonThreadsTest : public ::testing::Test {
 protected:
  static constexpr uint64_t kPages = kMiB / kPageSize;

  static Gpa Page(uint64_t i) { return Gpa(8 * kMiB) + i * kPageSize; }
  // The first word of a page.
  uint64_t& Word(uint64_t i) {
    return *reinterpret_cast<uint64_t*>(
        ram_->Translate({Page(i), kPageSize})->bytes().data());
  }
  // Reports `ranges` and waits for the end. False if the report was refused.
  bool ReportAndWait(BalloonDriver& driver, std::span<const GpaRange> ranges) {
    client_.outstanding = true;
    if (!driver.Report(ranges, client_).ok()) {
      client_.outstanding = false;
      return false;
    }
    client_.outstanding.wait(true);
    return true;
  }

  const std::unique_ptr<GuestRam> ram_ = MakeRam({{Gpa(0), 9 * kMiB}});
  const std::unique_ptr<PageAllocator> allocator_ =
      PageAllocator::Create({.memory = {{Pfn(0), Pfn(2048)}},
                             .cpus = 1,
                             .max_order = kMaxOrder,
                             .min_free_kbytes = 64,
                             .per_cpu_limits = {}})
          .value();
  DiscardingHypervisor hypervisor_{*ram_};
  ThreadWorkqueue host_;
  ThreadWorkqueue guest_;
  CountingClient client_;
};

// Thousands of reports of random pages. When a report is acknowledged all of
// its pages are discarded, and no others.
TEST_F(BalloonThreadsTest, NeighboursKeepTheirContents) {
  BalloonDevice device(*ram_, hypervisor_, host_,
                       {.max_poll = kBalloonMaxPoll});
  const auto driver =
      BalloonDriver::Create(device, *ram_, *allocator_, guest_).value();
  Random random(1);
  std::vector<uint64_t> expected(kPages);
  for (uint64_t i = 0; i < kPages; ++i) Word(i) = expected[i] = random.Next();
  constexpr int kReports = 3000;
  for (int report = 0; report < kReports; ++report) {
    std::vector<GpaRange> ranges;
    const uint64_t entries = random.Between(1, 32);
    std::vector<uint64_t> reported;
    for (uint64_t i = 0; i < entries; ++i) {
      const uint64_t page = random.Below(kPages);
      ranges.push_back({Page(page), kPageSize});
      reported.push_back(page);
    }
    ASSERT_TRUE(ReportAndWait(*driver, ranges));
    for (const uint64_t page : reported) expected[page] = 0;
    if (report % 16 == 0) {
      for (uint64_t i = 0; i < kPages; ++i) ASSERT_EQ(Word(i), expected[i]);
    }
    // Reuse the pages as soon as allowed.
    for (const uint64_t page : reported) {
      Word(page) = expected[page] = random.Next();
    }
  }
  EXPECT_EQ(client_.acknowledged, uint64_t{kReports});
  EXPECT_EQ(device.counters().acknowledged, uint64_t{kReports});
  EXPECT_EQ(device.counters().skipped(), 0u);
  EXPECT_TRUE(driver->CheckInvariants().ok());
  EXPECT_TRUE(device.CheckInvariants().ok());
}

// The device polls, or not. No report waits for a kick that does not come.
TEST_F(BalloonThreadsTest, SeveralAtATimeEachReturnedOnce) {
  constexpr uint64_t kReports = 4;
  constexpr uint64_t kRounds = 500;
  for (const Nanoseconds max_poll : {Nanoseconds(0), kBalloonMaxPoll}) {
    BalloonDevice device(*ram_, hypervisor_, host_, {.max_poll = max_poll});
    const auto driver =
        BalloonDriver::Create(device, *ram_, *allocator_, guest_,
                              {.max_reports = uint16_t{kReports}})
            .value();
    std::array<CountingClient, kReports> clients;
    for (uint64_t round = 0; round < kRounds; ++round) {
      for (uint64_t i = 0; i < kReports; ++i) {
        clients[i].outstanding.wait(true);
        // The page is this client's alone.
        const uint64_t page = i * kRounds % kPages / kReports * kReports + i;
        ASSERT_EQ(Word(page), 0u);
        Word(page) = round + 1;
        clients[i].outstanding = true;
        const GpaRange range = {Page(page), kPageSize};
        ASSERT_TRUE(driver->Report({&range, 1}, clients[i]).ok());
      }
    }
    for (CountingClient& client : clients) {
      client.outstanding.wait(true);
      EXPECT_EQ(client.acknowledged, kRounds);
    }
    EXPECT_LE(driver->kicks(), kReports * kRounds);
    EXPECT_EQ(device.counters().acknowledged, kReports * kRounds);
  }
}

// Drivers are removed while several reports are in flight.
TEST_F(BalloonThreadsTest, RemovalWhileSeveralAreInFlight) {
  constexpr uint64_t kReports = 4;
  BalloonDevice device(*ram_, hypervisor_, host_,
                       {.max_poll = kBalloonMaxPoll});
  Random random(3);
  for (int round = 0; round < 100; ++round) {
    const auto driver =
        BalloonDriver::Create(device, *ram_, *allocator_, guest_,
                              {.max_reports = uint16_t{kReports}})
            .value();
    std::array<CountingClient, kReports> clients;
    uint64_t accepted = 0;
    std::thread reporter([&] {
      for (uint64_t i = 0;; ++i) {
        CountingClient& client = clients[i % kReports];
        client.outstanding.wait(true);
        client.outstanding = true;
        const GpaRange range = {Page(i % kPages), kPageSize};
        if (!driver->Report({&range, 1}, client).ok()) return;
        ++accepted;
      }
    });
    clients[0].AwaitMore(random.Below(20));
    driver->Remove();
    reporter.join();
    uint64_t ended = 0;
    for (const CountingClient& client : clients) {
      ended += client.acknowledged + client.unavailable;
    }
    ASSERT_EQ(ended, accepted);
  }
  EXPECT_EQ(allocator_->Counts().allocated(), PageCount(0));
}

// Drivers are removed while reports are in flight. Each accepted report ends
// once, and a page that a reset returned never changes again.
TEST_F(BalloonThreadsTest, RemovalAtAnyMoment) {
  BalloonDevice device(*ram_, hypervisor_, host_,
                       {.max_poll = kBalloonMaxPoll});
  Random random(2);
  uint64_t accepted = 0;
  for (int round = 0; round < 200; ++round) {
    const auto driver =
        BalloonDriver::Create(device, *ram_, *allocator_, guest_).value();
    std::thread reporter([&] {
      for (uint64_t i = 1;; ++i) {
        const uint64_t page = i % kPages;
        const GpaRange range = {Page(page), kPageSize};
        if (!ReportAndWait(*driver, {&range, 1})) break;
        ++accepted;
        Word(page) = i;
        std::this_thread::yield();
        if (Word(page) != i) {
          ADD_FAILURE() << "lost after the report had ended";
          break;
        }
      }
    });
    client_.AwaitMore(random.Below(20));
    driver->Remove();
    EXPECT_EQ(device.status(), 0);
    reporter.join();
  }
  EXPECT_EQ(client_.acknowledged + client_.unavailable, accepted);
  EXPECT_EQ(allocator_->Counts().allocated(), PageCount(0));
}

// The host starts the next run of hints as soon as the last one is over, and
// stops some of them. Each run ends, and DONE is never that of another run.
TEST_F(BalloonThreadsTest, RunsOfHintsOneAfterTheOther) {
  BalloonDevice device(*ram_, hypervisor_, host_,
                       {.features = kBalloonFFreePageHint});
  const auto driver =
      BalloonDriver::Create(device, *ram_, *allocator_, guest_).value();
  for (int run = 0; run < 300; ++run) {
    ASSERT_TRUE(device.StartHinting().ok()) << run;
    if (run % 3 == 0) device.StopHinting();
    while (device.hinting()) std::this_thread::yield();
  }
  EXPECT_TRUE(
      guest_.WaitUntil([&] { return driver->hinted_pages() == PageCount(0); },
                       std::chrono::minutes(1)));
}

// The guest overwrites the ring at any time.
TEST_F(BalloonThreadsTest, ABrokenRingAtAnyMoment) {
  BalloonDevice device(*ram_, hypervisor_, host_);
  Random random(3);
  uint64_t accepted = 0;
  for (int round = 0; round < 50; ++round) {
    WatchedDevice watched(device);
    const auto driver =
        BalloonDriver::Create(watched, *ram_, *allocator_, guest_).value();
    const VirtqueueMemory memory = watched.QueueMemory(*ram_, 2);
    std::thread reporter([&] {
      const GpaRange range = {Page(1), kPageSize};
      while (ReportAndWait(*driver, {&range, 1})) ++accepted;
    });
    client_.AwaitMore(random.Below(20));
    // Repeat, since the driver may overwrite the index before the device reads
    // it.
    while (device.counters().broken_queues == static_cast<uint64_t>(round)) {
      memory.available_idx().fetch_add(1000);
      watched.kick(2).Notify();
      std::this_thread::yield();
    }
    reporter.join();
    EXPECT_TRUE(driver->CheckInvariants().ok());
  }
  EXPECT_EQ(client_.acknowledged + client_.unavailable, accepted);
  EXPECT_EQ(device.counters().broken_queues, 50u);
}

}  // namespace
}  // namespace guestmm::balloon_threads_test
