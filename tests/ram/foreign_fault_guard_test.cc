// Faults that a guest causes in this process: what it costs, and whom.

#include "guestmm/ram/foreign_fault_guard.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "guestmm/host/discard/discarding_hypervisor.h"
#include "guestmm/ram/guest_ram.h"
#include "tests/ram/hotplug_testing.h"
#include "tests/testing/huge_page_pool.h"
#include "tests/testing/memfd.h"
#include "tests/testing/smaps.h"

namespace guestmm::foreign_fault_guard_test {
namespace {

using hotplug_testing::ByteAt;
using hotplug_testing::Fill;

std::byte& At(const GuestRam& ram, uint64_t gpa) {
  return ram.Translate({Gpa(gpa), 1})->bytes()[0];
}

// A signal sent by a process is not a fault, whatever its other fields say.
TEST(ForeignFaultGuardDeathTest, ASigbusFromAnotherProcess) {
  const auto be_sent_one = [] {
    GuardAgainstForeignFaults();
    kill(getpid(), SIGBUS);
    std::_Exit(0);
  };
  EXPECT_DEATH(be_sent_one(), "");
}

// Two regions of foreign guest RAM. Their creator can make the first one's
// memfd shorter.
class TruncatedRam {
 public:
  static constexpr GpaRange kFirst = {Gpa(0), 6 * kMiB};
  static constexpr GpaRange kSecond = {Gpa(kGiB), 2 * kMiB};

  TruncatedRam() {
    GUESTMM_CHECK(ram_->AdoptRegion(kFirst, first_.get(), 0).ok());
    GUESTMM_CHECK(ram_->AdoptRegion(kSecond, second_.get(), 0).ok());
    Fill(*ram_, kFirst, 1);
    Fill(*ram_, kSecond, 2);
  }

  const GuestRam& ram() const { return *ram_; }
  GuestRam& ram() { return *ram_; }
  void Truncate(uint64_t bytes) {
    GUESTMM_CHECK(ftruncate(first_.get(), static_cast<off_t>(bytes)) == 0);
  }
  std::byte* hva(Gpa gpa) const {
    return ram_->Translate({gpa, 1})->bytes().data();
  }
  // The memfd's byte.
  int FileByte(uint64_t at) const {
    unsigned char byte = 0;
    return pread(first_.get(), &byte, 1, static_cast<off_t>(at)) == 1 ? byte
                                                                      : -1;
  }
  bool SecondIsUnharmed() const {
    const Translation memory = ram_->Translate(kSecond).value();
    return std::count(memory.bytes().begin(), memory.bytes().end(),
                      std::byte{2}) == static_cast<ptrdiff_t>(kSecond.bytes);
  }

 private:
  const UniqueFd first_ = MakeMemfd(kFirst.bytes, 0);
  const UniqueFd second_ = MakeMemfd(kSecond.bytes);
  const std::unique_ptr<GuestRam> ram_ =
      GuestRam::CreateForeign({.allow_unsealed = true}).value();
};

// Runs `check` with the guard in a process of its own, which must live, and
// expects true.
void ExpectGuarded(absl::FunctionRef<bool()> check) {
  const auto run = [&] {
    GuardAgainstForeignFaults();
    std::_Exit(check() ? 42 : 43);
  };
  EXPECT_EXIT(run(), testing::ExitedWithCode(42), "");
}

TEST(ForeignFaultGuardDeathTest, AFileThatGetsShorterWithoutTheGuard) {
  TruncatedRam made;
  made.Truncate(0);
  EXPECT_DEATH(Fill(made.ram(), {Gpa(0), 1}, 3), "");
}

TEST(ForeignFaultGuardDeathTest, AFileThatGetsShorterCostsItsRegion) {
  ExpectGuarded([] {
    TruncatedRam made;
    made.Truncate(2 * kMiB);
    const bool reads_zero = ByteAt(made.ram(), Gpa(2 * kMiB)) == 0;
    Fill(made.ram(), TruncatedRam::kFirst, 3);
    return reads_zero && ByteAt(made.ram(), Gpa(0)) == 3 &&
           made.FileByte(0) == 1 && made.SecondIsUnharmed();
  });
}

// What was not touched since costs nothing, and a discard of it does no harm.
// What was lost is no longer the creator's, so its discard fails.
TEST(ForeignFaultGuardDeathTest, DiscardsPastTheEndOfAFile) {
  ExpectGuarded([] {
    TruncatedRam made;
    DiscardingHypervisor hypervisor(made.ram());
    made.Truncate(2 * kMiB);
    const GpaRange gone = {Gpa(4 * kMiB), kMiB};
    const GpaRange there = {Gpa(kMiB), kMiB};
    const GpaRange other = {TruncatedRam::kSecond.gpa, kMiB};
    if (!hypervisor.Discard({{gone, there}}).ok()) return false;
    if (made.FileByte(kMiB - 1) != 1 || made.FileByte(kMiB) != 0) return false;
    if (!made.SecondIsUnharmed()) return false;
    if (ByteAt(made.ram(), gone.gpa) != 0) return false;
    const absl::Status status = hypervisor.Discard({{gone, other}});
    return status.code() == absl::StatusCode::kInternal &&
           hypervisor.counters().failures == 1 &&
           ByteAt(made.ram(), other.gpa) == 0 &&
           ByteAt(made.ram(), other.gpa + kMiB) == 2 &&
           made.ram().ResidentBytes().ok();
  });
}

// Each part that remains of a region is guarded, and only that.
TEST(ForeignFaultGuardDeathTest, BothPartsBesideAHole) {
  ExpectGuarded([] {
    TruncatedRam made;
    std::byte* const hole = made.hva(Gpa(2 * kMiB));
    if (!made.ram().RemoveRegion({Gpa(2 * kMiB), 2 * kMiB}).ok()) return false;
    // Memory of another kind at its address.
    void* const reused =
        mmap(hole, 2 * kMiB, PROT_READ | PROT_WRITE,
             MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
    if (reused != hole) return false;
    hole[0] = hole[2 * kMiB - 1] = std::byte{9};
    made.Truncate(2 * kMiB);
    if (ByteAt(made.ram(), Gpa(4 * kMiB)) != 0) return false;
    // The part before it is still the file.
    Fill(made.ram(), {Gpa(0), 1}, 5);
    if (made.FileByte(0) != 5) return false;
    made.Truncate(0);
    return ByteAt(made.ram(), Gpa(0)) == 0 && hole[0] == std::byte{9} &&
           hole[2 * kMiB - 1] == std::byte{9} && made.SecondIsUnharmed();
  });
}

// A core dump has no guest's memory, neither shared nor what came in its place.
TEST(ForeignFaultGuardDeathTest, StaysOutOfCoreDumps) {
  ExpectGuarded([] {
    TruncatedRam made;
    const auto left_out = [&](GpaRange range) {
      const Translation memory = made.ram().Translate(range).value();
      const std::vector<Smap> maps = SmapsOf(memory.bytes());
      return !maps.empty() &&
             std::all_of(maps.begin(), maps.end(), [](const Smap& map) {
               return map.flags.find(" dd") != std::string::npos;
             });
    };
    if (!left_out(TruncatedRam::kFirst) || !left_out(TruncatedRam::kSecond)) {
      return false;
    }
    made.Truncate(0);
    Fill(made.ram(), TruncatedRam::kFirst, 3);
    return left_out(TruncatedRam::kFirst);
  });
}

// A guest discards a huge page, and the pool is empty when it is read again:
// that ends the process, unless it is guarded.
TEST(ForeignFaultGuardDeathTest, AHugePageThatCannotBeHad) {
  const auto pool = HugePagePool::Reserve(2);
  if (!pool.ok()) GTEST_SKIP() << "NOT tested: " << pool.status();
  const auto read_where_none_is = [](bool guarded) {
    const auto maker = GuestRam::Create({.regions = {{Gpa(0), 4 * kMiB}},
                                         .source = MemorySource::kHugetlb})
                           .value();
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
TEST(ForeignFaultGuardDeathTest, AnyOtherSigbus) {
  const auto read_past_an_end = [] {
    GuardAgainstForeignFaults();
    const UniqueFd fd(memfd_create("empty", MFD_CLOEXEC));
    const void* const at =
        mmap(nullptr, kPageSize, PROT_READ, MAP_SHARED, fd.get(), 0);
    std::_Exit(*static_cast<const volatile char*>(at));
  };
  EXPECT_DEATH(read_past_an_end(), "");
}

}  // namespace
}  // namespace guestmm::foreign_fault_guard_test
