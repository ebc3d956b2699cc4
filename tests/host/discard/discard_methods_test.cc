// Every source of guest RAM with every method of discarding it, checked against
// the kernel's accounts.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <ostream>
#include <span>
#include <string>
#include <vector>

#include "guestmm/host/discard/discarding_hypervisor.h"
#include "tests/testing/huge_page_pool.h"
#include "tests/testing/ram_file.h"
#include "tests/testing/smaps.h"

namespace guestmm::discard_methods_test {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr uint64_t kHugePage = 2 * kMiB;
constexpr std::byte kInFile{0x5a};
constexpr std::byte kWritten{0xa5};
constexpr std::byte kZero{0};

struct Way {
  MemorySource source;
  DiscardMethod method;
  RangesPerCall ranges_per_call = RangesPerCall::kOne;
};

std::ostream& operator<<(std::ostream& out, const Way& way) {
  return out << Name(way.source) << " by " << Name(way.method);
}

std::string WayName(const testing::TestParamInfo<Way>& way) {
  std::string name(Name(way.param.source));
  name += '_';
  name += Name(way.param.method);
  if (way.param.ranges_per_call == RangesPerCall::kMany) name += "_many";
  std::replace(name.begin(), name.end(), ' ', '_');
  return name;
}

// 16 pages at 2 MiB and 16 at 1 GiB, all written to. The page size is that of
// the source.
class DiscardMethodsTest : public testing::TestWithParam<Way> {
 protected:
  static constexpr uint64_t kPages = 16;

  void SetUp() override {
    GuestRamOptions options = {.source = GetParam().source};
    if (options.source == MemorySource::kHugetlb) {
      auto pool = HugePagePool::Reserve(3 * kPages);
      if (!pool.ok()) GTEST_SKIP() << "NOT tested: " << pool.status();
      pool_ = *std::move(pool);
      page_ = kHugePage;
    } else {
      options.huge_pages = HugePages::kForbid;
    }
    options.regions = {Pages(0, kPages), HighPages(0, kPages)};
    if (options.source == MemorySource::kPrivateFile) {
      file_ = std::make_unique<RamFile>(2 * kPages * page_, kInFile);
      options.file = file_->path();
    }
    ram_ = GuestRam::Create(options).value();
    hypervisor_ = DiscardingHypervisor::Create(
                      *ram_, {.method = GetParam().method,
                              .ranges_per_call = GetParam().ranges_per_call})
                      .value();
    if (hypervisor_->ranges_per_call() != GetParam().ranges_per_call) {
      GTEST_SKIP() << "NOT tested: this kernel has no process_madvise() for "
                      "one's own "
                   << Name(GetParam().method);
    }
    for (const GpaRange& region : ram_->regions()) Fill(region);
  }

  bool IsLazy() const { return GetParam().method == DiscardMethod::kFree; }
  // The number of system calls for `ranges` ranges that are not adjacent.
  uint64_t CallsFor(uint64_t ranges) const {
    if (GetParam().ranges_per_call == RangesPerCall::kMany) return 1;
    // mmap() and the huge page advice.
    return GetParam().method == DiscardMethod::kRemap ? 2 * ranges : ranges;
  }
  GpaRange Pages(uint64_t first, uint64_t count) const {
    return {Gpa(kHugePage + first * page_), count * page_};
  }
  GpaRange HighPages(uint64_t first, uint64_t count) const {
    return {Gpa(kGiB + first * page_), count * page_};
  }
  std::span<std::byte> Bytes(GpaRange range) const {
    return ram_->Translate(range)->bytes();
  }
  void Fill(GpaRange range) const {
    std::memset(Bytes(range).data(), 0xa5, range.bytes);
  }
  bool All(GpaRange range, std::byte value) const {
    const std::span<std::byte> bytes = Bytes(range);
    // Compared with memcmp(): huge pages are large, and sanitizers slow.
    return bytes[0] == value &&
           std::memcmp(bytes.data(), bytes.data() + 1, bytes.size() - 1) == 0;
  }
  uint64_t Resident(GpaRange range) const {
    return ram_->ResidentBytes(range).value();
  }
  // The bytes that are not resident, or only until the host needs them.
  uint64_t Given(GpaRange range) const {
    return IsLazy() ? LazyFree(range) : range.bytes - Resident(range);
  }
  uint64_t LazyFree(GpaRange range) const {
    uint64_t bytes = 0;
    for (const Smap& map : SmapsOf(Bytes(range))) bytes += map.lazy_free;
    return bytes;
  }
  // The kernel marks pages as lazily free in batches, one per CPU. This thread
  // stays on its CPU, and the next such call completes the batch.
  void Discard(const std::vector<GpaRange>& ranges) const {
    cpu_set_t before;
    ASSERT_EQ(sched_getaffinity(0, sizeof(before), &before), 0);
    cpu_set_t here;
    CPU_ZERO(&here);
    CPU_SET(sched_getcpu(), &here);
    ASSERT_EQ(sched_setaffinity(0, sizeof(here), &here), 0);
    EXPECT_EQ(hypervisor_->Discard(ranges), absl::OkStatus());
    if (IsLazy()) {
      void* const other = mmap(nullptr, HostPageSize(), PROT_READ | PROT_WRITE,
                               MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
      ASSERT_EQ(madvise(other, HostPageSize(), MADV_FREE), 0);
      munmap(other, HostPageSize());
    }
    ASSERT_EQ(sched_setaffinity(0, sizeof(before), &before), 0);
  }

  uint64_t page_ = HostPageSize();
  std::unique_ptr<HugePagePool> pool_;
  std::unique_ptr<RamFile> file_;
  std::unique_ptr<GuestRam> ram_;
  std::unique_ptr<DiscardingHypervisor> hypervisor_;
};

INSTANTIATE_TEST_SUITE_P(
    Ways, DiscardMethodsTest,
    testing::Values(Way{MemorySource::kAnonymous, DiscardMethod::kDontNeed},
                    Way{MemorySource::kAnonymous, DiscardMethod::kDontNeed,
                        RangesPerCall::kMany},
                    Way{MemorySource::kAnonymous, DiscardMethod::kFree},
                    Way{MemorySource::kAnonymous, DiscardMethod::kFree,
                        RangesPerCall::kMany},
                    Way{MemorySource::kSharedMemfd, DiscardMethod::kPunchHole},
                    Way{MemorySource::kSharedMemfd, DiscardMethod::kRemove},
                    Way{MemorySource::kSharedMemfd, DiscardMethod::kRemove,
                        RangesPerCall::kMany},
                    Way{MemorySource::kHugetlb, DiscardMethod::kPunchHole},
                    Way{MemorySource::kHugetlb, DiscardMethod::kRemove},
                    Way{MemorySource::kHugetlb, DiscardMethod::kRemove,
                        RangesPerCall::kMany},
                    Way{MemorySource::kPrivateFile, DiscardMethod::kRemap}),
    WayName);

TEST_P(DiscardMethodsTest, TheHostHasExactlyWhatWasDiscarded) {
  ASSERT_EQ(ram_->ResidentBytes().value(), 2 * kPages * page_);
  Discard({Pages(4, 3)});
  EXPECT_EQ(Given(Pages(0, kPages)), 3 * page_);
  EXPECT_EQ(Given(HighPages(0, kPages)), 0u);
  EXPECT_EQ(ram_->ResidentBytes().value(),
            (2 * kPages - (IsLazy() ? 0 : 3)) * page_);
  EXPECT_EQ(hypervisor_->counters().bytes, 3 * page_);
  EXPECT_EQ(hypervisor_->counters().failures, 0u);
}

TEST_P(DiscardMethodsTest, ReadsAsZero) {
  Discard({Pages(4, 3)});
  for (uint64_t page = 4; page < 7; ++page) {
    EXPECT_TRUE(All(Pages(page, 1), kZero) ||
                (IsLazy() && All(Pages(page, 1), kWritten)));
  }
}

TEST_P(DiscardMethodsTest, NeighboursKeepTheirBytes) {
  Discard({Pages(4, 3), HighPages(0, 1)});
  EXPECT_TRUE(All(Pages(0, 4), kWritten));
  EXPECT_TRUE(All(Pages(7, kPages - 7), kWritten));
  EXPECT_TRUE(All(HighPages(1, kPages - 1), kWritten));
}

TEST_P(DiscardMethodsTest, CanBeUsedAndDiscardedAgain) {
  for (int round = 0; round < 3; ++round) {
    Discard({Pages(4, 3), HighPages(2, 1)});
    EXPECT_EQ(Given(Pages(4, 3)), 3 * page_);
    EXPECT_EQ(Given(HighPages(2, 1)), page_);
    Fill(Pages(4, 3));
    Fill(HighPages(2, 1));
    EXPECT_TRUE(All(Pages(0, kPages), kWritten));
    EXPECT_TRUE(All(HighPages(0, kPages), kWritten));
    EXPECT_EQ(ram_->ResidentBytes().value(), 2 * kPages * page_);
    EXPECT_EQ(Given(Pages(0, kPages)), 0u);
  }
}

TEST_P(DiscardMethodsTest, DiscardsARegionWhole) {
  Discard({HighPages(0, kPages)});
  EXPECT_EQ(Given(HighPages(0, kPages)), kPages * page_);
  EXPECT_EQ(Given(Pages(0, kPages)), 0u);
}

TEST_P(DiscardMethodsTest, JoinsNeighborsAndMakesFewCalls) {
  Discard(
      {Pages(9, 1), HighPages(3, 2), Pages(2, 2), Pages(4, 1), Pages(15, 1)});
  EXPECT_EQ(hypervisor_->counters().calls, CallsFor(4));
  EXPECT_EQ(hypervisor_->counters().bytes, 7 * page_);
  EXPECT_EQ(Given(Pages(0, kPages)), 5 * page_);
  EXPECT_EQ(Given(HighPages(0, kPages)), 2 * page_);
}

TEST_P(DiscardMethodsTest, ARangeTwiceIsDiscardedOnce) {
  Discard({Pages(2, 2), Pages(3, 2), Pages(2, 2)});
  EXPECT_EQ(Given(Pages(0, kPages)), 3 * page_);
  EXPECT_TRUE(All(Pages(5, kPages - 5), kWritten));
}

TEST_P(DiscardMethodsTest, RefusesPartsOfGranules) {
  for (const GpaRange& range :
       {GpaRange{Pages(4, 1).gpa, page_ / 2},
        GpaRange{Pages(4, 1).gpa + page_ / 2, page_},
        GpaRange{Pages(4, 1).gpa + page_ / 2, page_ / 2}}) {
    SCOPED_TRACE(range);
    const absl::Status status = hypervisor_->Discard({{range}});
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(
        std::string(status.message()),
        HasSubstr("start and size must be multiples of " + FormatBytes(page_)));
  }
  EXPECT_EQ(hypervisor_->counters().calls, 0u);
  EXPECT_TRUE(All(Pages(0, kPages), kWritten));
}

TEST_P(DiscardMethodsTest, DiscardsAnAddedRegion) {
  const GpaRange added = {Gpa(2 * kGiB), kPages * page_};
  ASSERT_EQ(ram_->AddRegion(added), absl::OkStatus());
  Fill(added);
  Discard({{added.gpa + page_, 2 * page_}});
  EXPECT_EQ(Given(added), 2 * page_);
  EXPECT_TRUE(All({added.gpa, page_}, kWritten));
  EXPECT_TRUE(All({added.gpa + 3 * page_, page_}, kWritten));
  EXPECT_TRUE(All(HighPages(0, kPages), kWritten));
}

TEST_P(DiscardMethodsTest, DiscardsTheRestOfARegion) {
  Discard({Pages(6, 4)});
  ASSERT_EQ(ram_->RemoveRegion(Pages(7, 2)), absl::OkStatus());
  EXPECT_EQ(hypervisor_->Discard({{Pages(6, 3)}}).code(),
            absl::StatusCode::kOutOfRange);
  Discard({Pages(10, 2)});
  EXPECT_EQ(Given(Pages(9, kPages - 9)), 3 * page_);
  EXPECT_TRUE(All(Pages(12, kPages - 12), kWritten));
  EXPECT_TRUE(All(Pages(0, 6), kWritten));
}

class MemfdDiscardTest : public DiscardMethodsTest {};

INSTANTIATE_TEST_SUITE_P(
    Ways, MemfdDiscardTest,
    testing::Values(Way{MemorySource::kSharedMemfd, DiscardMethod::kPunchHole},
                    Way{MemorySource::kSharedMemfd, DiscardMethod::kRemove},
                    Way{MemorySource::kHugetlb, DiscardMethod::kPunchHole},
                    Way{MemorySource::kHugetlb, DiscardMethod::kRemove}),
    WayName);

TEST_P(MemfdDiscardTest, EveryMappingSeesTheHole) {
  auto* const other = static_cast<std::byte*>(
      mmap(nullptr, kPages * page_, PROT_READ, MAP_SHARED, ram_->memfd(),
           static_cast<off_t>(Pages(0, 1).gpa.value())));
  ASSERT_NE(other, MAP_FAILED);
  EXPECT_EQ(other[4 * page_], kWritten);
  Discard({Pages(4, 1)});
  EXPECT_EQ(other[4 * page_], kZero);
  EXPECT_EQ(other[5 * page_], kWritten);
  munmap(other, kPages * page_);
}

// Until the host needs it, the memory is still the guest's.
TEST(LazyDiscardTest, WhatIsWrittenAfterwardsStays) {
  const uint64_t page = HostPageSize();
  const auto ram = GuestRam::Create({.regions = {{Gpa(0), kMiB}},
                                     .huge_pages = HugePages::kForbid})
                       .value();
  const auto hypervisor =
      DiscardingHypervisor::Create(*ram, {.method = DiscardMethod::kFree})
          .value();
  const Translation memory = ram->Translate({Gpa(0), kMiB}).value();
  std::fill(memory.bytes().begin(), memory.bytes().end(), kWritten);
  EXPECT_EQ(hypervisor->Discard({{{Gpa(0), kMiB}}}), absl::OkStatus());
  memory.bytes().front() = std::byte{1};
  // As memory pressure would.
  ASSERT_EQ(madvise(memory.bytes().data(), kMiB, MADV_PAGEOUT), 0);
  EXPECT_EQ(memory.bytes().front(), std::byte{1});
  EXPECT_LE(ram->ResidentBytes().value(), kMiB);
  EXPECT_EQ(ram->ResidentBytes({Gpa(0), page}).value(), page);
}

TEST(DiscardMethodTest, BySourceIsTheFirstSupportedMethod) {
  const auto ram = GuestRam::Create({.regions = {{Gpa(0), kMiB}},
                                     .source = MemorySource::kSharedMemfd})
                       .value();
  EXPECT_EQ(DiscardingHypervisor::Create(
                *ram, {.ranges_per_call = RangesPerCall::kOne})
                .value()
                ->method(),
            DiscardMethod::kPunchHole);
}

TEST(DiscardMethodTest, OrTheOneThatTakesSeveralRangesInACall) {
  const auto ram = GuestRam::Create({.regions = {{Gpa(0), kMiB}},
                                     .source = MemorySource::kSharedMemfd})
                       .value();
  const auto remove =
      DiscardingHypervisor::Create(*ram, {.method = DiscardMethod::kRemove})
          .value();
  const DiscardMethod expected =
      remove->ranges_per_call() == RangesPerCall::kMany
          ? DiscardMethod::kRemove
          : DiscardMethod::kPunchHole;
  EXPECT_EQ(DiscardingHypervisor(*ram).method(), expected);
  EXPECT_EQ(DiscardingHypervisor::Create(*ram, {}).value()->method(), expected);
}

// Methods that would discard nothing, or the wrong bytes.
class RefusedTest : public testing::TestWithParam<Way> {};

INSTANTIATE_TEST_SUITE_P(
    Ways, RefusedTest,
    testing::Values(Way{MemorySource::kAnonymous, DiscardMethod::kPunchHole},
                    Way{MemorySource::kAnonymous, DiscardMethod::kRemove},
                    Way{MemorySource::kAnonymous, DiscardMethod::kRemap},
                    Way{MemorySource::kSharedMemfd, DiscardMethod::kDontNeed},
                    Way{MemorySource::kSharedMemfd, DiscardMethod::kFree},
                    Way{MemorySource::kSharedMemfd, DiscardMethod::kRemap},
                    Way{MemorySource::kHugetlb, DiscardMethod::kDontNeed},
                    Way{MemorySource::kHugetlb, DiscardMethod::kFree},
                    Way{MemorySource::kHugetlb, DiscardMethod::kRemap},
                    Way{MemorySource::kPrivateFile, DiscardMethod::kDontNeed},
                    Way{MemorySource::kPrivateFile, DiscardMethod::kFree},
                    Way{MemorySource::kPrivateFile, DiscardMethod::kPunchHole},
                    Way{MemorySource::kPrivateFile, DiscardMethod::kRemove}),
    WayName);

TEST_P(RefusedTest, NamesBoth) {
  const MemorySource source = GetParam().source;
  const RamFile file(2 * kMiB, kInFile);
  std::unique_ptr<HugePagePool> pool;
  if (source == MemorySource::kHugetlb) {
    auto reserved = HugePagePool::Reserve(1);
    if (!reserved.ok()) GTEST_SKIP() << "NOT tested: " << reserved.status();
    pool = *std::move(reserved);
  }
  const auto ram =
      GuestRam::Create(
          {.regions = {{Gpa(0), 2 * kMiB}},
           .source = source,
           .file = source == MemorySource::kPrivateFile ? file.path() : ""})
          .value();
  const absl::Status status =
      DiscardingHypervisor::Create(*ram, {.method = GetParam().method})
          .status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()),
              AllOf(HasSubstr(std::string(Name(source))),
                    HasSubstr("method " + std::string(Name(GetParam().method))),
                    HasSubstr(": must be one of ")));
}

class ManyRangesTest : public testing::Test {
 protected:
  // 4096 pages, written to.
  static constexpr uint64_t kPages = 4096;

  void SetUp() override {
    if (hypervisor_.ranges_per_call() != RangesPerCall::kMany) {
      GTEST_SKIP() << "NOT tested: this kernel has no process_madvise() for "
                      "one's own MADV_DONTNEED";
    }
    const Translation memory = ram_->Translate({Gpa(0), ram_->bytes()}).value();
    std::fill(memory.bytes().begin(), memory.bytes().end(), kWritten);
  }
  GpaRange Page(uint64_t page) const { return {Gpa(page * page_), page_}; }
  uint64_t Resident(uint64_t page) const {
    return ram_->ResidentBytes(Page(page)).value();
  }
  // With syscall(), since sanitizers make mlock() a no-op.
  void Lock(uint64_t page) const {
    const std::span<std::byte> bytes = ram_->Translate(Page(page))->bytes();
    ASSERT_EQ(syscall(SYS_mlock, bytes.data(), bytes.size()), 0);
  }

  const uint64_t page_ = HostPageSize();
  const std::unique_ptr<GuestRam> ram_ =
      GuestRam::Create({.regions = {{Gpa(0), kPages* page_}},
                        .huge_pages = HugePages::kForbid})
          .value();
  DiscardingHypervisor hypervisor_{*ram_};
};

TEST_F(ManyRangesTest, SplitsMoreRangesThanOneCallTakes) {
  std::vector<GpaRange> ranges;
  for (uint64_t page = 0; page < kPages; page += 2) {
    ranges.push_back(Page(page));
  }
  EXPECT_EQ(hypervisor_.Discard(ranges), absl::OkStatus());
  EXPECT_EQ(hypervisor_.counters().calls, 2u);
  EXPECT_EQ(hypervisor_.counters().bytes, kPages / 2 * page_);
  EXPECT_EQ(ram_->ResidentBytes().value(), kPages / 2 * page_);
  EXPECT_EQ(Resident(1), page_);
}

// The host does not discard locked pages, and stops at the first one.
TEST_F(ManyRangesTest, AFailedRangeDoesNotAffectOthers) {
  Lock(0);
  Lock(6);
  Lock(14);
  std::vector<GpaRange> ranges;
  for (uint64_t page = 0; page < 16; page += 2) ranges.push_back(Page(page));
  const absl::Status status = hypervisor_.Discard(ranges);
  EXPECT_EQ(status.code(), absl::StatusCode::kInternal);
  EXPECT_EQ(std::string(status.message()), "madvise(MADV_DONTNEED) of " +
                                               FormatBytes(page_) +
                                               " failed: Invalid argument");
  EXPECT_EQ(hypervisor_.counters().failures, 3u);
  EXPECT_EQ(hypervisor_.counters().bytes, 5 * page_);
  for (uint64_t page = 0; page < 16; page += 2) {
    const bool locked = page == 0 || page == 6 || page == 14;
    EXPECT_EQ(Resident(page), locked ? page_ : 0) << page;
  }
}

}  // namespace
}  // namespace guestmm::discard_methods_test
