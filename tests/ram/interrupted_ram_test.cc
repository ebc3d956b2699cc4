// Guest RAM while signals arrive: every system call that one may interrupt is
// made again.

#include <gtest/gtest.h>

#include <cstddef>
#include <memory>

#include "guestmm/ram/guest_ram.h"
#include "guestmm/ram/reserved_array.h"
#include "tests/ram/hotplug_testing.h"
#include "tests/testing/huge_page_pool.h"
#include "tests/testing/interrupted_calls.h"
#include "tests/testing/memfd.h"
#include "tests/testing/ram_file.h"
#include "tests/testing/signals.h"

namespace guestmm::interrupted_ram_test {
namespace {

using hotplug_testing::ByteAt;
using hotplug_testing::Fill;

constexpr GpaRange kFirst = {Gpa(0), 4 * kMiB};
constexpr GpaRange kSecond = {Gpa(kGiB), 4 * kMiB};

// Adds, fills and removes regions.
void UseRam(GuestRam& ram, uint64_t bytes_of_one) {
  Fill(ram, {Gpa(0), 1}, 1);
  ASSERT_EQ(ram.AddRegion(kSecond), absl::OkStatus());
  Fill(ram, {kSecond.gpa, 1}, 2);
  EXPECT_EQ(ram.ResidentBytes().value(), 2 * bytes_of_one);
  ASSERT_EQ(ram.RemoveRegion(kSecond), absl::OkStatus());
  ASSERT_EQ(ram.AddRegion(kSecond), absl::OkStatus());
  EXPECT_EQ(ByteAt(ram, kSecond.gpa), 0);
  EXPECT_EQ(ByteAt(ram, Gpa(0)), 1);
}

TEST(InterruptedRamTest, Anonymous) {
  InterruptedCalls calls;
  const auto ram =
      GuestRam::Create({.regions = {kFirst}, .huge_pages = HugePages::kForbid});
  ASSERT_EQ(ram.status(), absl::OkStatus());
  UseRam(**ram, HostPageSize());
  EXPECT_GT(calls.failures("open"), 0);
  EXPECT_GT(calls.failures("pread"), 0);
  EXPECT_GT(calls.failures("madvise"), 0);
}

TEST(InterruptedRamTest, SharedMemfd) {
  InterruptedCalls calls;
  const auto ram = GuestRam::Create(
      {.regions = {kFirst}, .source = MemorySource::kSharedMemfd});
  ASSERT_EQ(ram.status(), absl::OkStatus());
  UseRam(**ram, HostPageSize());
  EXPECT_GT(calls.failures("ftruncate"), 0);
  EXPECT_GT(calls.failures("fallocate"), 0);
  EXPECT_GT(calls.failures("mincore"), 0);
}

TEST(InterruptedRamTest, PrivateFile) {
  const RamFile file(kFirst.bytes, std::byte{7});
  InterruptedCalls calls;
  const auto ram = GuestRam::Create({.regions = {kFirst},
                                     .source = MemorySource::kPrivateFile,
                                     .file = file.path()});
  ASSERT_EQ(ram.status(), absl::OkStatus());
  EXPECT_EQ(ByteAt(**ram, Gpa(0)), 7);
}

TEST(InterruptedRamTest, Foreign) {
  const UniqueFd memfd = MakeMemfd(kFirst.bytes);
  const auto ram = GuestRam::CreateForeign().value();
  InterruptedCalls calls;
  EXPECT_EQ(ram->AdoptRegion(kFirst, memfd.get(), 0), absl::OkStatus());
  EXPECT_GT(calls.failures("madvise"), 0);
}

TEST(InterruptedRamTest, ReservedArray) {
  InterruptedCalls calls;
  ReservedArray array = ReservedArray::Create(kMiB).value();
  *static_cast<char*>(array.data()) = 1;
  array.Discard(0, kMiB);
  EXPECT_EQ(*static_cast<char*>(array.data()), 0);
  EXPECT_GT(calls.failures("madvise"), 1);
}

// The kernel's own interruptions: allocating huge pages is given up whenever a
// signal is pending. A removal must free all pages and reservations.
TEST(InterruptedRamTest, HugePagesGoBackToThePoolWhileSignalsArrive) {
  const auto pool = HugePagePool::Reserve(4);
  if (!pool.ok()) GTEST_SKIP() << "NOT tested: " << pool.status();
  const auto ram =
      GuestRam::Create({.regions = {kFirst}, .source = MemorySource::kHugetlb})
          .value();
  const uint64_t available = (*pool)->Available();
  const SignalStorm storm;
  for (int i = 0; i < 50 || storm.arrived() < 50; ++i) {
    ASSERT_EQ(ram->AddRegion(kSecond), absl::OkStatus());
    ASSERT_EQ(ram->RemoveRegion(kSecond), absl::OkStatus());
    ASSERT_EQ((*pool)->Available(), available);
  }
}

// The same with each call interrupted.
TEST(InterruptedRamTest, HugePages) {
  const auto pool = HugePagePool::Reserve(4);
  if (!pool.ok()) GTEST_SKIP() << "NOT tested: " << pool.status();
  InterruptedCalls calls;
  const auto ram =
      GuestRam::Create({.regions = {kFirst}, .source = MemorySource::kHugetlb});
  ASSERT_EQ(ram.status(), absl::OkStatus());
  const uint64_t available = (*pool)->Available();
  UseRam(**ram, 2 * kMiB);
  ASSERT_EQ((*ram)->RemoveRegion(kSecond), absl::OkStatus());
  EXPECT_EQ((*pool)->Available(), available);
}

}  // namespace
}  // namespace guestmm::interrupted_ram_test
