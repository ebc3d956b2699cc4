// Guest RAM whose memory another process created; here, another GuestRam.
// Refused files are tested with their sender, in
// virtio/vhost_user/back_end/session_test.cc.

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "guestmm/base/unique_fd.h"
#include "guestmm/host/discard/discarding_hypervisor.h"
#include "guestmm/ram/foreign_fault_guard.h"
#include "guestmm/ram/guest_ram.h"
#include "tests/testing/huge_page_pool.h"

namespace guestmm::foreign_ram_test {
namespace {

using ::testing::HasSubstr;

std::unique_ptr<GuestRam> MakeShared(MemorySource source, uint64_t bytes) {
  return GuestRam::Create({.regions = {{Gpa(0), bytes}}, .source = source})
      .value();
}

std::byte& At(const GuestRam& ram, uint64_t gpa) {
  return ram.Translate({Gpa(gpa), 1})->bytes()[0];
}

TEST(ForeignRamTest, IsEmptyAtFirst) {
  const auto ram = GuestRam::CreateForeign().value();
  EXPECT_TRUE(ram->foreign());
  EXPECT_TRUE(ram->regions().empty());
  EXPECT_EQ(ram->memfd(), -1);
  EXPECT_EQ(*ram->ResidentBytes(), 0u);
  EXPECT_EQ(ram->source(), MemorySource::kSharedMemfd);
}

TEST(ForeignRamTest, BothSeeTheSame) {
  const auto maker = MakeShared(MemorySource::kSharedMemfd, 4 * kMiB);
  const auto ram = GuestRam::CreateForeign().value();
  // Its address is unrelated to its offset in the file.
  const GpaRange range = {Gpa(kGiB + kMiB), 2 * kMiB};
  ASSERT_TRUE(ram->AdoptRegion(range, maker->memfd(), kMiB).ok());
  At(*maker, kMiB) = std::byte{7};
  EXPECT_EQ(At(*ram, kGiB + kMiB), std::byte{7});
  EXPECT_EQ(reinterpret_cast<uintptr_t>(&At(*ram, kGiB + kMiB)) % (2 * kMiB),
            kMiB);
  EXPECT_EQ(*ram->ResidentBytes(), kPageSize);
  // The memory belongs to its creator.
  ASSERT_TRUE(ram->RemoveRegion(range).ok());
  EXPECT_EQ(At(*maker, kMiB), std::byte{7});
  EXPECT_FALSE(ram->Translate(range));
}

TEST(ForeignRamTest, IsDiscardedByAddress) {
  const auto maker = MakeShared(MemorySource::kSharedMemfd, 4 * kMiB);
  const auto ram = GuestRam::CreateForeign().value();
  ASSERT_TRUE(
      ram->AdoptRegion({Gpa(kGiB), 2 * kMiB}, maker->memfd(), kMiB).ok());
  DiscardingHypervisor hypervisor(*ram);
  EXPECT_EQ(hypervisor.method(), DiscardMethod::kRemove);
  At(*maker, kMiB) = At(*maker, kMiB + kPageSize) = std::byte{7};
  const GpaRange page = {Gpa(kGiB), kPageSize};
  EXPECT_TRUE(hypervisor.Discard({&page, 1}).ok());
  EXPECT_EQ(At(*maker, kMiB), std::byte{0});
  EXPECT_EQ(At(*maker, kMiB + kPageSize), std::byte{7});
  const auto punching =
      DiscardingHypervisor::Create(*ram, {.method = DiscardMethod::kPunchHole});
  EXPECT_EQ(std::string(punching.status().message()),
            "discard method FALLOC_FL_PUNCH_HOLE: cannot discard guest RAM of "
            "source foreign shared memfd: must be one of MADV_REMOVE");
}

TEST(ForeignRamTest, HugePagesGoInWholeOnes) {
  const auto pool = HugePagePool::Reserve(2);
  if (!pool.ok()) GTEST_SKIP() << "NOT tested: " << pool.status();
  const auto maker = MakeShared(MemorySource::kHugetlb, 4 * kMiB);
  const auto ram = GuestRam::CreateForeign().value();
  EXPECT_THAT(
      std::string(
          ram->AdoptRegion({Gpa(0), 2 * kMiB}, maker->memfd(), kMiB).message()),
      HasSubstr("offset 0x100000 must be a multiple of 2.00 MiB"));
  EXPECT_FALSE(ram->AdoptRegion({Gpa(0), kMiB}, maker->memfd(), 0).ok());
  ASSERT_TRUE(ram->AdoptRegion({Gpa(0), 4 * kMiB}, maker->memfd(), 0).ok());
  EXPECT_EQ(ram->source(), MemorySource::kHugetlb);
  EXPECT_EQ(ram->discard_granule(), 2 * kMiB);
  At(*maker, 2 * kMiB) = std::byte{7};
  DiscardingHypervisor hypervisor(*ram);
  const GpaRange block = {Gpa(2 * kMiB), 2 * kMiB};
  EXPECT_TRUE(hypervisor.Discard({&block, 1}).ok());
  EXPECT_EQ(At(*maker, 2 * kMiB), std::byte{0});

  const auto small = MakeShared(MemorySource::kSharedMemfd, 2 * kMiB);
  EXPECT_EQ(
      std::string(
          ram->AdoptRegion({Gpa(kGiB), 2 * kMiB}, small->memfd(), 0).message()),
      "region 0x40000000 + 2.00 MiB: is of source shared memfd, other "
      "regions are of source hugetlb memfd");
}

// A guest discards a huge page, and the pool is empty when it is read again:
// that ends the process, unless it is guarded.
TEST(ForeignRamDeathTest, AHugePageThatCannotBeHad) {
  const auto pool = HugePagePool::Reserve(2);
  if (!pool.ok()) GTEST_SKIP() << "NOT tested: " << pool.status();
  const auto read_where_none_is = [](bool guarded) {
    const auto maker = MakeShared(MemorySource::kHugetlb, 4 * kMiB);
    const auto ram = GuestRam::CreateForeign().value();
    if (!ram->AdoptRegion({Gpa(0), 4 * kMiB}, maker->memfd(), 0).ok()) return;
    At(*maker, 2 * kMiB) = std::byte{7};
    DiscardingHypervisor hypervisor(*maker);
    const GpaRange block = {Gpa(2 * kMiB), 2 * kMiB};
    if (!hypervisor.Discard({&block, 1}).ok()) return;
    // Takes the discarded page and all others of the pool.
    std::vector<std::unique_ptr<GuestRam>> others;
    while (true) {
      auto other = GuestRam::Create(
          {.regions = {{Gpa(0), 2 * kMiB}}, .source = MemorySource::kHugetlb});
      if (!other.ok()) break;
      others.push_back(*std::move(other));
    }
    if (guarded) GuardAgainstForeignFaults();
    At(*ram, 2 * kMiB) = std::byte{8};
    At(*ram, 0) = std::byte{9};
    const bool alone = At(*maker, 0) == std::byte{0};
    std::_Exit(alone ? 42 : 43);
  };
  EXPECT_DEATH(read_where_none_is(false), "");
  EXPECT_EXIT(read_where_none_is(true), testing::ExitedWithCode(42), "");
}

// A SIGBUS elsewhere still ends the process.
TEST(ForeignRamDeathTest, AnyOtherSigbus) {
  const auto read_past_an_end = [] {
    GuardAgainstForeignFaults();
    const UniqueFd fd(memfd_create("empty", MFD_CLOEXEC));
    const void* const at =
        mmap(nullptr, kPageSize, PROT_READ, MAP_SHARED, fd.get(), 0);
    std::_Exit(*static_cast<const volatile char*>(at));
  };
  EXPECT_DEATH(read_past_an_end(), "");
}

// A process that maps the memfd need not fear SIGBUS.
TEST(ForeignRamTest, OurMemfdsGetNoShorter) {
  const auto maker = MakeShared(MemorySource::kSharedMemfd, 2 * kMiB);
  EXPECT_NE(ftruncate(maker->memfd(), kPageSize), 0);
  EXPECT_TRUE(maker->AddRegion({Gpa(4 * kMiB), 2 * kMiB}).ok());
}

TEST(ForeignRamTest, OnlyWhatMayBeWritten) {
  const auto maker = MakeShared(MemorySource::kSharedMemfd, 2 * kMiB);
  const std::string path = "/proc/self/fd/" + std::to_string(maker->memfd());
  const UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  const auto ram = GuestRam::CreateForeign().value();
  EXPECT_EQ(
      std::string(ram->AdoptRegion({Gpa(0), kMiB}, fd.get(), 0).message()),
      "memory from another process: not open for reading and writing");
  EXPECT_EQ(ram->AdoptRegion({Gpa(0), kMiB}, -1, 0).code(),
            absl::StatusCode::kInvalidArgument);
}

class RecordingObserver final : public RegionObserver {
 public:
  void OnRegionAdded(GpaRange range) override { added.push_back(range); }
  void OnRegionRemoved(GpaRange range) override { removed.push_back(range); }

  std::vector<GpaRange> added;
  std::vector<GpaRange> removed;
};

TEST(RegionObserverTest, IsToldOfWhatCameAndWent) {
  const auto ram = GuestRam::Create({.regions = {{Gpa(0), kMiB}}}).value();
  RecordingObserver observer;
  ram->SetObserver(&observer);
  const GpaRange range = {Gpa(kGiB), kMiB};
  ASSERT_TRUE(ram->AddRegion(range).ok());
  ASSERT_FALSE(ram->AddRegion(range).ok());
  const GpaRange part = {Gpa(kGiB), kPageSize};
  ASSERT_TRUE(ram->RemoveRegion(part).ok());
  ASSERT_FALSE(ram->RemoveRegion(part).ok());
  ram->SetObserver(nullptr);
  ASSERT_TRUE(ram->AddRegion(part).ok());
  EXPECT_EQ(observer.added, std::vector{range});
  EXPECT_EQ(observer.removed, std::vector{part});
}

}  // namespace
}  // namespace guestmm::foreign_ram_test
