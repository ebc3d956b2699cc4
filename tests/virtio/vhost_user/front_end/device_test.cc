// A balloon driver that is connected to a server on other threads.

#include "guestmm/virtio/vhost_user/front_end/device.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <memory>
#include <thread>

#include "guestmm/base/random.h"
#include "guestmm/base/thread_workqueue.h"
#include "guestmm/virtio/driver/balloon_driver.h"
#include "guestmm/virtio/vhost_user/back_end/server.h"
#include "tests/testing/await.h"
#include "tests/testing/huge_page_pool.h"
#include "tests/testing/unix_socket.h"
#include "tests/virtio/vhost_user/front_end/device_testing.h"
#include "tests/virtio/vhost_user/vhost_user_testing.h"
#include "tests/virtio/virtio_testing.h"

namespace guestmm::device_test {
namespace {

namespace fs = std::filesystem;

using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::StartsWith;

using Request = VhostUserRequest;

TEST_F(VhostUserDeviceTest, NeighboursKeepTheirContents) {
  ASSERT_NO_FATAL_FAILURE(ServeAndDrive());
  EXPECT_EQ(device_->vmm_pid(), getpid());
  EXPECT_EQ(device_->DeviceFeatures(),
            kVirtioFVersion1 | kBalloonFPageReporting | kVirtioFIndirectDesc |
                kVirtioFEventIdx);
  Random random(1);
  std::vector<uint64_t> expected(kPages);
  for (uint64_t i = 0; i < kPages; ++i) Word(i) = expected[i] = random.Next();
  constexpr int kReports = 500;
  for (int report = 0; report < kReports; ++report) {
    std::vector<GpaRange> ranges;
    std::vector<uint64_t> reported;
    for (uint64_t i = random.Between(1, 32); i > 0; --i) {
      reported.push_back(random.Below(kPages));
      ranges.push_back({Page(reported.back()), kPageSize});
    }
    ASSERT_TRUE(ReportAndWait(ranges));
    for (const uint64_t page : reported) expected[page] = 0;
    for (uint64_t i = 0; i < kPages; ++i) ASSERT_EQ(Word(i), expected[i]);
    for (const uint64_t page : reported) {
      Word(page) = expected[page] = random.Next();
    }
  }
  EXPECT_EQ(client_.acknowledged, uint64_t{kReports});
  EXPECT_EQ(balloons_.discards().reports, uint64_t{kReports});
  EXPECT_EQ(balloons_.discards().failures, 0u);
  EXPECT_TRUE(driver_->CheckInvariants().ok());
}

TEST_F(VhostUserDeviceTest, HugePages) {
  const auto pool = HugePagePool::Reserve(6);
  if (!pool.ok()) GTEST_SKIP() << pool.status();
  ASSERT_NO_FATAL_FAILURE(Serve());
  const auto ram = GuestRam::Create({.regions = {{Gpa(0), 12 * kMiB}},
                                     .source = MemorySource::kHugetlb})
                       .value();
  const auto device = VhostUserDevice::Connect(path_, *ram, kBalloonKind);
  ASSERT_TRUE(device.ok()) << device.status();
  auto driver = BalloonDriver::Create(**device, *ram, *allocator_, guest_);
  ASSERT_TRUE(driver.ok()) << driver.status();
  driver_ = *std::move(driver);
  const GpaRange block = {Gpa(8 * kMiB), 2 * kMiB};
  std::byte* const at = ram->Translate(block)->bytes().data();
  *at = std::byte{1};
  const uint64_t resident = *ram->ResidentBytes();
  EXPECT_TRUE(ReportAndWait({&block, 1}));
  EXPECT_EQ(*ram->ResidentBytes(), resident - 2 * kMiB);
  EXPECT_EQ(*at, std::byte{0});
  // Half of a huge page is not discarded.
  *at = std::byte{1};
  const GpaRange half = {Gpa(8 * kMiB), kMiB};
  EXPECT_TRUE(ReportAndWait({&half, 1}));
  EXPECT_EQ(*at, std::byte{1});
  EXPECT_EQ(balloons_.discards().bytes, 2 * kMiB);
  driver_.reset();
}

// Drivers are removed while reports are in flight.
TEST_F(VhostUserDeviceTest, RemovalAtAnyMoment) {
  ASSERT_NO_FATAL_FAILURE(Serve());
  ASSERT_NO_FATAL_FAILURE(Connect());
  Random random(2);
  uint64_t accepted = 0;
  for (int round = 0; round < 100; ++round) {
    ASSERT_NO_FATAL_FAILURE(Drive());
    std::thread reporter([&] {
      for (uint64_t i = 1;; ++i) {
        const uint64_t page = i % kPages;
        const GpaRange range = {Page(page), kPageSize};
        if (!ReportAndWait({&range, 1})) break;
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
    driver_->Remove();
    EXPECT_EQ(device_->status(), 0);
    reporter.join();
  }
  EXPECT_EQ(client_.acknowledged + client_.unavailable, accepted);
  EXPECT_EQ(allocator_->Counts().allocated(), PageCount(0));
}

// A broken ring causes NEEDS_RESET. The driver resets the device and can set it
// up again.
TEST_F(VhostUserDeviceTest, ABrokenRing) {
  ASSERT_NO_FATAL_FAILURE(Serve());
  ASSERT_NO_FATAL_FAILURE(Connect());
  WatchedDevice watched(*device_);
  driver_ = BalloonDriver::Create(watched, *ram_, *allocator_, guest_).value();
  const GpaRange range = {Page(1), kPageSize};
  {
    const VirtqueueMemory memory = watched.QueueMemory(*ram_, 2);
    std::thread reporter([&] {
      while (ReportAndWait({&range, 1})) {
      }
    });
    while (!driver_->is_down()) {
      // The device reads either the driver's head or this one.
      for (uint16_t slot = 0; slot < 32; ++slot) {
        memory.available_ring(slot).store(0xffff);
      }
      std::this_thread::yield();
    }
    reporter.join();
  }
  EXPECT_TRUE(device_->connection().ok());
  EXPECT_TRUE(driver_->Restore().ok());
  EXPECT_TRUE(ReportAndWait({&range, 1}));
  driver_.reset();
}

// The VMM can discard memory that was added to guest RAM later.
TEST_F(VhostUserDeviceTest, MemoryComesAndGoes) {
  ASSERT_NO_FATAL_FAILURE(ServeAndDrive());
  for (int round = 0; round < 3; ++round) {
    const GpaRange added = {Gpa(64 * kMiB), 4 * kMiB};
    ASSERT_TRUE(ram_->AddRegion(added).ok());
    const auto resident = [&](GpaRange range) {
      std::byte* const at = ram_->Translate(range)->bytes().data();
      std::memset(at, 1, range.bytes);
      EXPECT_TRUE(ReportAndWait({&range, 1}));
      return *ram_->ResidentBytes(range);
    };
    EXPECT_EQ(resident({added.gpa, kMiB}), 0u);
    // Remove a part, and add it again beside the rest.
    const GpaRange part = {added.gpa + kMiB, kMiB};
    ASSERT_TRUE(ram_->RemoveRegion(part).ok());
    EXPECT_EQ(resident({added.gpa, kMiB}), 0u);
    ASSERT_TRUE(ram_->AddRegion(part).ok());
    EXPECT_EQ(resident(part), 0u);
    ASSERT_TRUE(ram_->RemoveRegion({added.gpa, kMiB}).ok());
    ASSERT_TRUE(ram_->RemoveRegion(part).ok());
    ASSERT_TRUE(ram_->RemoveRegion({added.gpa + 2 * kMiB, 2 * kMiB}).ok());
    EXPECT_TRUE(device_->connection().ok());
  }
  EXPECT_EQ(server_->counters().refused, 0u);
  EXPECT_EQ(balloons_.discards().failures, 0u);
}

// The VMM unmaps what was shared with it once the guest has none of it.
TEST_F(VhostUserDeviceTest, TheVmmLetsRemovedMemoryGo) {
  std::atomic<const GuestRam*> vmm_ram = nullptr;
  ASSERT_NO_FATAL_FAILURE(
      Serve([&](uint64_t session, const GuestRam& ram, Workqueue& workqueue) {
        vmm_ram = &ram;
        return balloons_.Make(session, ram, workqueue);
      }));
  ASSERT_NO_FATAL_FAILURE(Connect());
  ASSERT_NO_FATAL_FAILURE(Drive());
  const uint64_t before = ram_->bytes();
  EXPECT_EQ(vmm_ram.load()->bytes(), before);
  const GpaRange added = {Gpa(64 * kMiB), 4 * kMiB};
  for (int round = 0; round < 3; ++round) {
    ASSERT_TRUE(ram_->AddRegion(added).ok());
    EXPECT_TRUE(vmm_ram.load()->Translate(added).has_value());
    ASSERT_TRUE(ram_->RemoveRegion({added.gpa, kMiB}).ok());
    EXPECT_TRUE(
        vmm_ram.load()->Translate({added.gpa + kMiB, 3 * kMiB}).has_value());
    ASSERT_TRUE(ram_->RemoveRegion({added.gpa + kMiB, 3 * kMiB}).ok());
    EXPECT_FALSE(vmm_ram.load()->Translate({added.gpa, kPageSize}).has_value());
    EXPECT_EQ(vmm_ram.load()->bytes(), before);
  }
  driver_.reset();
}

TEST_F(VhostUserDeviceTest, ConnectErrors) {
  const auto error = [&](const std::string& path) {
    return VhostUserDevice::Connect(path, *ram_, kBalloonKind)
        .status()
        .ToString();
  };
  EXPECT_THAT(error(path_),
              AllOf(StartsWith("UNAVAILABLE: connecting to "),
                    EndsWith("failed: No such file or directory")));
  EXPECT_EQ(error(""),
            "INVALID_ARGUMENT: \"\": must be 1 to 107 bytes long, not 0");
  EXPECT_THAT(error(std::string(108, 'x')),
              EndsWith("xx: must be 1 to 107 bytes long, not 108"));
  ASSERT_NO_FATAL_FAILURE(Serve());
  const auto ram = MakeRam({{Gpa(0), kMiB}});
  EXPECT_EQ(
      Message(VhostUserDevice::Connect(path_, *ram, kBalloonKind).status()),
      "guest RAM of source anonymous memory: must be a shared memfd or a "
      "hugetlb memfd, which another process can map");
}

TEST_F(VhostUserDeviceTest, ListenReplacesOnlyStaleSockets) {
  ASSERT_NO_FATAL_FAILURE(Serve());
  VhostUserServer second(balloons_.maker());
  EXPECT_EQ(
      second.Listen(path_).ToString(),
      "ALREADY_EXISTS: " + path_ + ": must not be in use by another server");
  server_.reset();
  EXPECT_FALSE(fs::exists(path_));
  std::ofstream(path_) << "a file";
  VhostUserServer third(balloons_.maker());
  EXPECT_EQ(third.Listen(path_).ToString(),
            "INVALID_ARGUMENT: " + path_ + ": must be a socket or not exist");
  fs::remove(path_);
  // The socket that a killed server leaves.
  { ASSERT_TRUE(UnixSocketAfter(bind, path_).valid()); }
  VhostUserServer fourth(balloons_.maker());
  EXPECT_TRUE(fourth.Listen(path_).ok());
  EXPECT_THAT(Message(VhostUserServer(balloons_.maker()).Listen("/none/such")),
              StartsWith("/none/such: bind failed: "));
}

// Here the VMM is this process, which keeps running. So a closed socket does
// not complete a reset, and reported pages stay isolated.
TEST_F(VhostUserDeviceTest, AClosedSocketIsNotEnough) {
  ASSERT_NO_FATAL_FAILURE(Serve());
  ASSERT_NO_FATAL_FAILURE(Connect({.timeout = std::chrono::milliseconds(500)}));
  ASSERT_NO_FATAL_FAILURE(Drive());
  server_.reset();
  EXPECT_TRUE(Await([&] { return !device_->connection().ok(); }));
  EXPECT_NE(device_->status() & kVirtioNeedsReset, 0);
  const GpaRange range = {Page(1), kPageSize};
  client_.outstanding = true;
  const bool accepted = driver_->Report({&range, 1}, client_).ok();
  EXPECT_EQ(device_->Reconnect().ToString(),
            "FAILED_PRECONDITION: the device at " + path_ + " was not reset");
  device_->SetStatus(0);
  EXPECT_NE(device_->status(), 0);
  EXPECT_EQ(client_.unavailable, 0u);
  // The guest is being destroyed, so its memory is not needed.
  device_->Abandon();
  EXPECT_EQ(device_->status(), 0);
  driver_->Remove();
  EXPECT_EQ(client_.unavailable, accepted ? 1u : 0u);
  EXPECT_EQ(device_->Reconnect().ToString(),
            "FAILED_PRECONDITION: the device at " + path_ + " was abandoned");
}

TEST_F(VhostUserDeviceTest, ReconnectsAfterAReset) {
  ASSERT_NO_FATAL_FAILURE(ServeAndDrive());
  EXPECT_EQ(device_->Reconnect().code(), absl::StatusCode::kFailedPrecondition);
  driver_->Remove();
  EXPECT_TRUE(device_->Reconnect().ok());  // still connected
  server_.reset();
  EXPECT_TRUE(Await([&] { return !device_->connection().ok(); }));
  EXPECT_EQ(device_->status(), 0);
  EXPECT_THAT(device_->Reconnect().ToString(), StartsWith("UNAVAILABLE: "));
  EXPECT_THAT(
      Message(
          BalloonDriver::Create(*device_, *ram_, *allocator_, guest_).status()),
      HasSubstr("was lost: "));
  ASSERT_NO_FATAL_FAILURE(Serve());
  EXPECT_TRUE(device_->Reconnect().ok());
  EXPECT_TRUE(device_->connection().ok());
  ASSERT_NO_FATAL_FAILURE(Drive());
  const GpaRange range = {Page(1), kPageSize};
  EXPECT_TRUE(ReportAndWait({&range, 1}));
}

// A device that has a configuration and no queues.
class ConfiguredDevice final : public VirtioDevice {
 public:
  uint32_t device_id() const override { return kBalloonDeviceId; }
  uint64_t DeviceFeatures() const override { return kVirtioFVersion1; }
  absl::Status SetDriverFeatures(uint64_t) override { return {}; }
  uint8_t status() const override { return status_; }
  void SetStatus(uint8_t status) override {
    status_ = status == 0 ? 0 : status_ | status;
  }
  uint32_t ConfigGeneration() const override { return 0; }
  absl::Status ReadConfig(uint32_t offset,
                          std::span<std::byte> bytes) const override {
    if (offset + bytes.size() > 8) return absl::OutOfRangeError("");
    LockHolder hold(mutex_);
    std::copy_n(bytes_.begin() + offset, bytes.size(), bytes.begin());
    return absl::OkStatus();
  }
  absl::Status WriteConfig(uint32_t offset,
                           std::span<const std::byte> bytes) override {
    if (offset < 4) return absl::InvalidArgumentError("");
    LockHolder hold(mutex_);
    std::copy_n(bytes.begin(), bytes.size(), bytes_.begin() + offset);
    return absl::OkStatus();
  }
  uint16_t MaxQueueSize(uint16_t) const override { return 0; }
  absl::StatusOr<Notifier*> SetUpQueue(uint16_t, const VirtqueueLayout&,
                                       Notifier&) override {
    return absl::NotFoundError("");
  }
  void SetConfigNotifier(Notifier& config) override { config_ = &config; }

  void Change(std::byte value) {
    {
      LockHolder hold(mutex_);
      bytes_[0] = value;
    }
    config_.load()->Notify();
  }

 private:
  std::atomic<uint8_t> status_{0};
  std::atomic<Notifier*> config_{nullptr};
  mutable Mutex mutex_;
  std::array<std::byte, 8> bytes_ ABSL_GUARDED_BY(mutex_) = {};
};

TEST_F(VhostUserDeviceTest, Configuration) {
  ConfiguredDevice* configured = nullptr;
  ASSERT_NO_FATAL_FAILURE(Serve([&](uint64_t, const GuestRam&, Workqueue&) {
    auto device = std::make_shared<ConfiguredDevice>();
    configured = device.get();
    return device;
  }));
  ASSERT_NO_FATAL_FAILURE(Connect());
  std::array<std::byte, 4> word;
  EXPECT_EQ(Message(device_->ReadConfig(8, word)),
            "configuration at 8, 4 bytes: must be within its 8 bytes");
  EXPECT_EQ(device_->ReadConfig(0xffffffff, word).code(),
            absl::StatusCode::kOutOfRange);
  EXPECT_TRUE(device_->ReadConfig(8, {}).ok());
  const uint32_t before = device_->ConfigGeneration();
  EXPECT_TRUE(device_->ReadConfig(4, word).ok());
  EXPECT_EQ(device_->ConfigGeneration(), before);

  word = {std::byte{1}, std::byte{2}, std::byte{3}, std::byte{4}};
  EXPECT_TRUE(device_->WriteConfig(4, word).ok());
  EXPECT_EQ(device_->WriteConfig(0, word).ToString(),
            "INVALID_ARGUMENT: SET_CONFIG: the VMM replied with error 3, "
            "INVALID_ARGUMENT");
  EXPECT_EQ(device_->WriteConfig(5, word).code(),
            absl::StatusCode::kOutOfRange);
  std::array<std::byte, 4> read;
  EXPECT_TRUE(device_->ReadConfig(4, read).ok());
  EXPECT_EQ(read, word);
  EXPECT_NE(device_->ConfigGeneration(), before);

  std::atomic<int> changes = 0;
  CountingNotifier config([&] {
    ++changes;
    changes.notify_all();
  });
  device_->SetConfigNotifier(config);
  device_->SetStatus(kVirtioAcknowledge);
  const uint32_t generation = device_->ConfigGeneration();
  configured->Change(std::byte{9});
  changes.wait(0);
  EXPECT_NE(device_->ConfigGeneration(), generation);
  EXPECT_TRUE(device_->ReadConfig(0, read).ok());
  EXPECT_EQ(read[0], std::byte{9});
  device_->SetStatus(0);
  EXPECT_EQ(device_->status(), 0);
}

// A region added while a connection is being set up is shared once.
TEST_F(VhostUserDeviceTest, MemoryComesWhileItConnects) {
  ASSERT_NO_FATAL_FAILURE(Serve());
  std::atomic<bool> stop = false;
  std::thread hotplug([&] {
    const GpaRange block = {Gpa(128 * kMiB), 2 * kMiB};
    while (!stop) {
      ASSERT_TRUE(ram_->AddRegion(block).ok());
      ASSERT_TRUE(ram_->RemoveRegion(block).ok());
    }
  });
  for (int i = 0; i < 30; ++i) {
    const auto device = VhostUserDevice::Connect(path_, *ram_, kBalloonKind);
    EXPECT_TRUE(device.ok()) << device.status();
    if (device.ok()) {
      EXPECT_TRUE((*device)->connection().ok());
    }
  }
  stop = true;
  hotplug.join();
  EXPECT_EQ(server_->counters().refused, 0u);
}

}  // namespace
}  // namespace guestmm::device_test
