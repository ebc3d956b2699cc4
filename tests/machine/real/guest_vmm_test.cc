// Guests, and the density experiment, whose balloon devices a VMM runs: here on
// threads of this process. tests/tools/vmm_test.cc runs it in another process.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "guestmm/base/virtual_time.h"
#include "guestmm/experiment/density/density.h"
#include "guestmm/host/discard/null_hypervisor.h"
#include "guestmm/machine/real/guest.h"
#include "guestmm/mm/migrate/memory_hotplug.h"
#include "guestmm/reporting/linux_policy.h"
#include "guestmm/virtio/vhost_user/back_end/server.h"
#include "guestmm/vmm/balloon_factory.h"
#include "nlohmann/json.hpp"

namespace guestmm::guest_vmm_test {
namespace {

namespace fs = std::filesystem;

constexpr uint64_t kBlockBytes = kSectionOrder.bytes();
constexpr std::chrono::minutes kPatience(1);

class GuestVmmTest : public testing::Test {
 protected:
  GuestVmmTest()
      : folder_(fs::path(testing::TempDir()) /
                absl::StrCat("guest_vmm_", getpid())) {
    fs::create_directories(folder_);
    EXPECT_EQ(server_.Listen(path()), absl::OkStatus());
  }
  ~GuestVmmTest() override { fs::remove_all(folder_); }

  std::string path() const { return (folder_ / "socket").string(); }
  GuestOptions Options() const {
    GuestOptions options;
    options.memory = MemoryMap::Pc(kBlockBytes);
    options.memory_source = MemorySource::kSharedMemfd;
    options.hotplug_end = Gpa(4 * kBlockBytes);
    // Not v12, which misses what is freed during a pass.
    options.make_policy = [] {
      return std::make_unique<LinuxPolicy>(
          LinuxOptions{.delay = std::chrono::milliseconds(1)});
    };
    options.vmm_socket = path();
    return options;
  }

  const fs::path folder_;
  BalloonFactory balloons_;
  VhostUserServer server_{balloons_.maker()};
};

TEST_F(GuestVmmTest, WhatIsFreedIsGone) {
  const auto guest = Guest::Create(Options()).value();
  EXPECT_EQ(guest->device(), nullptr);
  EXPECT_EQ(guest->vmm()->vmm_pid(), getpid());
  Vcpu& vcpu = guest->vcpu(0);
  // All of it is reported initially.
  ASSERT_TRUE(guest->WaitUntilAtRest(kPatience));
  std::vector<Pfn> blocks;
  for (int i = 0; i < 20; ++i) {
    blocks.push_back(vcpu.Allocate(kPageblockOrder).value());
    vcpu.Touch(blocks.back(), kPageblockOrder, 1);
  }
  const uint64_t full = guest->ram().ResidentBytes().value();
  for (const Pfn pfn : blocks) vcpu.Free(pfn, kPageblockOrder);
  ASSERT_TRUE(guest->WaitUntilAtRest(kPatience));
  // A block that merges when it returns is reported after the next free.
  EXPECT_LE(guest->ram().ResidentBytes().value(), full - 32 * kMiB);
  EXPECT_EQ(guest->CheckInvariants(), absl::OkStatus());
  EXPECT_GE(balloons_.discards().bytes, 32 * kMiB);
  EXPECT_EQ(guest->ReconnectVmm().ToString(),
            "FAILED_PRECONDITION: the balloon driver is not down: the VMM was "
            "not reset");
}

// Memory that was hot-added after the VMM had started is discarded, too.
TEST_F(GuestVmmTest, HotAddedMemoryIsHandedBack) {
  const auto guest = Guest::Create(Options()).value();
  const PfnRange added = {Pfn(2 * kSectionOrder.pages().value()),
                          Pfn(3 * kSectionOrder.pages().value())};
  const GpaRange bytes = {ToGpa(added.start), kBlockBytes};
  Vcpu& vcpu = guest->vcpu(0);
  for (int round = 0; round < 3; ++round) {
    ASSERT_EQ(guest->hotplug().Add(added, 0), absl::OkStatus());
    ASSERT_EQ(guest->hotplug().Online(added, ZoneType::kMovable),
              absl::OkStatus());
    ASSERT_TRUE(guest->WaitUntilAtRest(kPatience));
    std::vector<Pfn> blocks;
    while (const std::optional<Pfn> pfn = vcpu.Allocate(kPageblockOrder)) {
      vcpu.Touch(*pfn, kPageblockOrder, 1);
      blocks.push_back(*pfn);
    }
    EXPECT_GT(guest->ram().ResidentBytes(bytes).value(), kBlockBytes / 2);
    for (const Pfn pfn : blocks) vcpu.Free(pfn, kPageblockOrder);
    ASSERT_TRUE(guest->WaitUntilAtRest(kPatience));
    EXPECT_LT(guest->ram().ResidentBytes(bytes).value(), kBlockBytes / 8);
    ASSERT_EQ(guest->hotplug().Offline(added), absl::OkStatus());
    ASSERT_EQ(guest->hotplug().Remove(added), absl::OkStatus());
  }
  EXPECT_EQ(guest->vmm()->connection(), absl::OkStatus());
  EXPECT_EQ(server_.counters().refused, 0u);
}

TEST_F(GuestVmmTest, WhatDoesNotGoWithAVmm) {
  const auto error = [](const GuestOptions& options) {
    return std::string(Guest::Create(options).status().message());
  };
  const std::string start = "vmm_socket is \"" + path() + "\": ";
  GuestOptions options = Options();
  options.memory_source = MemorySource::kAnonymous;
  EXPECT_EQ(
      error(options),
      start +
          "memory_source is anonymous memory, must be a shared memfd or a "
          "hugetlb memfd, which another process can map");
  options = Options();
  VirtualTime time(1);
  options.virtual_time = &time;
  EXPECT_EQ(error(options), start +
                                "virtual_time must be unset: another process "
                                "runs in real time");
  options = Options();
  options.make_hypervisor = [](const GuestRam&) {
    return std::make_unique<NullHypervisor>();
  };
  EXPECT_EQ(error(options),
            start +
                "make_hypervisor must be unset: the VMM has the "
                "hypervisor");
}

TEST_F(GuestVmmTest, Density) {
  DensityOptions options = {
      .scale = kMinScale, .policies = {"v12"}, .max_guests = 3};
  options.policy_parameters = {.order = Order(6)};
  options.vmm_socket = path();
  const auto resolved = ResolveDensity(options, AvailableMemory());
  ASSERT_EQ(resolved.status(), absl::OkStatus());
  const auto result = RunDensity(*resolved, {});
  ASSERT_EQ(result.status(), absl::OkStatus());
  const DensityRow& row = result->rows[0];
  EXPECT_EQ(row.guests, 3);
  EXPECT_GT(row.reported_bytes, 0u);
  EXPECT_EQ(row.discarded_bytes, std::nullopt);
  EXPECT_EQ(row.discard_calls, std::nullopt);
  EXPECT_GE(balloons_.discards().bytes, row.reported_bytes);
  const auto json = nlohmann::json::parse(DensitySummaryJson(*result));
  EXPECT_EQ(json["config"]["vmm"], path());
  EXPECT_TRUE(json["rows"][0]["discarded_bytes"].is_null());

  options.hypervisor = HypervisorKind::kNone;
  EXPECT_EQ(std::string(
                ResolveDensity(options, AvailableMemory()).status().message()),
            "hypervisor none: with vmm, which has the hypervisor, allowed is "
            "madvise");
}

}  // namespace
}  // namespace guestmm::guest_vmm_test
