#ifndef GUESTMM_TESTS_VIRTIO_VHOST_USER_FRONT_END_DEVICE_TESTING_H_
#define GUESTMM_TESTS_VIRTIO_VHOST_USER_FRONT_END_DEVICE_TESTING_H_

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "guestmm/base/thread_workqueue.h"
#include "guestmm/buddy/page_allocator.h"
#include "guestmm/ram/guest_ram.h"
#include "guestmm/virtio/driver/balloon_driver.h"
#include "guestmm/virtio/vhost_user/back_end/server.h"
#include "guestmm/virtio/vhost_user/front_end/device.h"
#include "guestmm/virtio/wire/balloon.h"
#include "guestmm/vmm/balloon_factory.h"
#include "tests/virtio/virtio_testing.h"

namespace guestmm {

// A directory with a socket, and a guest's RAM: 8 MiB for the allocator, then 1
// MiB to report.
class VhostUserDeviceTest : public ::testing::Test {
 protected:
  static constexpr uint64_t kPages = kMiB / kPageSize;

  VhostUserDeviceTest()
      : folder_(std::filesystem::path(::testing::TempDir()) /
                absl::StrCat("vhost_user_", getpid())),
        path_((folder_ / "socket").string()) {
    std::filesystem::create_directories(folder_);
  }
  ~VhostUserDeviceTest() override {
    driver_.reset();
    device_.reset();
    server_.reset();
    std::filesystem::remove_all(folder_);
  }

  void Serve() { Serve(balloons_.maker()); }
  void Serve(VhostUserServer::MakeDevice make_device) {
    server_ = std::make_unique<VhostUserServer>(std::move(make_device));
    const absl::Status status = server_->Listen(path_);
    ASSERT_TRUE(status.ok()) << status;
  }
  void Connect(const VhostUserDeviceOptions& options = {}) {
    auto device = VhostUserDevice::Connect(path_, *ram_, kBalloonKind, options);
    ASSERT_TRUE(device.ok()) << device.status();
    device_ = *std::move(device);
  }
  void Drive() {
    driver_.reset();  // resets the device
    auto driver = BalloonDriver::Create(*device_, *ram_, *allocator_, guest_);
    ASSERT_TRUE(driver.ok()) << driver.status();
    driver_ = *std::move(driver);
  }
  void ServeAndDrive() {
    ASSERT_NO_FATAL_FAILURE(Serve());
    ASSERT_NO_FATAL_FAILURE(Connect());
    ASSERT_NO_FATAL_FAILURE(Drive());
  }

  static Gpa Page(uint64_t i) { return Gpa(8 * kMiB) + i * kPageSize; }
  uint64_t& Word(uint64_t i) {
    return *reinterpret_cast<uint64_t*>(
        ram_->Translate({Page(i), kPageSize})->bytes().data());
  }
  bool ReportAndWait(std::span<const GpaRange> ranges) {
    client_.outstanding = true;
    if (!driver_->Report(ranges, client_).ok()) {
      client_.outstanding = false;
      return false;
    }
    client_.outstanding.wait(true);
    return true;
  }

  const std::filesystem::path folder_;
  const std::string path_;
  const std::unique_ptr<GuestRam> ram_ =
      GuestRam::Create({.regions = {{Gpa(0), 9 * kMiB}},
                        .source = MemorySource::kSharedMemfd})
          .value();
  const std::unique_ptr<PageAllocator> allocator_ =
      PageAllocator::Create({.memory = {{Pfn(0), Pfn(2048)}},
                             .cpus = 1,
                             .max_order = kMaxOrder,
                             .min_free_kbytes = 64,
                             .per_cpu_limits = {}})
          .value();
  CountingClient client_;
  ThreadWorkqueue guest_;
  BalloonFactory balloons_;
  std::unique_ptr<VhostUserServer> server_;
  std::unique_ptr<VhostUserDevice> device_;
  std::unique_ptr<BalloonDriver> driver_;
};

}  // namespace guestmm

#endif  // GUESTMM_TESTS_VIRTIO_VHOST_USER_FRONT_END_DEVICE_TESTING_H_
