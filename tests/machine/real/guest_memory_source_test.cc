// The whole path, from a vCPU's free to the resident memory that the kernel
// reports, for every source of guest RAM.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <ostream>
#include <string>
#include <vector>

#include "guestmm/base/virtual_time.h"
#include "guestmm/machine/real/guest.h"
#include "guestmm/reporting/reporting_policy.h"
#include "guestmm/reporting/v12_policy.h"
#include "guestmm/virtio/device/balloon_device.h"
#include "tests/testing/huge_page_pool.h"
#include "tests/testing/ram_file.h"

namespace guestmm::guest_memory_source_test {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr Order kHuge = kPageblockOrder;
constexpr uint64_t kBytes = 64 * kMiB;

struct Way {
  MemorySource source;
  DiscardMethod method;
};

std::ostream& operator<<(std::ostream& out, const Way& way) {
  return out << Name(way.source) << " by " << Name(way.method);
}

std::unique_ptr<ReportingPolicy> ReportAll() {
  return std::make_unique<V12Policy>(V12Options{.threshold = 1});
}

class GuestMemorySourceTest : public testing::TestWithParam<Way> {
 protected:
  void SetUp() override {
    GuestOptions options = {.memory = MemoryMap::Pc(kBytes),
                            .huge_pages = HugePages::kForbid,
                            .memory_source = GetParam().source,
                            .make_policy = ReportAll,
                            .discard = {.method = GetParam().method},
                            .virtual_time = &time_};
    if (options.memory_source == MemorySource::kHugetlb) {
      auto pool = HugePagePool::Reserve(kBytes / (2 * kMiB));
      if (!pool.ok()) GTEST_SKIP() << "NOT tested: " << pool.status();
      pool_ = *std::move(pool);
      options.huge_pages = HugePages::kHostDefault;
    }
    if (options.memory_source == MemorySource::kPrivateFile) {
      file_ = std::make_unique<RamFile>(kBytes, std::byte{0x5a});
      options.memory_file = file_->path();
    }
    guest_ = Guest::Create(options).value();
  }

  uint64_t Resident(Pfn pfn) const {
    return guest_->ram()
        .ResidentBytes({.gpa = ToGpa(pfn), .bytes = kHuge.bytes()})
        .value();
  }

  VirtualTime time_{1};
  std::unique_ptr<HugePagePool> pool_;
  std::unique_ptr<RamFile> file_;
  std::unique_ptr<Guest> guest_;
};

INSTANTIATE_TEST_SUITE_P(
    Ways, GuestMemorySourceTest,
    testing::Values(Way{MemorySource::kAnonymous, DiscardMethod::kDontNeed},
                    Way{MemorySource::kSharedMemfd, DiscardMethod::kPunchHole},
                    Way{MemorySource::kSharedMemfd, DiscardMethod::kRemove},
                    Way{MemorySource::kHugetlb, DiscardMethod::kPunchHole},
                    Way{MemorySource::kHugetlb, DiscardMethod::kRemove},
                    Way{MemorySource::kPrivateFile, DiscardMethod::kRemap}),
    [](const auto& way) {
      std::string name(Name(way.param.source));
      name += '_';
      name += Name(way.param.method);
      std::replace(name.begin(), name.end(), ' ', '_');
      return name;
    });

TEST_P(GuestMemorySourceTest, WhatIsFreedIsGoneAndTheRestIsThere) {
  Vcpu& vcpu = guest_->vcpu(0);
  std::vector<Pfn> blocks;
  for (uint64_t i = 0; i < 20; ++i) {
    blocks.push_back(vcpu.Allocate(kHuge).value());
    vcpu.Touch(blocks.back(), kHuge, /*stamp=*/1);
  }
  const uint64_t full = guest_->ram().ResidentBytes().value();
  ASSERT_GE(full, 20 * kHuge.bytes());
  for (size_t i = 0; i < blocks.size(); ++i) {
    if (i % 4 != 0) vcpu.Free(blocks[i], kHuge);
  }
  time_.RunUntilIdle();
  ASSERT_EQ(guest_->CheckInvariants(), absl::OkStatus());

  EXPECT_EQ(guest_->ram().ResidentBytes().value(), full - 15 * kHuge.bytes());
  for (size_t i = 0; i < blocks.size(); ++i) {
    if (i % 4 != 0) {
      EXPECT_EQ(Resident(blocks[i]), 0u);
      const Translation block =
          guest_->ram()
              .Translate({.gpa = ToGpa(blocks[i]), .bytes = kHuge.bytes()})
              .value();
      EXPECT_EQ(
          std::count(block.bytes().begin(), block.bytes().end(), std::byte{0}),
          static_cast<ptrdiff_t>(kHuge.bytes()));
    } else {
      EXPECT_EQ(Resident(blocks[i]), kHuge.bytes());
      EXPECT_EQ(vcpu.FindCorrupted(blocks[i], kHuge, 1), std::nullopt);
    }
  }
  EXPECT_EQ(guest_->hypervisor().counters().failures, 0u);
  EXPECT_EQ(guest_->device()->counters().skipped(), 0u);
  EXPECT_EQ(guest_->device()->counters().discard_errors, 0u);

  // The guest can allocate all of it again.
  for (size_t i = 0; i < 15; ++i) {
    const Pfn pfn = vcpu.Allocate(kHuge).value();
    vcpu.Touch(pfn, kHuge, /*stamp=*/2);
    EXPECT_EQ(vcpu.FindCorrupted(pfn, kHuge, 2), std::nullopt);
  }
}

TEST(GuestMemorySourceErrorTest, AMethodThatDoesNotFit) {
  const absl::Status status =
      Guest::Create({.memory = MemoryMap::Pc(kBytes),
                     .memory_source = MemorySource::kSharedMemfd,
                     .discard = {.method = DiscardMethod::kDontNeed}})
          .status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()),
              AllOf(HasSubstr("MADV_DONTNEED"), HasSubstr("shared memfd")));
}

TEST(GuestMemorySourceErrorTest, FreeMemoryThatMustBeZeroAndIsAFiles) {
  const absl::Status status =
      Guest::Create({.memory = MemoryMap::Pc(kBytes),
                     .memory_source = MemorySource::kPrivateFile,
                     .memory_file = "/some/file",
                     .page_poison = {.mode = PagePoisonMode::kInitOnFree}})
          .status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()),
              AllOf(HasSubstr("kInitOnFree"), HasSubstr("kPrivateFile")));
}

}  // namespace
}  // namespace guestmm::guest_memory_source_test
