// Discards of a private file, by mapping new memory in its place.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <fstream>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "guestmm/host/discard/discarding_hypervisor.h"
#include "tests/testing/ram_file.h"
#include "tests/testing/smaps.h"

#ifdef __x86_64__
#include <sys/syscall.h>

#include <cerrno>
#include <csignal>
#include <thread>

#include "tests/testing/system_call_trap.h"
#endif

namespace guestmm::discard_remap_test {
namespace {

using ::testing::Each;
using ::testing::Field;
using ::testing::HasSubstr;

constexpr std::byte kInFile{0x5a};
constexpr std::byte kWritten{0xa5};
constexpr std::byte kZero{0};

// A private file filled with nonzero bytes.
class RemapTest : public testing::Test {
 protected:
  void Make(uint64_t pages, HugePages huge_pages,
            std::optional<uint64_t> max_mappings = {}) {
    file_ = std::make_unique<RamFile>(pages * page_, kInFile);
    ram_ = GuestRam::Create({.regions = {{Gpa(0), pages * page_}},
                             .huge_pages = huge_pages,
                             .source = MemorySource::kPrivateFile,
                             .file = file_->path()})
               .value();
    hypervisor_ =
        DiscardingHypervisor::Create(*ram_, {.max_mappings = max_mappings})
            .value();
  }
  void Fill(uint64_t page, uint64_t count) const {
    const Translation memory =
        ram_->Translate({Gpa(page * page_), count * page_}).value();
    std::fill(memory.bytes().begin(), memory.bytes().end(), kWritten);
  }
  absl::Status Discard(uint64_t page, uint64_t count = 1) {
    return hypervisor_->Discard({{{Gpa(page * page_), count * page_}}});
  }
  std::byte At(uint64_t page) const {
    return ram_->Translate({Gpa(page * page_), 1})->bytes().front();
  }
  std::vector<Smap> Maps() const {
    return SmapsOf(ram_->Translate({Gpa(0), ram_->bytes()})->bytes());
  }

  const uint64_t page_ = HostPageSize();
  std::unique_ptr<RamFile> file_;
  std::unique_ptr<GuestRam> ram_;
  std::unique_ptr<DiscardingHypervisor> hypervisor_;
};

TEST_F(RemapTest, TheBytesOfTheFileDoNotReturn) {
  Make(16, HugePages::kForbid);
  ASSERT_EQ(At(4), kInFile);
  ASSERT_EQ(Discard(4, 2), absl::OkStatus());
  EXPECT_EQ(At(3), kInFile);
  EXPECT_EQ(At(4), kZero);
  EXPECT_EQ(At(5), kZero);
  EXPECT_EQ(At(6), kInFile);
  EXPECT_EQ(file_->Read(4 * page_), kInFile);
}

TEST_F(RemapTest, KeepsTheAdviceOnHugePages) {
  for (const auto& [advice, flag] :
       {std::pair(HugePages::kAdvise, "hg"), {HugePages::kForbid, "nh"}}) {
    Make(16, advice);
    ASSERT_EQ(Discard(4, 2), absl::OkStatus());
    EXPECT_EQ(Maps().size(), 3u);
    EXPECT_THAT(Maps(), Each(Field(&Smap::flags, HasSubstr(flag))));
  }
}

TEST_F(RemapTest, WithoutAdviceIsOneCall) {
  Make(16, HugePages::kHostDefault);
  ASSERT_EQ(Discard(4, 2), absl::OkStatus());
  EXPECT_EQ(hypervisor_->counters().calls, 1u);
}

TEST_F(RemapTest, RemappedMemoryIsAdvised) {
  Make(16, HugePages::kForbid);
  ASSERT_EQ(Discard(4, 3), absl::OkStatus());
  ASSERT_EQ(Discard(7, 3), absl::OkStatus());
  ASSERT_EQ(hypervisor_->counters().calls, 4u);
  Fill(0, 16);
  const size_t maps = Maps().size();
  ASSERT_EQ(Discard(5, 4), absl::OkStatus());
  EXPECT_EQ(hypervisor_->counters().calls, 5u);
  EXPECT_EQ(Maps().size(), maps);
  EXPECT_EQ(ram_->ResidentBytes().value(), 12 * page_);
  // Only a part of it is remapped.
  ASSERT_EQ(Discard(8, 4), absl::OkStatus());
  EXPECT_EQ(At(8), kZero);
  EXPECT_EQ(At(11), kZero);
}

TEST_F(RemapTest, NeighboursBecomeOneMapping) {
  Make(16, HugePages::kForbid);
  for (const uint64_t page : {9, 4, 6, 5, 8, 7}) {
    ASSERT_EQ(Discard(page), absl::OkStatus());
  }
  // One of the file, one remapped, one of the file.
  EXPECT_EQ(Maps().size(), 3u);
  ASSERT_EQ(Discard(0, 16), absl::OkStatus());
  EXPECT_EQ(Maps().size(), 1u);
}

TEST_F(RemapTest, MappingsAreLimited) {
  Make(32, HugePages::kForbid, /*max_mappings=*/6);
  for (const uint64_t page : {1, 3, 5}) {
    ASSERT_EQ(Discard(page), absl::OkStatus());
    Fill(page, 1);
  }
  EXPECT_EQ(Maps().size(), 7u);
  const absl::Status status = hypervisor_->Discard(
      {{{Gpa(7 * page_), page_}, {Gpa(3 * page_), page_}}});
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(status.message()),
              HasSubstr(": needs more mappings than max_mappings allows"));
  EXPECT_EQ(At(7), kInFile);
  EXPECT_EQ(At(3), kZero);
  // Discards that need no further mapping succeed.
  EXPECT_EQ(Discard(2), absl::OkStatus());
  EXPECT_EQ(Discard(0, 4), absl::OkStatus());
  EXPECT_EQ(Discard(7), absl::OkStatus());
  EXPECT_LE(Maps().size(), 7u);
}

// Whatever a guest reports, the process has mappings left.
TEST_F(RemapTest, AGuestCannotUseUpTheMappings) {
  uint64_t limit = 0;
  std::ifstream("/proc/sys/vm/max_map_count") >> limit;
  if (limit > 100'000) {
    GTEST_SKIP() << "NOT tested: vm.max_map_count is " << limit;
  }
  Make(limit, HugePages::kForbid);
  uint64_t refused = 0;
  for (uint64_t page = 1; page < limit; page += 2) {
    refused += Discard(page).ok() ? 0 : 1;
  }
  EXPECT_EQ(hypervisor_->counters().failures, 0u);
  EXPECT_NEAR(static_cast<double>(refused), static_cast<double>(limit) / 4, 2);
  EXPECT_LE(Maps().size(), limit / 2 + 1);
  EXPECT_EQ(Discard(0, limit), absl::OkStatus());
  EXPECT_EQ(Maps().size(), 1u);
}

// Sanitizers map memory themselves, with all signals blocked.
#if defined(__x86_64__) && !defined(GUESTMM_SANITIZED)

// The first attempt fails, as it does without memory for another mapping. What
// was not remapped then must be remapped by the next one: madvise would bring
// the file's bytes back.
TEST_F(RemapTest, WhatCouldNotBeRemappedIsNotTakenForRemapped) {
  Make(16, HugePages::kForbid);
  Fill(4, 1);
  struct sigaction old;
  sigaction(SIGSYS, nullptr, &old);
  bool is_trapped = false;
  absl::Status status;
  std::thread([&] {
    // From now on the thread has memory for the status.
    const std::string warm_up(100, 'x');
    is_trapped = SystemCallTrap::Install(
        {SYS_mmap}, [](const SystemCallTrap::Call&) -> std::optional<long> {
          return -ENOMEM;
        });
    if (is_trapped) status = Discard(4);
  }).join();
  sigaction(SIGSYS, &old, nullptr);
  if (!is_trapped) GTEST_SKIP() << "no seccomp filter";
  EXPECT_EQ(status.code(), absl::StatusCode::kInternal);
  EXPECT_THAT(std::string(status.message()), HasSubstr("mmap(MAP_FIXED) of"));
  EXPECT_EQ(hypervisor_->counters().failures, 1u);
  EXPECT_EQ(At(4), kWritten);
  ASSERT_EQ(Discard(4), absl::OkStatus());
  EXPECT_EQ(At(4), kZero);
}

#endif

}  // namespace
}  // namespace guestmm::discard_remap_test
