// All regions of foreign guest RAM are replaced at once, or none is.

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/memfd.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "guestmm/ram/guest_ram.h"
#include "tests/ram/hotplug_testing.h"
#include "tests/testing/huge_page_pool.h"
#include "tests/testing/memfd.h"

namespace guestmm::replace_regions_test {
namespace {

using hotplug_testing::ByteAt;
using hotplug_testing::Fill;
using hotplug_testing::Message;
using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::Pair;

class RecordingObserver final : public RegionObserver {
 public:
  void OnRegionAdded(GpaRange range) override {
    changes.emplace_back('+', range);
  }
  void OnRegionRemoved(GpaRange range) override {
    changes.emplace_back('-', range);
  }

  std::vector<std::pair<char, GpaRange>> changes;
};

// Two regions of one memfd, filled with 1 and 2.
class ReplaceRegionsTest : public testing::Test {
 protected:
  static constexpr GpaRange kLow = {Gpa(0), 4 * kMiB};
  static constexpr GpaRange kHigh = {Gpa(kGiB), 2 * kMiB};

  ReplaceRegionsTest() {
    GUESTMM_CHECK(ram_->AdoptRegion(kLow, old_.get(), 0).ok());
    GUESTMM_CHECK(ram_->AdoptRegion(kHigh, old_.get(), kLow.bytes).ok());
    Fill(*ram_, kLow, 1);
    Fill(*ram_, kHigh, 2);
    low_at_ = HvaOf(kLow);
    ram_->SetObserver(&observer_);
  }

  const std::byte* HvaOf(GpaRange range) const {
    return ram_->Translate(range)->bytes().data();
  }
  // Replacing by `regions` fails, and all is as before.
  absl::Status Refused(const std::vector<ForeignRegion>& regions) {
    const absl::Status status = ram_->ReplaceRegions(regions);
    EXPECT_FALSE(status.ok());
    EXPECT_THAT(ram_->regions(), ElementsAre(kLow, kHigh));
    EXPECT_EQ(HvaOf(kLow), low_at_);
    EXPECT_EQ(ByteAt(*ram_, kLow.gpa), 1);
    EXPECT_EQ(ByteAt(*ram_, kHigh.gpa), 2);
    EXPECT_EQ(ram_->source(), MemorySource::kSharedMemfd);
    EXPECT_THAT(observer_.changes, IsEmpty());
    return status;
  }

  const UniqueFd old_ = MakeMemfd(6 * kMiB);
  const UniqueFd new_ = MakeMemfd(6 * kMiB);
  const std::unique_ptr<GuestRam> ram_ = GuestRam::CreateForeign().value();
  RecordingObserver observer_;
  const std::byte* low_at_ = nullptr;
};

TEST_F(ReplaceRegionsTest, TheNewOnesComeForTheOldOnes) {
  // In any order; one overlaps an old one, one has its contents.
  const GpaRange far = {Gpa(2 * kGiB), 2 * kMiB};
  const GpaRange low = {Gpa(2 * kMiB), 6 * kMiB};
  ASSERT_EQ(ram_->ReplaceRegions(
                {{{far, old_.get(), 4 * kMiB}, {low, new_.get(), 0}}}),
            absl::OkStatus());
  EXPECT_THAT(ram_->regions(), ElementsAre(low, far));
  EXPECT_EQ(ram_->bytes(), 8 * kMiB);
  EXPECT_EQ(ByteAt(*ram_, kLow.gpa), -1);
  EXPECT_EQ(ByteAt(*ram_, low.gpa), 0);
  EXPECT_EQ(ByteAt(*ram_, kHigh.gpa), -1);
  EXPECT_EQ(ByteAt(*ram_, far.gpa), 2);
  EXPECT_THAT(observer_.changes, ElementsAre(Pair('-', kLow), Pair('-', kHigh),
                                             Pair('+', low), Pair('+', far)));
}

TEST_F(ReplaceRegionsTest, TheSameAgainAndOneMore) {
  const GpaRange more = {Gpa(2 * kGiB), 2 * kMiB};
  ASSERT_EQ(ram_->ReplaceRegions({{{kLow, old_.get(), 0},
                                   {kHigh, old_.get(), 4 * kMiB},
                                   {more, new_.get(), 0}}}),
            absl::OkStatus());
  EXPECT_THAT(ram_->regions(), ElementsAre(kLow, kHigh, more));
  EXPECT_EQ(ByteAt(*ram_, kLow.gpa), 1);
  EXPECT_EQ(ByteAt(*ram_, kHigh.gpa), 2);
}

TEST_F(ReplaceRegionsTest, NoneRemovesAll) {
  ASSERT_EQ(ram_->ReplaceRegions({}), absl::OkStatus());
  EXPECT_THAT(ram_->regions(), IsEmpty());
  EXPECT_EQ(ByteAt(*ram_, kLow.gpa), -1);
  EXPECT_THAT(observer_.changes,
              ElementsAre(Pair('-', kLow), Pair('-', kHigh)));
  EXPECT_EQ(ram_->ReplaceRegions({}), absl::OkStatus());
}

TEST_F(ReplaceRegionsTest, IntoEmptyRam) {
  const auto ram = GuestRam::CreateForeign().value();
  ASSERT_EQ(ram->ReplaceRegions({{{kLow, old_.get(), 0}}}), absl::OkStatus());
  EXPECT_EQ(ByteAt(*ram, kLow.gpa), 1);
}

TEST_F(ReplaceRegionsTest, TheOldMappingsAreGone) {
  ASSERT_EQ(ram_->ReplaceRegions({{{kLow, new_.get(), 0}}}), absl::OkStatus());
  unsigned char in_core = 0;
  EXPECT_NE(mincore(const_cast<std::byte*>(low_at_), HostPageSize(), &in_core),
            0);
  EXPECT_EQ(errno, ENOMEM);
}

TEST_F(ReplaceRegionsTest, ATranslationIntoAnOldOneRefusesIt) {
  std::optional<Translation> pin = ram_->Translate({kHigh.gpa, 1});
  const absl::Status status = Refused({{kLow, new_.get(), 0}});
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(Message(status),
            "replacing all regions: translations that point into them: 1");
  pin.reset();
  EXPECT_EQ(ram_->ReplaceRegions({{{kLow, new_.get(), 0}}}), absl::OkStatus());
}

TEST_F(ReplaceRegionsTest, TheyMustNotOverlap) {
  const absl::Status status = Refused(
      {{kLow, new_.get(), 0}, {{Gpa(2 * kMiB), 4 * kMiB}, new_.get(), 0}});
  EXPECT_EQ(status.code(), absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(Message(status),
            "region 0x200000 + 4.00 MiB: overlaps region 0x0 + 4.00 MiB");
}

TEST_F(ReplaceRegionsTest, EachMustBeARegion) {
  const ForeignRegion good = {kLow, new_.get(), 0};
  const UniqueFd unsealed = MakeMemfd(6 * kMiB, 0);
  const UniqueFd small = MakeMemfd(kMiB);
  for (const ForeignRegion& bad : std::initializer_list<ForeignRegion>{
           {{Gpa(kGiB), 0}, new_.get(), 0},
           {{Gpa(kGiB + 1), kMiB}, new_.get(), 0},
           {{Gpa(kGiB), kMiB}, new_.get(), 1},
           {{Gpa(kGiB), kMiB}, new_.get(), 6 * kMiB},
           {{Gpa(kGiB), kMiB}, unsealed.get(), 0},
           {{Gpa(kGiB), 2 * kMiB}, small.get(), 0},
           {{Gpa(kGiB), kMiB}, -1, 0}}) {
    SCOPED_TRACE(bad.range);
    EXPECT_EQ(Refused({good, bad}).code(), absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(Refused({bad, good}).code(), absl::StatusCode::kInvalidArgument);
  }
}

// A file may be larger than the address space.
TEST_F(ReplaceRegionsTest, AMappingThatFailsHalfWay) {
  constexpr uint64_t kHuge = uint64_t{1} << 62;
  const UniqueFd huge = MakeMemfd(kHuge);
  const absl::Status status =
      Refused({{kLow, new_.get(), 0}, {{Gpa(kGiB), kHuge}, huge.get(), 0}});
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
}

TEST_F(ReplaceRegionsTest, AnotherKindOfPages) {
  const auto pool = HugePagePool::Reserve(2);
  if (!pool.ok()) GTEST_SKIP() << "NOT tested: " << pool.status();
  const UniqueFd huge =
      MakeMemfd(4 * kMiB, F_SEAL_SHRINK, MFD_HUGETLB | MFD_HUGE_2MB);
  EXPECT_EQ(Message(Refused({{kLow, new_.get(), 0}, {kHigh, huge.get(), 0}})),
            "region 0x40000000 + 2.00 MiB: is of source hugetlb memfd, other "
            "regions are of source shared memfd");
  ASSERT_EQ(ram_->ReplaceRegions({{{kLow, huge.get(), 0}}}), absl::OkStatus());
  EXPECT_EQ(ram_->source(), MemorySource::kHugetlb);
  EXPECT_EQ(ram_->discard_granule(), 2 * kMiB);
  EXPECT_EQ(ByteAt(*ram_, kLow.gpa), 0);
  ASSERT_EQ(ram_->ReplaceRegions({{{kLow, old_.get(), 0}}}), absl::OkStatus());
  EXPECT_EQ(ram_->source(), MemorySource::kSharedMemfd);
  EXPECT_EQ(ByteAt(*ram_, kLow.gpa), 1);
}

// What is in both tables is found at every moment.
TEST_F(ReplaceRegionsTest, OtherThreadsSeeOneOrTheOther) {
  ram_->SetObserver(nullptr);
  std::atomic<bool> over{false};
  std::thread reader([&] {
    while (!over.load()) EXPECT_EQ(ByteAt(*ram_, kHigh.gpa), 2);
  });
  for (int done = 0; done < 200;) {
    const uint64_t low = static_cast<uint64_t>(done % 2 + 1) * kMiB;
    const absl::Status status = ram_->ReplaceRegions(
        {{{{Gpa(0), low}, old_.get(), 0}, {kHigh, old_.get(), 4 * kMiB}}});
    // The reader's translation may be in the way.
    if (status.code() == absl::StatusCode::kFailedPrecondition) continue;
    ASSERT_EQ(status, absl::OkStatus());
    ++done;
  }
  over = true;
  reader.join();
}

TEST(ReplaceRegionsDeathTest, RamOfOurOwnIsNotReplaced) {
  const auto ram = hotplug_testing::MakeRam({{Gpa(0), kMiB}});
  EXPECT_DEATH(ram->ReplaceRegions({}).IgnoreError(),
               "foreign regions for guest RAM of its own");
}

}  // namespace
}  // namespace guestmm::replace_regions_test
