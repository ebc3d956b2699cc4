// GuestRam::ResidentBytes against the kernel's actual behaviour.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <fstream>
#include <iostream>
#include <memory>
#include <span>
#include <string>

#include "guestmm/ram/guest_ram.h"
#include "tests/testing/smaps.h"

namespace guestmm::residency_test {
namespace {

using ::testing::HasSubstr;

constexpr uint64_t kHugePage = 2 * kMiB;

std::unique_ptr<GuestRam> MakeRam(uint64_t bytes,
                                  HugePages huge_pages = HugePages::kForbid) {
  return GuestRam::Create(
             {.regions = {{Gpa(0), bytes}}, .huge_pages = huge_pages})
      .value();
}

// No region is removed here, so the bytes stay valid.
std::span<std::byte> Bytes(const GuestRam& ram, GpaRange range) {
  return ram.Translate(range)->bytes();
}

// Writes to the host page that holds `gpa`.
void Touch(const GuestRam& ram, Gpa gpa) {
  Bytes(ram, {gpa, 1}).front() = std::byte{1};
}

uint64_t Resident(const GuestRam& ram, GpaRange range) {
  return ram.ResidentBytes(range).value();
}

// A read that the compiler must not optimize away.
void Read(const GuestRam& ram, Gpa gpa) {
  const volatile std::byte* const at = Bytes(ram, {gpa, 1}).data();
  const std::byte value = *at;
  EXPECT_EQ(value, std::byte{0});
}

TEST(ResidencyTest, NothingAtFirst) {
  const auto ram = MakeRam(64 * kMiB);
  EXPECT_EQ(ram->ResidentBytes().value(), 0u);
}

TEST(ResidencyTest, APageForEachPageTouched) {
  const uint64_t page = HostPageSize();
  const auto ram = MakeRam(64 * kMiB);
  for (uint64_t i = 0; i < 100; ++i) Touch(*ram, Gpa(i * 7 * page));
  EXPECT_EQ(ram->ResidentBytes().value(), 100 * page);
}

// Several writes to one page count once.
TEST(ResidencyTest, CountsAPageOnce) {
  const auto ram = MakeRam(kMiB);
  Touch(*ram, Gpa(0));
  Touch(*ram, Gpa(HostPageSize() - 1));
  EXPECT_EQ(ram->ResidentBytes().value(), HostPageSize());
}

TEST(ResidencyTest, OfAPartCountsThatPart) {
  const uint64_t page = HostPageSize();
  const auto ram = MakeRam(kMiB);
  Touch(*ram, Gpa(0));
  Touch(*ram, Gpa(2 * page));
  EXPECT_EQ(Resident(*ram, {Gpa(0), page}), page);
  EXPECT_EQ(Resident(*ram, {Gpa(page), page}), 0u);
  EXPECT_EQ(Resident(*ram, {Gpa(page), 2 * page}), page);
}

TEST(ResidencyTest, SumsTheRegions) {
  const auto ram =
      GuestRam::Create({.regions = {{Gpa(0), kMiB}, {Gpa(kGiB), kMiB}},
                        .huge_pages = HugePages::kForbid})
          .value();
  Touch(*ram, Gpa(0));
  Touch(*ram, Gpa(kGiB));
  Touch(*ram, Gpa(kGiB + kMiB - 1));
  EXPECT_EQ(ram->ResidentBytes().value(), 3 * HostPageSize());
  EXPECT_EQ(Resident(*ram, {Gpa(kGiB), kMiB}), 2 * HostPageSize());
}

// More pages than one read covers, so that a second read continues.
TEST(ResidencyTest, OfMoreThanOneRead) {
  const auto ram = MakeRam(20000 * HostPageSize());
  for (const uint64_t i : {0, 4095, 4096, 8191, 8192, 19999}) {
    Touch(*ram, Gpa(i * HostPageSize()));
  }
  EXPECT_EQ(ram->ResidentBytes().value(), 6 * HostPageSize());
}

TEST(ResidencyTest, DiscardedPagesAreGone) {
  const uint64_t page = HostPageSize();
  const auto ram = MakeRam(kMiB);
  for (uint64_t i = 0; i < 4; ++i) Touch(*ram, Gpa(i * page));
  const auto middle = Bytes(*ram, {Gpa(page), 2 * page});
  ASSERT_EQ(madvise(middle.data(), middle.size(), MADV_DONTNEED), 0);
  EXPECT_EQ(ram->ResidentBytes().value(), 2 * page);
  EXPECT_EQ(Resident(*ram, {Gpa(page), 2 * page}), 0u);
}

// The resident memory of guest RAM's mapping from another source of the kernel,
// smaps, which excludes the shared zero page.
uint64_t RssAround(const GuestRam& ram) {
  return SmapsOf(Bytes(ram, {Gpa(0), 1})).at(0).resident;
}

// Pages that were only read cost nothing if the host maps the shared zero page;
// a host without one backs them with pages that count.
TEST(ResidencyTest, WhatWasOnlyReadCountsAsTheHostHasIt) {
  const auto ram = MakeRam(kMiB);
  const uint64_t before = RssAround(*ram);
  for (uint64_t i = 0; i < 10; ++i) Read(*ram, Gpa(i * HostPageSize()));
  const uint64_t read = RssAround(*ram) - before;
  EXPECT_EQ(ram->ResidentBytes().value(), read);
  EXPECT_TRUE(read == 0 || read == 10 * HostPageSize()) << read;
  Touch(*ram, Gpa(0));
  EXPECT_EQ(ram->ResidentBytes().value(), std::max(read, HostPageSize()));
}

TEST(ResidencyTest, WhatWasOnlyReadOfAHugePageCountsAsTheHostHasIt) {
  const auto ram = MakeRam(2 * kHugePage, HugePages::kAdvise);
  const uint64_t before = RssAround(*ram);
  Read(*ram, Gpa(0));
  EXPECT_EQ(ram->ResidentBytes().value(), RssAround(*ram) - before);
}

// The host's THP setting: "always", "madvise" or "never".
std::string ThpSetting() {
  std::ifstream file("/sys/kernel/mm/transparent_hugepage/enabled");
  std::string word;
  while (file >> word) {
    if (word.front() == '[') return word.substr(1, word.size() - 2);
  }
  return "never";
}

// A touched byte costs a huge page if the host provides one, else a small one.
// That depends on the host: the test records which it was.
TEST(ResidencyTest, GoesByTheHostsGranule) {
  constexpr uint64_t kGranules = 8;
  const std::string setting = ThpSetting();
  const auto ram = MakeRam(kGranules * kHugePage, HugePages::kAdvise);
  uint64_t huge = 0;
  for (uint64_t i = 0; i < kGranules; ++i) {
    const GpaRange granule = {Gpa(i * kHugePage), kHugePage};
    Touch(*ram, granule.gpa);
    const uint64_t resident = Resident(*ram, granule);
    EXPECT_TRUE(resident == kHugePage || resident == HostPageSize())
        << FormatBytes(resident);
    huge += resident == kHugePage ? 1 : 0;
  }
  if (setting == "never") {
    EXPECT_EQ(huge, 0u);
  }
  std::cout << "transparent huge pages: " << setting << "; the host gave "
            << huge << " of " << kGranules << " possible"
            << (huge == 0 ? ": the 2 MiB granule was NOT tested" : "") << "\n";
  RecordProperty("huge_pages", static_cast<int>(huge));
}

TEST(ResidencyTest, ForbiddenHugePagesAreNotUsed) {
  const auto ram = MakeRam(4 * kHugePage, HugePages::kForbid);
  Touch(*ram, Gpa(kHugePage));
  EXPECT_EQ(ram->ResidentBytes().value(), HostPageSize());
}

TEST(ResidencyTest, IsAskedInWholeHostPagesOfOneRegion) {
  const uint64_t page = HostPageSize();
  const auto ram = MakeRam(kMiB);
  for (const GpaRange& range :
       {GpaRange{Gpa(1), page}, GpaRange{Gpa(0), page + 1}, GpaRange{Gpa(0), 0},
        GpaRange{Gpa(kMiB), page}, GpaRange{Gpa(0), kMiB + page}}) {
    SCOPED_TRACE(range);
    const absl::Status status = ram->ResidentBytes(range).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(status.message()),
                HasSubstr(": must be whole host pages within one region"));
  }
}

}  // namespace
}  // namespace guestmm::residency_test
