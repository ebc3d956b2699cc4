// Regions that are adjacent for the guest and not for the host, as memory that
// was added later is.

#include <gtest/gtest.h>
#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "guestmm/host/discard/discarding_hypervisor.h"
#include "tests/testing/memfd.h"

namespace guestmm::discard_regions_test {
namespace {

enum class Ram { kOwnAnonymous, kOwnMemfd, kForeign };

struct Way {
  Ram ram;
  RangesPerCall ranges_per_call;
};

std::string WayName(const testing::TestParamInfo<Way>& way) {
  const std::string name = way.param.ram == Ram::kForeign    ? "foreign"
                           : way.param.ram == Ram::kOwnMemfd ? "memfd"
                                                             : "anonymous";
  return name +
         (way.param.ranges_per_call == RangesPerCall::kMany ? "_many" : "_one");
}

// Two regions, filled with 7.
class DiscardRegionsTest : public testing::TestWithParam<Way> {
 protected:
  static constexpr uint64_t kBytes = 2 * kMiB;
  static constexpr GpaRange kLow = {Gpa(4 * kMiB), kBytes};
  static constexpr GpaRange kHigh = {Gpa(4 * kMiB + kBytes), kBytes};

  void SetUp() override {
    const DiscardMethod method = GetParam().ram == Ram::kOwnAnonymous
                                     ? DiscardMethod::kDontNeed
                                     : DiscardMethod::kRemove;
    if (GetParam().ram == Ram::kForeign) {
      ram_ = GuestRam::CreateForeign().value();
      ASSERT_EQ(ram_->AdoptRegion(kLow, low_file_.get(), 0), absl::OkStatus());
    } else {
      ram_ = GuestRam::Create({.regions = {kLow},
                               .huge_pages = HugePages::kForbid,
                               .source = GetParam().ram == Ram::kOwnMemfd
                                             ? MemorySource::kSharedMemfd
                                             : MemorySource::kAnonymous})
                 .value();
    }
    // Takes the addresses behind the lower region, in case they are free.
    const std::byte* const low_end = Bytes(kLow).data() + kBytes;
    void* const wanted = const_cast<std::byte*>(low_end);
    void* const got =
        mmap(wanted, HostPageSize(), PROT_READ | PROT_WRITE,
             MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
    if (got == wanted) behind_ = static_cast<std::byte*>(got);
    if (behind_ != nullptr) *behind_ = std::byte{9};
    ASSERT_EQ(GetParam().ram == Ram::kForeign
                  ? ram_->AdoptRegion(kHigh, high_file_.get(), 0)
                  : ram_->AddRegion(kHigh),
              absl::OkStatus());
    ASSERT_NE(Bytes(kHigh).data(), low_end);
    for (const GpaRange& range : {kLow, kHigh}) {
      std::fill(Bytes(range).begin(), Bytes(range).end(), std::byte{7});
    }
    hypervisor_ = DiscardingHypervisor::Create(
                      *ram_, {.method = method,
                              .ranges_per_call = GetParam().ranges_per_call})
                      .value();
  }
  void TearDown() override {
    if (behind_ != nullptr) munmap(behind_, HostPageSize());
  }

  std::span<std::byte> Bytes(GpaRange range) const {
    return ram_->Translate(range)->bytes();
  }
  bool All(GpaRange range, int value) const {
    return std::all_of(
        Bytes(range).begin(), Bytes(range).end(),
        [=](std::byte b) { return b == static_cast<std::byte>(value); });
  }

  const UniqueFd low_file_ = MakeMemfd(kBytes);
  const UniqueFd high_file_ = MakeMemfd(kBytes);
  std::unique_ptr<GuestRam> ram_;
  std::unique_ptr<DiscardingHypervisor> hypervisor_;
  // A page behind the lower region; null if there is another mapping.
  std::byte* behind_ = nullptr;
};

INSTANTIATE_TEST_SUITE_P(
    All, DiscardRegionsTest,
    testing::Values(Way{Ram::kOwnAnonymous, RangesPerCall::kOne},
                    Way{Ram::kOwnAnonymous, RangesPerCall::kMany},
                    Way{Ram::kOwnMemfd, RangesPerCall::kOne},
                    Way{Ram::kOwnMemfd, RangesPerCall::kMany},
                    Way{Ram::kForeign, RangesPerCall::kOne},
                    Way{Ram::kForeign, RangesPerCall::kMany}),
    WayName);

TEST_P(DiscardRegionsTest, ABatchAcrossTheirBorder) {
  constexpr uint64_t kPart = 64 * kKiB;
  const std::array ranges = {GpaRange{kHigh.gpa, kPart},
                             GpaRange{kLow.gpa + (kBytes - kPart), kPart}};
  EXPECT_EQ(hypervisor_->Discard(ranges), absl::OkStatus());
  EXPECT_TRUE(All({kLow.gpa, kBytes - kPart}, 7));
  EXPECT_TRUE(All(ranges[1], 0));
  EXPECT_TRUE(All(ranges[0], 0));
  EXPECT_TRUE(All({kHigh.gpa + kPart, kBytes - kPart}, 7));
  if (behind_ != nullptr) {
    EXPECT_EQ(*behind_, std::byte{9});
  }
  EXPECT_EQ(hypervisor_->counters().bytes, 2 * kPart);
  EXPECT_EQ(hypervisor_->counters().failures, 0u);
  // One range over both is in no region.
  EXPECT_EQ(hypervisor_->Discard({{GpaRange{kLow.gpa, 2 * kBytes}}}).code(),
            absl::StatusCode::kOutOfRange);
}

}  // namespace
}  // namespace guestmm::discard_regions_test
