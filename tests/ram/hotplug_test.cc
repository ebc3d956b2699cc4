// Adding and removing regions of guest RAM.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <fstream>
#include <string>
#include <vector>

#include "guestmm/ram/guest_ram.h"
#include "tests/ram/hotplug_testing.h"

namespace guestmm::hotplug_test {
namespace {

using hotplug_testing::ByteAt;
using hotplug_testing::Fill;
using hotplug_testing::MakeRam;
using hotplug_testing::Message;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

TEST(AddRegionTest, ReadsAsZeroAndIsWritable) {
  const auto ram = MakeRam({{Gpa(0), kMiB}});
  ASSERT_EQ(ram->AddRegion({Gpa(kGiB), 2 * kMiB}), absl::OkStatus());
  EXPECT_EQ(ByteAt(*ram, Gpa(kGiB)), 0);
  EXPECT_EQ(ByteAt(*ram, Gpa(kGiB + 2 * kMiB - 1)), 0);
  Fill(*ram, {Gpa(kGiB), 2 * kMiB}, 7);
  EXPECT_EQ(ByteAt(*ram, Gpa(kGiB + 2 * kMiB - 1)), 7);
  EXPECT_EQ(ByteAt(*ram, Gpa(0)), 0);
}

TEST(AddRegionTest, HasItsBounds) {
  const auto ram = MakeRam({{Gpa(0), kMiB}});
  ASSERT_EQ(ram->AddRegion({Gpa(2 * kMiB), kMiB}), absl::OkStatus());
  EXPECT_EQ(ByteAt(*ram, Gpa(2 * kMiB - 1)), -1);
  EXPECT_EQ(ByteAt(*ram, Gpa(2 * kMiB)), 0);
  EXPECT_EQ(ByteAt(*ram, Gpa(3 * kMiB - 1)), 0);
  EXPECT_EQ(ByteAt(*ram, Gpa(3 * kMiB)), -1);
}

TEST(AddRegionTest, RegionsStayInAscendingOrder) {
  const auto ram = MakeRam({{Gpa(4 * kMiB), kMiB}});
  ASSERT_EQ(ram->AddRegion({Gpa(8 * kMiB), 3 * kMiB}), absl::OkStatus());
  ASSERT_EQ(ram->AddRegion({Gpa(0), kMiB}), absl::OkStatus());
  ASSERT_EQ(ram->AddRegion({Gpa(6 * kMiB), kMiB}), absl::OkStatus());
  EXPECT_THAT(ram->regions(),
              ElementsAre(GpaRange{Gpa(0), kMiB}, GpaRange{Gpa(4 * kMiB), kMiB},
                          GpaRange{Gpa(6 * kMiB), kMiB},
                          GpaRange{Gpa(8 * kMiB), 3 * kMiB}));
  EXPECT_EQ(ram->bytes(), 6 * kMiB);
}

TEST(AddRegionTest, BesideAnotherIsARegionOfItsOwn) {
  const auto ram = MakeRam({{Gpa(kMiB), kMiB}});
  ASSERT_EQ(ram->AddRegion({Gpa(2 * kMiB), kMiB}), absl::OkStatus());
  ASSERT_EQ(ram->AddRegion({Gpa(0), kMiB}), absl::OkStatus());
  EXPECT_EQ(ram->regions().size(), 3u);
  EXPECT_FALSE(ram->Translate({Gpa(2 * kMiB - 1), 2}).has_value());
  EXPECT_FALSE(ram->Translate({Gpa(kMiB - 1), 2}).has_value());
}

// As for Create: huge pages are forbidden, and addresses are equal modulo 2
// MiB.
TEST(AddRegionTest, TakesTheAdviceAndTheAlignment) {
  const auto ram = MakeRam({{Gpa(0), kMiB}});
  const GpaRange range = {Gpa(kGiB + kMiB), 8 * kMiB};
  ASSERT_EQ(ram->AddRegion(range), absl::OkStatus());
  Fill(*ram, {Gpa(kGiB + 4 * kMiB), 1}, 1);
  EXPECT_EQ(ram->ResidentBytes(range).value(), HostPageSize());
  const Translation memory = ram->Translate(range).value();
  EXPECT_EQ(reinterpret_cast<uintptr_t>(memory.bytes().data()) % (2 * kMiB),
            kMiB);
}

TEST(AddRegionErrorTest, NotInWholePages) {
  const auto ram = MakeRam({{Gpa(0), kMiB}});
  for (const GpaRange& range :
       {GpaRange{Gpa(kGiB), 0}, GpaRange{Gpa(kGiB + 1), kMiB},
        GpaRange{Gpa(kGiB), kMiB + 1}}) {
    SCOPED_TRACE(range);
    const absl::Status status = ram->AddRegion(range);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(
        Message(status),
        HasSubstr(": start and size must be multiples of " +
                  FormatBytes(HostPageSize()) + ", and the size not zero"));
  }
}

TEST(AddRegionErrorTest, PastTheEndOfTheAddressSpace) {
  const auto ram = MakeRam({{Gpa(0), kMiB}});
  const absl::Status status =
      ram->AddRegion({Gpa(~uint64_t{0} - kMiB + 1), kMiB});
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(Message(status),
            "region 0xfffffffffff00000 + 1.00 MiB: runs past the end of the "
            "address space");
}

TEST(AddRegionErrorTest, AnOverlapNamesBoth) {
  const auto ram = MakeRam({{Gpa(0), kMiB}, {Gpa(4 * kMiB), 2 * kMiB}});
  const absl::Status status = ram->AddRegion({Gpa(5 * kMiB), 4 * kMiB});
  EXPECT_EQ(status.code(), absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(Message(status),
            "region 0x500000 + 4.00 MiB: overlaps region 0x400000 + 2.00 MiB");
}

TEST(AddRegionErrorTest, OverlapsOfEveryKind) {
  const auto ram = MakeRam({{Gpa(4 * kMiB), 2 * kMiB}});
  for (const GpaRange& range :
       {GpaRange{Gpa(4 * kMiB), 2 * kMiB},        // the same
        GpaRange{Gpa(4 * kMiB), kMiB},            // its start
        GpaRange{Gpa(5 * kMiB), kMiB},            // its end
        GpaRange{Gpa(5 * kMiB), HostPageSize()},  // within
        GpaRange{Gpa(3 * kMiB), 4 * kMiB},        // around
        GpaRange{Gpa(3 * kMiB), kMiB + HostPageSize()},
        GpaRange{Gpa(6 * kMiB - HostPageSize()), kMiB}}) {
    SCOPED_TRACE(range);
    EXPECT_EQ(ram->AddRegion(range).code(), absl::StatusCode::kAlreadyExists);
  }
  EXPECT_EQ(ram->bytes(), 2 * kMiB);
}

TEST(AddRegionErrorTest, WhatTheHostDoesNotMap) {
  const auto ram = MakeRam({{Gpa(0), kMiB}});
  const absl::Status status = ram->AddRegion({Gpa(kTiB), uint64_t{1} << 62});
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(Message(status),
            "region 0x10000000000 + 4194304.00 TiB: mmap failed: Cannot "
            "allocate memory");
  EXPECT_EQ(ram->bytes(), kMiB);
}

TEST(RemoveRegionTest, AWholeRegion) {
  const auto ram = MakeRam({{Gpa(0), kMiB}, {Gpa(4 * kMiB), kMiB}});
  Fill(*ram, {Gpa(0), kMiB}, 1);
  ASSERT_EQ(ram->RemoveRegion({Gpa(4 * kMiB), kMiB}), absl::OkStatus());
  EXPECT_EQ(ByteAt(*ram, Gpa(4 * kMiB)), -1);
  EXPECT_EQ(ByteAt(*ram, Gpa(kMiB - 1)), 1);
  EXPECT_THAT(ram->regions(), ElementsAre(GpaRange{Gpa(0), kMiB}));
  EXPECT_EQ(ram->bytes(), kMiB);
}

TEST(RemoveRegionTest, TheLastOneToo) {
  const auto ram = MakeRam({{Gpa(0), kMiB}});
  ASSERT_EQ(ram->RemoveRegion({Gpa(0), kMiB}), absl::OkStatus());
  EXPECT_THAT(ram->regions(), IsEmpty());
  EXPECT_EQ(ram->bytes(), 0u);
  EXPECT_EQ(ram->ResidentBytes().value(), 0u);
  EXPECT_EQ(ram->AddRegion({Gpa(0), kMiB}), absl::OkStatus());
}

// Boot memory is one region and is removed block by block. The remaining memory
// keeps its contents and its address.
struct Split {
  const char* name;
  GpaRange removed;
  std::vector<GpaRange> left;
};

class SplitTest : public testing::TestWithParam<Split> {};

TEST_P(SplitTest, LeavesTheRest) {
  const auto ram = MakeRam({{Gpa(8 * kMiB), 8 * kMiB}});
  Fill(*ram, {Gpa(8 * kMiB), 8 * kMiB}, 5);
  const std::byte* const hva =
      ram->Translate({Gpa(8 * kMiB), kMiB})->bytes().data();
  ASSERT_EQ(ram->RemoveRegion(GetParam().removed), absl::OkStatus());

  EXPECT_EQ(ram->regions(), GetParam().left);
  EXPECT_EQ(ram->bytes(), 8 * kMiB - GetParam().removed.bytes);
  EXPECT_EQ(ram->ResidentBytes().value(), ram->bytes());
  EXPECT_FALSE(ram->Translate(GetParam().removed).has_value());
  for (const GpaRange& range : GetParam().left) {
    SCOPED_TRACE(range);
    const Translation memory = ram->Translate(range).value();
    EXPECT_EQ(memory.bytes().data(), hva + (range.gpa - Gpa(8 * kMiB)));
    EXPECT_TRUE(std::all_of(memory.bytes().begin(), memory.bytes().end(),
                            [](std::byte b) { return b == std::byte{5}; }));
    EXPECT_FALSE(ram->Translate({range.gpa, range.bytes + 1}).has_value());
  }
  EXPECT_EQ(ram->ResidentBytes(GetParam().removed).status().code(),
            absl::StatusCode::kInvalidArgument);
}

INSTANTIATE_TEST_SUITE_P(
    Parts, SplitTest,
    testing::Values(
        Split{"First", {Gpa(8 * kMiB), kMiB}, {{Gpa(9 * kMiB), 7 * kMiB}}},
        Split{"Last", {Gpa(15 * kMiB), kMiB}, {{Gpa(8 * kMiB), 7 * kMiB}}},
        Split{"Middle",
              {Gpa(10 * kMiB), 2 * kMiB},
              {{Gpa(8 * kMiB), 2 * kMiB}, {Gpa(12 * kMiB), 4 * kMiB}}},
        Split{"Whole", {Gpa(8 * kMiB), 8 * kMiB}, {}}),
    [](const auto& split) { return split.param.name; });

TEST(RemoveRegionTest, ResidencyFallsAndComesBackAsZeroes) {
  const auto ram = MakeRam({{Gpa(0), 8 * kMiB}});
  const GpaRange block = {Gpa(2 * kMiB), 2 * kMiB};
  Fill(*ram, {Gpa(0), 8 * kMiB}, 9);
  ASSERT_EQ(ram->ResidentBytes().value(), 8 * kMiB);
  ASSERT_EQ(ram->RemoveRegion(block), absl::OkStatus());
  EXPECT_EQ(ram->ResidentBytes().value(), 6 * kMiB);
  ASSERT_EQ(ram->AddRegion(block), absl::OkStatus());
  EXPECT_EQ(ram->ResidentBytes(block).value(), 0u);
  EXPECT_EQ(ram->ResidentBytes().value(), 6 * kMiB);
  const Translation memory = ram->Translate(block).value();
  EXPECT_TRUE(std::all_of(memory.bytes().begin(), memory.bytes().end(),
                          [](std::byte b) { return b == std::byte{0}; }));
  EXPECT_EQ(ByteAt(*ram, Gpa(2 * kMiB - 1)), 9);
  EXPECT_EQ(ByteAt(*ram, Gpa(4 * kMiB)), 9);
}

// The size of this process's address space in use, in bytes.
uint64_t MappedPages() {
  uint64_t pages = 0;
  std::ifstream("/proc/self/statm") >> pages;
  return pages;
}

TEST(RemoveRegionTest, UnmapsIt) {
  const auto ram = MakeRam({{Gpa(0), 64 * kGiB}});
  const uint64_t before = MappedPages();
  ASSERT_EQ(ram->RemoveRegion({Gpa(kGiB), 32 * kGiB}), absl::OkStatus());
  EXPECT_LT(MappedPages(), before - 31 * kGiB / HostPageSize());
}

TEST(RemoveRegionErrorTest, NotInWholePages) {
  const auto ram = MakeRam({{Gpa(0), kMiB}});
  const absl::Status status = ram->RemoveRegion({Gpa(1), HostPageSize()});
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(Message(status),
              HasSubstr("region 0x1 + " + FormatBytes(HostPageSize()) +
                        ": start and size must be multiples of"));
}

TEST(RemoveRegionErrorTest, NotThere) {
  const auto ram = MakeRam({{Gpa(0), kMiB}, {Gpa(kMiB), kMiB}});
  const absl::Status status = ram->RemoveRegion({Gpa(kGiB), kMiB});
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(Message(status),
            "region 0x40000000 + 1.00 MiB: not within one region of guest RAM");
  for (const GpaRange& range :
       {GpaRange{Gpa(2 * kMiB), kMiB},                   // beside
        GpaRange{Gpa(2 * kMiB - HostPageSize()), kMiB},  // in part
        GpaRange{Gpa(0), 2 * kMiB},                      // two regions
        GpaRange{Gpa(0), 4 * kMiB}}) {                   // and a hole
    SCOPED_TRACE(range);
    EXPECT_EQ(ram->RemoveRegion(range).code(), absl::StatusCode::kNotFound);
  }
  EXPECT_EQ(ram->bytes(), 2 * kMiB);
}

TEST(RemoveRegionErrorTest, Twice) {
  const auto ram = MakeRam({{Gpa(0), 4 * kMiB}});
  const GpaRange block = {Gpa(kMiB), kMiB};
  EXPECT_EQ(ram->RemoveRegion(block), absl::OkStatus());
  EXPECT_EQ(ram->RemoveRegion(block).code(), absl::StatusCode::kNotFound);
}

// Not under a sanitizer: its allocator ends the process when mappings run out.
#ifndef GUESTMM_SANITIZED
// The number of mappings per process is limited (vm.max_map_count), and a hole
// in a mapping splits it in two.
TEST(RemoveRegionErrorTest, AMappingThatCannotBeSplitStays) {
  uint64_t limit = 0;
  std::ifstream("/proc/sys/vm/max_map_count") >> limit;
  ASSERT_GT(limit, 0);
  ASSERT_LE(limit, 1 << 21) << "vm.max_map_count is too large to reach it";
  const auto ram = MakeRam({{Gpa(0), 4 * kMiB}});
  Fill(*ram, {Gpa(0), 4 * kMiB}, 3);
  // Changes the protection of every second page until the limit is reached.
  const uint64_t page = HostPageSize();
  const uint64_t bytes = 2 * (limit + 1) * page;
  void* const mapped = mmap(nullptr, bytes, PROT_NONE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  ASSERT_NE(mapped, MAP_FAILED);
  auto* const start = static_cast<std::byte*>(mapped);
  uint64_t at = page;
  while (at < bytes && mprotect(start + at, page, PROT_READ) == 0) {
    at += 2 * page;
  }
  const absl::Status status = ram->RemoveRegion({Gpa(kMiB), kMiB});
  ASSERT_EQ(munmap(mapped, bytes), 0);

  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(Message(status),
            "region 0x100000 + 1.00 MiB: munmap failed: Cannot allocate "
            "memory");
  EXPECT_EQ(ByteAt(*ram, Gpa(kMiB)), 3);
  EXPECT_EQ(ram->bytes(), 4 * kMiB);
  EXPECT_EQ(ram->RemoveRegion({Gpa(kMiB), kMiB}), absl::OkStatus());
}
#endif

}  // namespace
}  // namespace guestmm::hotplug_test
