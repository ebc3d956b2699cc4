// Adding and removing regions of guest RAM.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "guestmm/base/check.h"
#include "guestmm/base/random.h"
#include "guestmm/ram/guest_ram.h"

namespace guestmm::hotplug_test {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

std::unique_ptr<GuestRam> MakeRam(std::vector<GpaRange> regions) {
  return GuestRam::Create(
             {.regions = std::move(regions), .huge_pages = HugePages::kForbid})
      .value();
}

std::string Message(const absl::Status& status) {
  return std::string(status.message());
}

// The byte at `gpa`; -1 if there is none.
int ByteAt(const GuestRam& ram, Gpa gpa) {
  const auto byte = ram.Translate({gpa, 1});
  return byte ? std::to_integer<int>(byte->bytes().front()) : -1;
}

void Fill(const GuestRam& ram, GpaRange range, int value) {
  const Translation memory = ram.Translate(range).value();
  std::memset(memory.bytes().data(), value, range.bytes);
}

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

TEST(PinTest, ATranslationRefusesTheRemoval) {
  const auto ram = MakeRam({{Gpa(0), 4 * kMiB}});
  const GpaRange block = {Gpa(kMiB), kMiB};
  Fill(*ram, block, 3);
  std::optional<Translation> first = ram->Translate({Gpa(kMiB), 1});
  std::optional<Translation> second = ram->Translate({Gpa(0), 4 * kMiB});
  const absl::Status status = ram->RemoveRegion(block);
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(Message(status),
            "region 0x100000 + 1.00 MiB: translations that point into it: 2");
  // With no effect.
  EXPECT_EQ(ByteAt(*ram, Gpa(kMiB)), 3);
  EXPECT_EQ(ram->bytes(), 4 * kMiB);

  second.reset();
  EXPECT_THAT(Message(ram->RemoveRegion(block)), HasSubstr("into it: 1"));
  first.reset();
  EXPECT_EQ(ram->RemoveRegion(block), absl::OkStatus());
}

// Of one region, too.
TEST(PinTest, WhatIsPinnedBesideItDoesNot) {
  const auto ram = MakeRam({{Gpa(0), 4 * kMiB}});
  const Translation before = ram->Translate({Gpa(0), kMiB}).value();
  const Translation after = ram->Translate({Gpa(2 * kMiB), kMiB}).value();
  EXPECT_EQ(ram->RemoveRegion({Gpa(kMiB), kMiB}), absl::OkStatus());
  before.bytes().back() = after.bytes().front() = std::byte{1};
  EXPECT_EQ(ByteAt(*ram, Gpa(2 * kMiB)), 1);
}

TEST(PinTest, ItsFirstAndItsLastByteCount) {
  const auto ram = MakeRam({{Gpa(0), 4 * kMiB}});
  for (const GpaRange& pinned :
       {GpaRange{Gpa(kMiB - 1), 2}, GpaRange{Gpa(2 * kMiB - 1), 1}}) {
    SCOPED_TRACE(pinned);
    const Translation translation = ram->Translate(pinned).value();
    EXPECT_EQ(ram->RemoveRegion({Gpa(kMiB), kMiB}).code(),
              absl::StatusCode::kFailedPrecondition);
  }
}

TEST(PinTest, MovesWithTheTranslation) {
  const auto ram = MakeRam({{Gpa(0), kMiB}, {Gpa(kMiB), kMiB}});
  std::optional<Translation> low = ram->Translate({Gpa(0), kMiB});
  std::optional<Translation> high = ram->Translate({Gpa(kMiB), kMiB});
  std::optional<Translation> moved = std::move(low);
  EXPECT_TRUE(low->bytes().empty());  // NOLINT(bugprone-use-after-move)
  low.reset();
  EXPECT_EQ(moved->bytes().size(), kMiB);
  EXPECT_FALSE(ram->RemoveRegion({Gpa(0), kMiB}).ok());
  // The range pinned before is released immediately.
  *moved = *std::move(high);
  EXPECT_EQ(ram->RemoveRegion({Gpa(0), kMiB}), absl::OkStatus());
  EXPECT_FALSE(ram->RemoveRegion({Gpa(kMiB), kMiB}).ok());
  moved.reset();
  EXPECT_EQ(ram->RemoveRegion({Gpa(kMiB), kMiB}), absl::OkStatus());
}

TEST(PinTest, CountsThoseOfAllThreadsAndEndsOnAnyThread) {
  const auto ram = MakeRam({{Gpa(0), kMiB}});
  constexpr size_t kThreads = 40;  // more than there are shards
  std::vector<std::optional<Translation>> translations(kThreads);
  for (std::optional<Translation>& translation : translations) {
    std::thread([&] { translation = ram->Translate({Gpa(0), 1}); }).join();
  }
  EXPECT_THAT(Message(ram->RemoveRegion({Gpa(0), kMiB})),
              HasSubstr("into it: 40"));
  std::thread([&] { translations.clear(); }).join();
  EXPECT_EQ(ram->RemoveRegion({Gpa(0), kMiB}), absl::OkStatus());
}

TEST(PinDeathTest, GuestRamOutlivesItsTranslations) {
  EXPECT_DEATH(
      {
        auto ram = MakeRam({{Gpa(0), kMiB}});
        const auto translation = ram->Translate({Gpa(0), 1});
        ram.reset();
      },
      "guest RAM destroyed with 1 translations alive");
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

// Adds and removes blocks of four pages at random, in pieces of any size, and
// compares every address with a plain array.
TEST(HotplugModelTest, EveryAddressIsAsTheModelSays) {
  constexpr uint64_t kSeed = 1;
  SCOPED_TRACE(kSeed);
  constexpr uint64_t kPages = 256;
  const uint64_t page = std::max(kPageSize, HostPageSize());
  const auto range_of = [&](uint64_t first, uint64_t count) {
    return GpaRange{Gpa(first * page), count * page};
  };
  Random random(kSeed);
  const auto ram = MakeRam({range_of(0, kPages)});
  // By page: the value of its first byte, and its region; or neither.
  struct Page {
    int value = 0;
    int region = 0;
  };
  std::vector<std::optional<Page>> model(kPages, Page{});
  int regions = 0;
  for (int step = 0; step < 3000; ++step) {
    const uint64_t first = random.Below(kPages);
    const uint64_t count =
        random.Between(1, std::min<uint64_t>(8, kPages - first));
    const GpaRange range = range_of(first, count);
    const std::span pages = std::span(model).subspan(first, count);
    const bool none = std::none_of(pages.begin(), pages.end(),
                                   [](auto& p) { return p.has_value(); });
    const bool one_region =
        std::all_of(pages.begin(), pages.end(), [&](auto& p) {
          return p && pages.front() && p->region == pages.front()->region;
        });
    if (random.OneIn(2)) {
      ASSERT_EQ(ram->AddRegion(range).ok(), none) << range;
      if (!none) continue;
      std::fill(pages.begin(), pages.end(),
                Page{.value = 0, .region = ++regions});
    } else {
      ASSERT_EQ(ram->RemoveRegion(range).ok(), one_region) << range;
      if (!one_region) continue;
      // The part of the region after it is a new region.
      const int removed = pages.front()->region;
      std::fill(pages.begin(), pages.end(), std::nullopt);
      ++regions;
      for (uint64_t i = first + count;
           i < kPages && model[i] && model[i]->region == removed; ++i) {
        model[i]->region = regions;
      }
    }
    const uint64_t touched = random.Below(kPages);
    if (model[touched]) {
      model[touched]->value = static_cast<int>(random.Between(1, 255));
      Fill(*ram, {range_of(touched, 1).gpa, 1}, model[touched]->value);
    }
    if (step % 50 != 0) continue;
    uint64_t mapped = 0;
    for (uint64_t i = 0; i < kPages; ++i) {
      ASSERT_EQ(ByteAt(*ram, Gpa(i * page)), model[i] ? model[i]->value : -1);
      mapped += model[i] ? page : 0;
      if (i + 1 == kPages) break;
      ASSERT_EQ(
          ram->Translate(range_of(i, 2)).has_value(),
          model[i] && model[i + 1] && model[i]->region == model[i + 1]->region);
    }
    ASSERT_EQ(ram->bytes(), mapped);
  }
}

// Removes and re-adds blocks while threads use them: a range with a translation
// is mapped and holds what its thread last wrote or, after a removal, zero.
TEST(HotplugThreadsTest, NothingIsLostUnderATranslation) {
  constexpr uint64_t kBlocks = 8;
  constexpr uint64_t kWriters = 3;
  constexpr int kRounds = 400;
  const uint64_t page = std::max(kPageSize, HostPageSize());
  const uint64_t block_bytes = kWriters * page;
  const auto ram = MakeRam({{Gpa(0), kBlocks * block_bytes}});
  std::atomic<bool> stop{false};
  std::atomic<uint64_t> hits{0};

  std::vector<std::thread> threads;
  for (uint64_t id = 0; id < kWriters; ++id) {
    threads.emplace_back([&, id] {
      Random random(id + 1);
      std::array<uint64_t, kBlocks> last = {};
      while (!stop) {
        const uint64_t block = random.Below(kBlocks);
        const auto own =
            ram->Translate({Gpa(block * block_bytes + id * page), page});
        if (!own) continue;
        uint64_t value = 0;
        std::memcpy(&value, own->bytes().data(), sizeof(value));
        GUESTMM_CHECK(value == 0 || value == last[block])
            << value << " is not " << last[block];
        last[block] = random.Next();
        std::memcpy(own->bytes().data(), &last[block], sizeof(value));
        std::memcpy(own->bytes().data() + page - sizeof(value), &last[block],
                    sizeof(value));
        std::memcpy(&value, own->bytes().data(), sizeof(value));
        GUESTMM_CHECK(value == last[block]);
        ++hits;
      }
    });
  }
  threads.emplace_back([&] {
    while (!stop) {
      const uint64_t most = kBlocks * block_bytes;
      GUESTMM_CHECK(ram->ResidentBytes().value() <= most);
      GUESTMM_CHECK(ram->bytes() <= most);
      for (const GpaRange& region : ram->regions()) {
        GUESTMM_CHECK(region.gpa.value() + region.bytes <= most);
      }
      // Otherwise the thread that adds and removes hardly gets the lock.
      std::this_thread::yield();
    }
  });

  Random random(99);
  std::array<bool, kBlocks> is_there;
  is_there.fill(true);
  int removed = 0;
  // Continues until both outcomes were seen, whatever the scheduler does.
  for (int round = 0; round < kRounds || removed == 0 || hits == 0; ++round) {
    const uint64_t i = random.Below(kBlocks);
    const GpaRange block = {Gpa(i * block_bytes), block_bytes};
    const absl::Status status =
        is_there[i] ? ram->RemoveRegion(block) : ram->AddRegion(block);
    if (status.ok()) {
      removed += is_there[i] ? 1 : 0;
      is_there[i] = !is_there[i];
    } else {
      EXPECT_TRUE(is_there[i]) << status;
      EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
    }
  }
  stop = true;
  for (std::thread& thread : threads) thread.join();
  for (uint64_t i = 0; i < kBlocks; ++i) {
    EXPECT_EQ(ByteAt(*ram, Gpa(i * block_bytes)) >= 0, is_there[i]);
  }
}

// A refused removal does not make the memory unavailable even for an instant.
TEST(HotplugThreadsTest, ARefusedRemovalIsNeverSeen) {
  const auto ram = MakeRam({{Gpa(0), 4 * kMiB}});
  std::atomic<bool> stop{false};
  std::atomic<uint64_t> looks{0};
  std::optional<Translation> pinned = ram->Translate({Gpa(kMiB), 1});
  std::thread reader([&] {
    while (!stop) {
      GUESTMM_CHECK(ram->Translate({Gpa(kMiB), kMiB}).has_value());
      ++looks;
    }
  });
  for (int i = 0; i < 1000 || looks < 1000; ++i) {
    EXPECT_EQ(ram->RemoveRegion({Gpa(kMiB), kMiB}).code(),
              absl::StatusCode::kFailedPrecondition);
  }
  stop = true;
  reader.join();
}

}  // namespace
}  // namespace guestmm::hotplug_test
