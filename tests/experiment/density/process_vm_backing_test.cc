// Guest RAM through system calls is what stores and loads would make it.

#include "src/experiment/density/process_vm_backing.h"

#include <gtest/gtest.h>
#include <sys/mman.h>

#include <cstddef>
#include <memory>
#include <optional>

#include "guestmm/base/units.h"
#include "guestmm/ram/guest_ram.h"

namespace guestmm::process_vm_backing_test {
namespace {

constexpr uint64_t kStamp = 7;

class ProcessVmBackingTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!ProcessVmBacking::Permitted()) {
      GTEST_SKIP()
          << "NOT tested: process_vm_readv and process_vm_writev are refused";
    }
  }

  uint64_t resident_bytes() const { return *ram_->ResidentBytes(); }

  std::optional<Pfn> FindCorrupted(Pfn pfn, Order order) const {
    return backing_.FindCorrupted(0, pfn, order, kStamp);
  }

  std::byte& FirstByte(Pfn pfn) const {
    return ram_->Translate({ToGpa(pfn), kPageSize})->bytes().front();
  }

  const std::unique_ptr<GuestRam> ram_ = *GuestRam::Create(
      {.regions = {{Gpa(0), 8 * kMiB}}, .huge_pages = HugePages::kForbid});
  ProcessVmBacking backing_{*ram_};
};

TEST_F(ProcessVmBackingTest, ATouchMakesTheBlockResidentAndNoMore) {
  EXPECT_EQ(resident_bytes(), 0u);
  backing_.Touch(0, Pfn(3), Order(0), kStamp);
  EXPECT_EQ(resident_bytes(), kPageSize);
  backing_.Touch(0, Pfn(1024), kMaxOrder, kStamp);
  EXPECT_EQ(resident_bytes(), kPageSize + kMaxOrder.bytes());
  EXPECT_EQ(FindCorrupted(Pfn(3), Order(0)), std::nullopt);
  EXPECT_EQ(FindCorrupted(Pfn(1024), kMaxOrder), std::nullopt);
}

TEST_F(ProcessVmBackingTest, ADiscardedPageIsFound) {
  backing_.Touch(0, Pfn(0), Order(4), kStamp);
  ASSERT_EQ(madvise(&FirstByte(Pfn(6)), 2 * kPageSize, MADV_DONTNEED), 0);
  EXPECT_EQ(FindCorrupted(Pfn(0), Order(4)), Pfn(6));
}

TEST_F(ProcessVmBackingTest, FindsTheFirstPageThatIsNotAsTouched) {
  backing_.Touch(0, Pfn(0), kMaxOrder, kStamp);
  EXPECT_EQ(backing_.FindCorrupted(0, Pfn(0), kMaxOrder, kStamp + 2), Pfn(0));
  FirstByte(Pfn(1023)) ^= std::byte{0x80};
  EXPECT_EQ(FindCorrupted(Pfn(0), kMaxOrder), Pfn(1023));
  FirstByte(Pfn(5)) = std::byte{0};
  EXPECT_EQ(FindCorrupted(Pfn(0), kMaxOrder), Pfn(5));
}

TEST_F(ProcessVmBackingTest, IsTheFastBackingWherePermitted) {
  const std::unique_ptr<Backing> fast = MakeFastBacking(*ram_);
  EXPECT_NE(dynamic_cast<ProcessVmBacking*>(fast.get()), nullptr);
}

}  // namespace
}  // namespace guestmm::process_vm_backing_test
