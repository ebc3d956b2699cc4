// Guest RAM of each source: initial contents, residency, and adding and
// removing regions.

#include "guestmm/ram/memory_source.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <optional>
#include <span>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "guestmm/ram/guest_ram.h"
#include "tests/testing/huge_page_pool.h"
#include "tests/testing/ram_file.h"

namespace guestmm::memory_source_test {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr uint64_t kHugePage = 2 * kMiB;
constexpr std::byte kInFile{0x5a};
constexpr std::byte kWritten{0xa5};
constexpr std::byte kZero{0};

std::string Message(const absl::Status& status) {
  return std::string(status.message());
}

// The size of the memory in `ram`'s memfd, by the kernel's count of its blocks.
uint64_t MemfdBytes(const GuestRam& ram) {
  struct stat file = {};
  EXPECT_EQ(fstat(ram.memfd(), &file), 0);
  return static_cast<uint64_t>(file.st_blocks) * 512;
}

// 4 MiB at 2 MiB and 4 MiB at 1 GiB. A page is a page of the source.
class MemorySourceTest : public testing::TestWithParam<MemorySource> {
 protected:
  static constexpr GpaRange kLow = {Gpa(2 * kMiB), 4 * kMiB};
  static constexpr GpaRange kHigh = {Gpa(kGiB), 4 * kMiB};

  void SetUp() override {
    GuestRamOptions options = {.regions = {kLow, kHigh}, .source = GetParam()};
    if (GetParam() == MemorySource::kHugetlb) {
      auto pool = HugePagePool::Reserve(8);
      if (!pool.ok()) GTEST_SKIP() << "NOT tested: " << pool.status();
      pool_ = *std::move(pool);
      page_ = kHugePage;
    } else {
      options.huge_pages = HugePages::kForbid;
    }
    if (GetParam() == MemorySource::kPrivateFile) {
      file_ = std::make_unique<RamFile>(8 * kMiB, kInFile);
      options.file = file_->path();
    }
    ram_ = GuestRam::Create(options).value();
  }

  bool IsMemfd() const {
    return GetParam() == MemorySource::kSharedMemfd ||
           GetParam() == MemorySource::kHugetlb;
  }
  std::byte AtFirst() const { return file_ != nullptr ? kInFile : kZero; }
  bool All(GpaRange range, std::byte value) const {
    const Translation memory = ram_->Translate(range).value();
    const std::span<std::byte> bytes = memory.bytes();
    return bytes[0] == value &&
           std::memcmp(bytes.data(), bytes.data() + 1, bytes.size() - 1) == 0;
  }
  void Fill(GpaRange range) const {
    const Translation memory = ram_->Translate(range).value();
    std::memset(memory.bytes().data(), 0xa5, range.bytes);
  }
  uint64_t Resident(GpaRange range) const {
    return ram_->ResidentBytes(range).value();
  }

  std::unique_ptr<HugePagePool> pool_;
  std::unique_ptr<RamFile> file_;
  std::unique_ptr<GuestRam> ram_;
  uint64_t page_ = HostPageSize();
};

INSTANTIATE_TEST_SUITE_P(Sources, MemorySourceTest,
                         testing::Values(MemorySource::kAnonymous,
                                         MemorySource::kSharedMemfd,
                                         MemorySource::kHugetlb,
                                         MemorySource::kPrivateFile),
                         [](const auto& source) {
                           std::string name(Name(source.param));
                           std::replace(name.begin(), name.end(), ' ', '_');
                           return name;
                         });

TEST_P(MemorySourceTest, SaysWhatItIs) {
  EXPECT_EQ(ram_->source(), GetParam());
  EXPECT_EQ(ram_->discard_granule(), page_);
  EXPECT_EQ(ram_->memfd() >= 0, IsMemfd());
  EXPECT_EQ(ram_->huge_pages(), GetParam() == MemorySource::kHugetlb
                                    ? HugePages::kHostDefault
                                    : HugePages::kForbid);
}

TEST_P(MemorySourceTest, HoldsWhatItShouldAtFirstAndWhatIsWritten) {
  EXPECT_TRUE(All(kLow, AtFirst()));
  EXPECT_TRUE(All(kHigh, AtFirst()));
  Fill({kLow.gpa, kMiB});
  EXPECT_TRUE(All({kLow.gpa, kMiB}, kWritten));
  EXPECT_TRUE(All({kLow.gpa + kMiB, 3 * kMiB}, AtFirst()));
  EXPECT_TRUE(All(kHigh, AtFirst()));
}

TEST_P(MemorySourceTest, NothingIsResidentAtFirst) {
  EXPECT_EQ(ram_->ResidentBytes().value(), 0u);
}

TEST_P(MemorySourceTest, AWrittenPageIsResident) {
  Fill({kLow.gpa + kHugePage, 1});
  Fill({kHigh.gpa, 1});
  EXPECT_EQ(ram_->ResidentBytes().value(), 2 * page_);
  EXPECT_EQ(Resident({kLow.gpa, kHugePage}), 0u);
  EXPECT_EQ(Resident({kLow.gpa + kHugePage, page_}), page_);
  EXPECT_EQ(Resident({kHigh.gpa, kHugePage}), page_);
  if (IsMemfd()) {
    EXPECT_EQ(MemfdBytes(*ram_), 2 * page_);
  }
}

TEST_P(MemorySourceTest, HvaAndGpaAgreeModuloAHugePage) {
  for (const GpaRange& range : {kLow, kHigh}) {
    const Translation memory = ram_->Translate(range).value();
    EXPECT_EQ(reinterpret_cast<uintptr_t>(memory.bytes().data()) % kHugePage,
              0u);
  }
}

TEST_P(MemorySourceTest, AnAddedRegionReadsAsZero) {
  const GpaRange added = {Gpa(2 * kGiB), 4 * kMiB};
  ASSERT_EQ(ram_->AddRegion(added), absl::OkStatus());
  EXPECT_TRUE(All(added, kZero));
  Fill(added);
  EXPECT_EQ(Resident(added), added.bytes);
  EXPECT_EQ(Resident(kHigh), 0u);
}

TEST_P(MemorySourceTest, ARemovedRegionIsGoneAndZeroWhenItComesBack) {
  Fill(kLow);
  Fill(kHigh);
  ASSERT_EQ(ram_->RemoveRegion(kLow), absl::OkStatus());
  EXPECT_EQ(ram_->ResidentBytes().value(), kHigh.bytes);
  if (IsMemfd()) {
    EXPECT_EQ(MemfdBytes(*ram_), kHigh.bytes);
  }
  ASSERT_EQ(ram_->AddRegion(kLow), absl::OkStatus());
  EXPECT_TRUE(All(kLow, kZero));
  EXPECT_TRUE(All(kHigh, kWritten));
}

TEST_P(MemorySourceTest, ARemovedPartLeavesItsNeighbours) {
  const GpaRange region = {Gpa(2 * kGiB), 6 * kMiB};
  ASSERT_EQ(ram_->AddRegion(region), absl::OkStatus());
  Fill(region);
  const GpaRange middle = {region.gpa + 2 * kMiB, 2 * kMiB};
  ASSERT_EQ(ram_->RemoveRegion(middle), absl::OkStatus());
  const GpaRange before = {region.gpa, 2 * kMiB};
  const GpaRange after = {region.gpa + 4 * kMiB, 2 * kMiB};
  EXPECT_THAT(ram_->regions(), ElementsAre(kLow, kHigh, before, after));
  EXPECT_FALSE(ram_->Translate({middle.gpa, 1}).has_value());
  EXPECT_TRUE(All(before, kWritten));
  EXPECT_TRUE(All(after, kWritten));
  EXPECT_EQ(ram_->ResidentBytes().value(), 4 * kMiB);
  if (IsMemfd()) {
    EXPECT_EQ(MemfdBytes(*ram_), 4 * kMiB);
  }
  ASSERT_EQ(ram_->AddRegion(middle), absl::OkStatus());
  EXPECT_TRUE(All(middle, kZero));
}

TEST_P(MemorySourceTest, RegionsAreInWholeGranules) {
  const std::string text = "start and size must be multiples of " +
                           FormatBytes(ram_->discard_granule());
  for (const GpaRange& range : {GpaRange{Gpa(2 * kGiB), page_ / 2},
                                GpaRange{Gpa(2 * kGiB + page_ / 2), page_}}) {
    EXPECT_EQ(ram_->AddRegion(range).code(),
              absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(Message(ram_->AddRegion(range)), HasSubstr(text));
  }
  EXPECT_THAT(Message(ram_->RemoveRegion({kLow.gpa, page_ / 2})),
              HasSubstr(text));
}

// Another process's view of guest RAM.
class MemfdTest : public MemorySourceTest {
 protected:
  std::span<std::byte> MapElsewhere(GpaRange range) const {
    void* const at =
        mmap(nullptr, range.bytes, PROT_READ | PROT_WRITE, MAP_SHARED,
             ram_->memfd(), static_cast<off_t>(range.gpa.value()));
    EXPECT_NE(at, MAP_FAILED);
    return {static_cast<std::byte*>(at), range.bytes};
  }
};

INSTANTIATE_TEST_SUITE_P(Sources, MemfdTest,
                         testing::Values(MemorySource::kSharedMemfd,
                                         MemorySource::kHugetlb),
                         [](const auto& source) {
                           return source.param == MemorySource::kHugetlb
                                      ? "Hugetlb"
                                      : "Shared";
                         });

TEST_P(MemfdTest, HasAtAnOffsetWhatGuestRamHasAtThatAddress) {
  const std::span<std::byte> low = MapElsewhere(kLow);
  const std::span<std::byte> high = MapElsewhere(kHigh);
  Fill({kLow.gpa + 5, 1});
  EXPECT_EQ(low[5], kWritten);
  high[7] = kWritten;
  EXPECT_TRUE(All({kHigh.gpa + 7, 1}, kWritten));
  munmap(low.data(), low.size());
  munmap(high.data(), high.size());
}

TEST_P(MemfdTest, WhatOthersWroteWhereThereWasNoRegionIsNotInTheNextOne) {
  ASSERT_EQ(ram_->RemoveRegion(kLow), absl::OkStatus());
  const std::span<std::byte> low = MapElsewhere(kLow);
  low[0] = kWritten;
  ASSERT_EQ(MemfdBytes(*ram_), page_);
  ASSERT_EQ(ram_->AddRegion(kLow), absl::OkStatus());
  EXPECT_EQ(MemfdBytes(*ram_), 0u);
  EXPECT_TRUE(All(kLow, kZero));
  munmap(low.data(), low.size());
}

// Pages of the memfd count as resident whichever process touched them.
TEST(SharedMemfdTest, WhatOthersTouchedIsResident) {
  const auto ram = GuestRam::Create({.regions = {{Gpa(0), kMiB}},
                                     .source = MemorySource::kSharedMemfd})
                       .value();
  const std::vector<std::byte> page(HostPageSize(), kWritten);
  ASSERT_EQ(pwrite(ram->memfd(), page.data(), page.size(), 0),
            static_cast<ssize_t>(page.size()));
  EXPECT_EQ(ram->ResidentBytes().value(), page.size());
}

// More pages than one mincore call covers.
TEST(SharedMemfdTest, ResidencyOfMoreThanOneRead) {
  const uint64_t page = HostPageSize();
  const auto ram = GuestRam::Create({.regions = {{Gpa(0), 20000 * page}},
                                     .source = MemorySource::kSharedMemfd})
                       .value();
  for (const uint64_t i : {0, 4095, 4096, 8191, 8192, 19999}) {
    ram->Translate({Gpa(i * page), 1})->bytes().front() = kWritten;
  }
  EXPECT_EQ(ram->ResidentBytes().value(), 6 * page);
}

TEST(SharedMemfdTest, ARegionBeyondWhatAFileCanBeIsRefused) {
  const absl::Status status =
      GuestRam::Create({.regions = {{Gpa(uint64_t{1} << 63), kMiB}},
                        .source = MemorySource::kSharedMemfd})
          .status();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(Message(status),
              HasSubstr("region 0x8000000000000000 + 1.00 MiB: ftruncate"));
}

TEST(HugetlbTest, APoolWithTooFewPagesSaysSoAtTheStart) {
  // More than any host has; the first region may or may not succeed.
  const absl::Status status =
      GuestRam::Create(
          {.regions = {{Gpa(0), kTiB}}, .source = MemorySource::kHugetlb})
          .status();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(Message(status),
            "region 0x0 + 1.00 TiB: mmap failed: Cannot allocate memory");
}

TEST(HugetlbTest, PagesGoBackToThePool) {
  const auto pool = HugePagePool::Reserve(4);
  if (!pool.ok()) GTEST_SKIP() << "NOT tested: " << pool.status();
  const uint64_t before = (*pool)->Available();
  auto ram = GuestRam::Create({.regions = {{Gpa(0), 8 * kMiB}},
                               .source = MemorySource::kHugetlb})
                 .value();
  EXPECT_EQ((*pool)->Available(), before - 4);
  ram->Translate({Gpa(0), 1})->bytes().front() = kWritten;
  EXPECT_EQ((*pool)->Available(), before - 4);
  ASSERT_EQ(ram->RemoveRegion({Gpa(0), 4 * kMiB}), absl::OkStatus());
  EXPECT_EQ((*pool)->Available(), before - 2);
  ram.reset();
  EXPECT_EQ((*pool)->Available(), before);
}

TEST(HugetlbTest, TakesNoAdviceOnHugePages) {
  const absl::Status status =
      GuestRam::Create({.regions = {{Gpa(0), kHugePage}},
                        .huge_pages = HugePages::kForbid,
                        .source = MemorySource::kHugetlb})
          .status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(Message(status),
              AllOf(HasSubstr("hugetlb memfd"),
                    HasSubstr("huge_pages kForbid: its pages are huge "
                              "already, must be kHostDefault")));
}

absl::Status CreateStatus(std::string file, uint64_t bytes) {
  return GuestRam::Create({.regions = {{Gpa(0), bytes}},
                           .source = MemorySource::kPrivateFile,
                           .file = std::move(file)})
      .status();
}

TEST(PrivateFileTest, RegionsAreInTheFileOneAfterTheOther) {
  RamFile file(2 * kMiB, std::byte{1});
  const std::vector<std::byte> second(kMiB, std::byte{2});
  file.Write(kMiB, second.data(), second.size());
  const auto ram =
      GuestRam::Create({.regions = {{Gpa(kMiB), kMiB}, {Gpa(kGiB), kMiB}},
                        .source = MemorySource::kPrivateFile,
                        .file = file.path()})
          .value();
  EXPECT_EQ(ram->Translate({Gpa(2 * kMiB - 1), 1})->bytes().front(),
            std::byte{1});
  EXPECT_EQ(ram->Translate({Gpa(kGiB), 1})->bytes().front(), std::byte{2});
}

TEST(PrivateFileTest, WritesDoNotReachTheFile) {
  const RamFile file(kMiB, kInFile);
  const auto ram = GuestRam::Create({.regions = {{Gpa(0), kMiB}},
                                     .source = MemorySource::kPrivateFile,
                                     .file = file.path()})
                       .value();
  ram->Translate({Gpa(3), 1})->bytes().front() = kWritten;
  EXPECT_EQ(file.Read(3), kInFile);
}

// They belong to the host's page cache, shared by all guests of one snapshot.
TEST(PrivateFileTest, PagesThatWereOnlyReadAreNotResident) {
  const RamFile file(kMiB, kInFile);
  const auto ram = GuestRam::Create({.regions = {{Gpa(0), kMiB}},
                                     .source = MemorySource::kPrivateFile,
                                     .file = file.path()})
                       .value();
  const Translation memory = ram->Translate({Gpa(0), kMiB}).value();
  EXPECT_EQ(std::count(memory.bytes().begin(), memory.bytes().end(), kInFile),
            static_cast<ptrdiff_t>(kMiB));
  EXPECT_EQ(ram->ResidentBytes().value(), 0u);
  memory.bytes().front() = kWritten;
  EXPECT_EQ(ram->ResidentBytes().value(), HostPageSize());
}

TEST(PrivateFileTest, AFileThatIsTooShortIsRefused) {
  const RamFile file(kMiB, kInFile);
  const absl::Status status = CreateStatus(file.path(), 2 * kMiB);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(Message(status), "guest RAM file " + file.path() +
                                 ": holds 1.00 MiB, the regions are 2.00 MiB");
}

TEST(PrivateFileTest, RefusesPathsThatAreNotFiles) {
  EXPECT_EQ(Message(CreateStatus("/nowhere", kMiB)),
            "guest RAM file /nowhere: No such file or directory");
  EXPECT_EQ(Message(CreateStatus("/proc", kMiB)),
            "guest RAM file /proc: not a regular file");
}

TEST(PrivateFileTest, IsTheOnlySourceWithAFile) {
  EXPECT_EQ(
      Message(CreateStatus("", kMiB)),
      "guest RAM of source private file with file \"\": must name a file");
  const absl::Status status =
      GuestRam::Create({.regions = {{Gpa(0), kMiB}}, .file = "/some/file"})
          .status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(Message(status),
            "guest RAM of source anonymous memory with file \"/some/file\": "
            "must be empty");
}

TEST(MemorySourceNameTest, IsPrinted) {
  std::ostringstream out;
  out << MemorySource::kAnonymous << ", " << MemorySource::kPrivateFile;
  EXPECT_EQ(out.str(), "anonymous memory, private file");
}

}  // namespace
}  // namespace guestmm::memory_source_test
