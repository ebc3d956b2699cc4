#include "guestmm/ram/guest_ram.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace guestmm::guest_ram_test {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr uint64_t kMax = ~uint64_t{0};

std::unique_ptr<GuestRam> MakeRam(std::vector<GpaRange> regions) {
  return GuestRam::Create({.regions = std::move(regions)}).value();
}

absl::Status CreateStatus(std::vector<GpaRange> regions) {
  return GuestRam::Create({.regions = std::move(regions)}).status();
}

std::string Message(const absl::Status& status) {
  return std::string(status.message());
}

TEST(GuestRamTest, HostPageSizeIsTheHosts) {
  EXPECT_EQ(HostPageSize(), static_cast<uint64_t>(getpagesize()));
}

TEST(GuestRamTest, IsReadableWritableAndZero) {
  const auto ram = MakeRam({{Gpa(0), 4 * kMiB}});
  const Translation memory = ram->Translate({Gpa(0), 4 * kMiB}).value();
  const std::span<std::byte> bytes = memory.bytes();
  EXPECT_EQ(bytes.size(), 4 * kMiB);
  EXPECT_EQ(bytes.front(), std::byte{0});
  EXPECT_EQ(bytes.back(), std::byte{0});
  bytes.front() = bytes.back() = std::byte{7};
  EXPECT_EQ(bytes.front(), std::byte{7});
}

TEST(GuestRamTest, SizeIsTheSumOfTheRegions) {
  const auto ram = MakeRam({{Gpa(0), kMiB}, {Gpa(kGiB), 3 * kMiB}});
  EXPECT_EQ(ram->bytes(), 4 * kMiB);
  EXPECT_EQ(ram->regions().size(), 2u);
  EXPECT_EQ(ram->regions()[1], (GpaRange{Gpa(kGiB), 3 * kMiB}));
}

TEST(GuestRamTest, TranslatesByTheOffsetInTheRegion) {
  const auto ram = MakeRam({{Gpa(kMiB), kMiB}});
  std::byte* const start = ram->Translate({Gpa(kMiB), 1})->bytes().data();
  EXPECT_EQ(ram->Translate({Gpa(kMiB + 5), 3})->bytes().data(), start + 5);
  EXPECT_EQ(ram->Translate({Gpa(kMiB + 5), 3})->bytes().size(), 3u);
}

TEST(GuestRamTest, RegionsAreMemoryOfTheirOwn) {
  const auto ram = MakeRam({{Gpa(0), kMiB}, {Gpa(2 * kMiB), kMiB}});
  ram->Translate({Gpa(0), 1})->bytes().front() = std::byte{1};
  ram->Translate({Gpa(2 * kMiB), 1})->bytes().front() = std::byte{2};
  EXPECT_EQ(ram->Translate({Gpa(0), 1})->bytes().front(), std::byte{1});
  EXPECT_EQ(ram->Translate({Gpa(2 * kMiB), 1})->bytes().front(), std::byte{2});
}

TEST(GuestRamTest, HvaAndGpaAgreeModuloAHugePage) {
  for (const uint64_t gpa :
       {uint64_t{0}, 2 * kMiB, 2 * kMiB + kPageSize, 4 * kMiB - kPageSize,
        3 * kMiB, 4 * kGiB + kPageSize}) {
    SCOPED_TRACE(Gpa(gpa));
    const auto ram = MakeRam({{Gpa(gpa), 3 * kMiB}});
    const auto hva = reinterpret_cast<uintptr_t>(
        ram->Translate({Gpa(gpa), 3 * kMiB})->bytes().data());
    EXPECT_EQ(hva % (2 * kMiB), gpa % (2 * kMiB));
  }
}

// Ranges as a guest may request them, over [1 MiB, 2 MiB) and [3 MiB, 4 MiB).
struct Asked {
  const char* name;
  GpaRange range;
  bool is_ram;
};

class TranslateTest : public testing::TestWithParam<Asked> {};

TEST_P(TranslateTest, KeepsToTheRegions) {
  const auto ram = MakeRam({{Gpa(kMiB), kMiB}, {Gpa(3 * kMiB), kMiB}});
  const auto memory = ram->Translate(GetParam().range);
  ASSERT_EQ(memory.has_value(), GetParam().is_ram);
  if (memory) {
    EXPECT_EQ(memory->bytes().size(), GetParam().range.bytes);
  }
}

INSTANTIATE_TEST_SUITE_P(
    Ranges, TranslateTest,
    testing::Values(Asked{"WholeRegion", {Gpa(kMiB), kMiB}, true},
                    Asked{"FirstByte", {Gpa(kMiB), 1}, true},
                    Asked{"LastByte", {Gpa(2 * kMiB - 1), 1}, true},
                    Asked{"SecondRegion", {Gpa(3 * kMiB), kMiB}, true},
                    Asked{"BeforeTheFirst", {Gpa(kMiB - 1), 1}, false},
                    Asked{"IntoTheFirst", {Gpa(kMiB - 1), 2}, false},
                    Asked{"OneByteTooLong", {Gpa(kMiB), kMiB + 1}, false},
                    Asked{"PastTheEndByOne", {Gpa(2 * kMiB - 1), 2}, false},
                    Asked{"InTheHole", {Gpa(2 * kMiB), kPageSize}, false},
                    Asked{"AcrossTheHole", {Gpa(kMiB), 3 * kMiB}, false},
                    Asked{"AfterTheLast", {Gpa(4 * kMiB), 1}, false},
                    Asked{"Empty", {Gpa(kMiB), 0}, false},
                    Asked{"EmptyAtZero", {Gpa(0), 0}, false},
                    Asked{"EndOverflows", {Gpa(kMiB), kMax}, false},
                    // gpa + bytes wraps to 1 MiB + 1, which is inside.
                    Asked{"EndWrapsIntoTheRegion",
                          {Gpa(3 * kMiB), kMax - 2 * kMiB + 2},
                          false},
                    Asked{"OffsetAndSizeOverflow",
                          {Gpa(kMiB + kPageSize), kMax - kPageSize + 2},
                          false},
                    Asked{"LastAddress", {Gpa(kMax), 1}, false},
                    Asked{"LastAddressWraps", {Gpa(kMax), 2}, false}),
    [](const auto& asked) { return asked.param.name; });

TEST(TranslateAdjacentTest, RegionsSideBySideAreCrossedByNoRange) {
  const auto ram = MakeRam({{Gpa(0), kMiB}, {Gpa(kMiB), kMiB}});
  EXPECT_TRUE(ram->Translate({Gpa(kMiB - kPageSize), kPageSize}).has_value());
  EXPECT_TRUE(ram->Translate({Gpa(kMiB), kPageSize}).has_value());
  EXPECT_FALSE(
      ram->Translate({Gpa(kMiB - kPageSize), 2 * kPageSize}).has_value());
}

TEST(GuestRamErrorTest, NoRegion) {
  const absl::Status status = CreateStatus({});
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(Message(status), "guest RAM has no region");
}

TEST(GuestRamErrorTest, NotInWholePages) {
  for (const GpaRange& range :
       {GpaRange{Gpa(0), 0}, GpaRange{Gpa(0), kPageSize / 2},
        GpaRange{Gpa(1), kMiB}, GpaRange{Gpa(0), kMiB + 1}}) {
    SCOPED_TRACE(range);
    const absl::Status status = CreateStatus({range});
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(Message(status),
                AllOf(HasSubstr("region 0x"),
                      HasSubstr("start and size must be multiples of " +
                                FormatBytes(HostPageSize())),
                      HasSubstr("and the size not zero")));
  }
}

TEST(GuestRamErrorTest, PastTheEndOfTheAddressSpace) {
  const absl::Status status = CreateStatus({{Gpa(kMax - kMiB + 1), 2 * kMiB}});
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(Message(status),
            "region 0xfffffffffff00000 + 2.00 MiB: runs past the end of the "
            "address space");
}

TEST(GuestRamErrorTest, OverlappingOrDescendingRegions) {
  const std::string text = "regions must be in ascending order and not overlap";
  for (const GpaRange& second :
       {GpaRange{Gpa(4 * kMiB), kMiB},
        GpaRange{Gpa(4 * kMiB - kPageSize), kMiB}, GpaRange{Gpa(0), kMiB}}) {
    SCOPED_TRACE(second);
    const absl::Status status =
        CreateStatus({{Gpa(3 * kMiB), 2 * kMiB}, second});
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(Message(status), HasSubstr(text));
  }
}

TEST(GuestRamErrorTest, NamesTheRegionThatBreaksTheRule) {
  EXPECT_THAT(Message(CreateStatus({{Gpa(0), kMiB}, {Gpa(kGiB), 100}})),
              HasSubstr("region 0x40000000 + 100 B"));
}

TEST(GuestRamErrorTest, AMappingThatCannotBeHadNamesItsRegion) {
  // Larger than any address space; the region before it can be mapped.
  const absl::Status status =
      CreateStatus({{Gpa(0), kMiB}, {Gpa(kTiB), uint64_t{1} << 62}});
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(Message(status),
            "region 0x10000000000 + 4194304.00 TiB: mmap failed: Cannot "
            "allocate memory");
}

TEST(GuestRamErrorTest, ASizeThatCannotBeAlignedIsRefusedToo) {
  const absl::Status status = CreateStatus({{Gpa(0), kMax - kPageSize + 1}});
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(Message(status), HasSubstr("mmap failed"));
}

TEST(GuestRamErrorTest, WithoutTheKernelsWordThereIsNoRam) {
  rlimit before;
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &before), 0);
  rlimit none = before;
  none.rlim_cur = 0;
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &none), 0);
  const absl::Status status = CreateStatus({{Gpa(0), kMiB}});
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &before), 0);
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(Message(status), "/proc/self/pagemap: Too many open files");
}

// The number of mappings of this process.
int Mappings() {
  std::FILE* const maps = std::fopen("/proc/self/maps", "r");
  int lines = 0;
  for (int c = 0; (c = std::fgetc(maps)) != EOF;) lines += c == '\n' ? 1 : 0;
  std::fclose(maps);
  return lines;
}

TEST(GuestRamTest, UnmapsWhatItMapped) {
  const auto probe = [] {
    const auto ram = MakeRam({{Gpa(kPageSize), 64 * kMiB}});
    return Mappings();
  };
  const int before = Mappings();
  for (int i = 0; i < 50; ++i) probe();
  EXPECT_LE(Mappings(), before + 10);
}

TEST(GuestRamTest, ReservesWithoutCommitting) {
  // More than the machine's memory, since it takes address space only.
  // ThreadSanitizer leaves a program less than 2 TiB of that, in pieces.
  constexpr uint64_t kBytes = kTiB / 4;
  const auto ram = MakeRam({{Gpa(0), kBytes}});
  ram->Translate({Gpa(kBytes - 1), 1})->bytes().front() = std::byte{1};
  EXPECT_EQ(ram->bytes(), kBytes);
}

}  // namespace
}  // namespace guestmm::guest_ram_test
