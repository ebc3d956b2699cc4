#include "guestmm/machine/vcpu.h"

#include <gtest/gtest.h>

#include <cstddef>

#include "guestmm/machine/real/guest.h"

namespace guestmm::vcpu_test {
namespace {

class VcpuTest : public testing::Test {
 protected:
  std::unique_ptr<Guest> guest_ =
      Guest::Create({.memory = MemoryMap::Pc(16 * kMiB)}).value();
  Vcpu& vcpu_ = guest_->vcpu(0);
};

TEST_F(VcpuTest, WhatWasTouchedIsFound) {
  const Pfn pfn = vcpu_.Allocate(Order(3)).value();
  vcpu_.Touch(pfn, Order(3), /*stamp=*/7);
  EXPECT_EQ(vcpu_.FindCorrupted(pfn, Order(3), 7), std::nullopt);
  vcpu_.Free(pfn, Order(3));
}

TEST_F(VcpuTest, AnotherStampIsCorruption) {
  const Pfn pfn = vcpu_.Allocate(Order(1)).value();
  vcpu_.Touch(pfn, Order(1), /*stamp=*/7);
  EXPECT_EQ(vcpu_.FindCorrupted(pfn, Order(1), 8), pfn);
  vcpu_.Free(pfn, Order(1));
}

// Each page's first and last bytes are written, so losing either shows.
TEST_F(VcpuTest, ALostPageIsNamed) {
  const Pfn pfn = vcpu_.Allocate(Order(2)).value();
  for (const uint64_t lost_at : {2 * kPageSize, 3 * kPageSize - 8}) {
    vcpu_.Touch(pfn, Order(2), /*stamp=*/7);
    guest_->ram()
        .Translate({.gpa = ToGpa(pfn), .bytes = Order(2).bytes()})
        ->bytes()[lost_at] = std::byte{0};
    guest_->ram()
        .Translate({.gpa = ToGpa(pfn), .bytes = Order(2).bytes()})
        ->bytes()[lost_at + 1] = std::byte{0};
    EXPECT_EQ(vcpu_.FindCorrupted(pfn, Order(2), 7), pfn + PageCount(2));
  }
  vcpu_.Free(pfn, Order(2));
}

}  // namespace
}  // namespace guestmm::vcpu_test
