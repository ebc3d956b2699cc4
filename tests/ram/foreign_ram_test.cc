// Guest RAM whose memory another process created; here, another GuestRam.
// Refused files are tested with their sender, in
// virtio/vhost_user/back_end/session_test.cc.

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/memfd.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <fstream>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include "guestmm/base/unique_fd.h"
#include "guestmm/host/discard/discarding_hypervisor.h"
#include "guestmm/ram/guest_ram.h"
#include "src/ram/foreign_mappings.h"
#include "tests/ram/hotplug_testing.h"
#include "tests/testing/huge_page_pool.h"
#include "tests/testing/memfd.h"

namespace guestmm::foreign_ram_test {
namespace {

using ::testing::HasSubstr;

std::unique_ptr<GuestRam> MakeShared(MemorySource source, uint64_t bytes) {
  return GuestRam::Create({.regions = {{Gpa(0), bytes}}, .source = source})
      .value();
}

using hotplug_testing::ByteAt;
using hotplug_testing::Fill;
using hotplug_testing::Message;

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

// Bytes of the file that this process has mapped.
uint64_t MappedBytes(int fd) {
  struct stat file = {};
  GUESTMM_CHECK(fstat(fd, &file) == 0);
  std::ifstream maps("/proc/self/maps");
  uint64_t bytes = 0;
  for (std::string line; std::getline(maps, line);) {
    std::istringstream words(line);
    uint64_t start = 0;
    uint64_t end = 0;
    char dash = 0;
    std::string permissions;
    std::string offset;
    std::string device;
    uint64_t inode = 0;
    words >> std::hex >> start >> dash >> end >> permissions >> offset >>
        device >> std::dec >> inode;
    if (inode == file.st_ino && line.find("memfd:test") != std::string::npos) {
      bytes += end - start;
    }
  }
  return bytes;
}

bool IsGuarded(const std::byte* hva) {
  return UseForeignMapping(hva, [](auto) { return true; });
}

// Regions of several memfds come and go, in whole and in part. Nothing of a
// region stays that is removed.
void SeveralFiles(uint64_t page, unsigned flags) {
  constexpr uint64_t kFiles = 3;
  const uint64_t bytes = 3 * page;
  const auto ram = GuestRam::CreateForeign().value();
  std::vector<UniqueFd> files;
  std::vector<const std::byte*> hvas;
  for (uint64_t i = 0; i < kFiles; ++i) {
    files.push_back(MakeMemfd(bytes, F_SEAL_SHRINK, flags));
    ASSERT_EQ(ram->AdoptRegion({Gpa(i * kGiB), bytes}, files[i].get(), 0),
              absl::OkStatus());
    Fill(*ram, {Gpa(i * kGiB), bytes}, static_cast<int>(i) + 1);
    hvas.push_back(&At(*ram, i * kGiB));
    EXPECT_EQ(MappedBytes(files[i].get()), bytes);
  }
  ASSERT_EQ(ram->RemoveRegion({Gpa(kGiB + page), page}), absl::OkStatus());
  EXPECT_EQ(MappedBytes(files[1].get()), 2 * page);
  EXPECT_FALSE(IsGuarded(hvas[1] + page));
  EXPECT_TRUE(IsGuarded(hvas[1]));
  EXPECT_TRUE(IsGuarded(hvas[1] + 2 * page));
  ASSERT_EQ(ram->RemoveRegion({Gpa(0), bytes}), absl::OkStatus());
  EXPECT_EQ(MappedBytes(files[0].get()), 0u);
  EXPECT_FALSE(IsGuarded(hvas[0]));
  EXPECT_EQ(ByteAt(*ram, Gpa(0)), -1);
  EXPECT_EQ(ByteAt(*ram, Gpa(kGiB + page)), -1);
  EXPECT_EQ(ByteAt(*ram, Gpa(kGiB)), 2);
  EXPECT_EQ(ByteAt(*ram, Gpa(kGiB + bytes - 1)), 2);
  EXPECT_EQ(ByteAt(*ram, Gpa(2 * kGiB)), 3);
  EXPECT_EQ(MappedBytes(files[2].get()), bytes);
  // With other contents at the same address.
  ASSERT_EQ(ram->AdoptRegion({Gpa(0), page}, files[2].get(), page),
            absl::OkStatus());
  EXPECT_EQ(ByteAt(*ram, Gpa(0)), 3);
  EXPECT_EQ(MappedBytes(files[2].get()), bytes + page);
  ASSERT_EQ(ram->ReplaceRegions({}), absl::OkStatus());
  for (uint64_t i = 0; i < kFiles; ++i) {
    EXPECT_EQ(MappedBytes(files[i].get()), 0u);
    EXPECT_FALSE(IsGuarded(hvas[i]));
    EXPECT_FALSE(IsGuarded(hvas[i] + 2 * page));
  }
}

TEST(ForeignRamTest, SeveralFilesOfSmallPages) {
  SeveralFiles(HostPageSize(), 0);
}

TEST(ForeignRamTest, SeveralFilesOfHugePages) {
  const auto pool = HugePagePool::Reserve(9);
  if (!pool.ok()) GTEST_SKIP() << "NOT tested: " << pool.status();
  const uint64_t available = (*pool)->Available();
  SeveralFiles(2 * kMiB, MFD_HUGETLB | MFD_HUGE_2MB);
  EXPECT_EQ((*pool)->Available(), available);
}

// A file on tmpfs, of which there is one at /dev/shm; without a name.
UniqueFd MakeTmpfsFile(uint64_t bytes) {
  UniqueFd fd(open("/dev/shm", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600));
  if (fd.valid()) {
    GUESTMM_CHECK(ftruncate(fd.get(), static_cast<off_t>(bytes)) == 0);
  }
  return fd;
}

TEST(ForeignRamTest, UnsealedMemoryIsRefusedUnlessItIsAllowed) {
  const UniqueFd unsealed = MakeMemfd(kMiB, 0);
  const UniqueFd unsealable(memfd_create("test", MFD_CLOEXEC));
  ASSERT_EQ(ftruncate(unsealable.get(), kMiB), 0);
  const UniqueFd on_tmpfs = MakeTmpfsFile(kMiB);
  const auto strict = GuestRam::CreateForeign().value();
  const auto lenient =
      GuestRam::CreateForeign({.allow_unsealed = true}).value();
  Gpa gpa(0);
  for (const UniqueFd* fd : {&unsealed, &unsealable, &on_tmpfs}) {
    if (!fd->valid()) continue;  // no tmpfs at /dev/shm
    EXPECT_EQ(Message(strict->AdoptRegion({gpa, kMiB}, fd->get(), 0)),
              "memory from another process: not sealed with F_SEAL_SHRINK: it "
              "could get shorter while it is used");
    ASSERT_EQ(lenient->AdoptRegion({gpa, kMiB}, fd->get(), 0),
              absl::OkStatus());
    Fill(*lenient, {gpa, kMiB}, 7);
    DiscardingHypervisor hypervisor(*lenient);
    const GpaRange half = {gpa, kMiB / 2};
    EXPECT_EQ(hypervisor.Discard({&half, 1}), absl::OkStatus());
    EXPECT_EQ(ByteAt(*lenient, gpa), 0);
    EXPECT_EQ(ByteAt(*lenient, gpa + kMiB / 2), 7);
    gpa = gpa + kMiB;
  }
}

TEST(ForeignRamTest, UnsealedHugePages) {
  const auto pool = HugePagePool::Reserve(2);
  if (!pool.ok()) GTEST_SKIP() << "NOT tested: " << pool.status();
  const UniqueFd fd = MakeMemfd(4 * kMiB, 0, MFD_HUGETLB | MFD_HUGE_2MB);
  const auto ram = GuestRam::CreateForeign({.allow_unsealed = true}).value();
  ASSERT_EQ(ram->AdoptRegion({Gpa(0), 4 * kMiB}, fd.get(), 0),
            absl::OkStatus());
  EXPECT_EQ(ram->source(), MemorySource::kHugetlb);
  EXPECT_EQ(ByteAt(*ram, Gpa(2 * kMiB)), 0);
}

// Whatever is allowed, a file must be memory that may be written.
TEST(ForeignRamTest, OtherFilesAreRefusedInAnyCase) {
  const auto ram = GuestRam::CreateForeign({.allow_unsealed = true}).value();
  const auto adopt = [&](int fd) {
    return Message(ram->AdoptRegion({Gpa(0), kPageSize}, fd, 0));
  };
  const std::string no_memory =
      "memory from another process: takes no seals: must be a memfd or a file "
      "on tmpfs or hugetlbfs";
  // Of procfs, devtmpfs and pipefs.
  EXPECT_EQ(adopt(UniqueFd(open("/proc/self/mem", O_RDWR | O_CLOEXEC)).get()),
            no_memory);
  EXPECT_EQ(adopt(UniqueFd(open("/dev/zero", O_RDWR | O_CLOEXEC)).get()),
            no_memory);
  std::array<int, 2> ends = {-1, -1};
  ASSERT_EQ(pipe2(ends.data(), O_CLOEXEC), 0);
  const UniqueFd read_end(ends[0]);
  const UniqueFd write_end(ends[1]);
  EXPECT_EQ(adopt(read_end.get()), no_memory);
  EXPECT_EQ(adopt(UniqueFd(open("/dev/shm", O_RDONLY | O_CLOEXEC)).get()),
            no_memory);
  EXPECT_EQ(adopt(MakeMemfd(kPageSize, F_SEAL_WRITE).get()),
            "memory from another process: sealed against writing");
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
