#include "src/experiment/replay/replay_host.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "guestmm/base/virtual_time.h"
#include "guestmm/trace/trace_event.h"

namespace guestmm::replay_host_test {
namespace {

using ::testing::HasSubstr;

constexpr uint64_t kFirst = 0x1000;
constexpr uint64_t kPages = 2048;  // 8 MiB

ReplayOptions Options(ReplayMode mode, const std::string& touch = "all") {
  ReplayOptions options;
  options.mode = mode;
  options.granule = Order(0);
  options.touch = ParseTouch(touch).value();
  return options;
}

// A host of two adjoining ranges, at the time 0 unless a clock is given.
std::unique_ptr<ReplayHost> Make(const ReplayOptions& options,
                                 const Clock* clock = nullptr) {
  static const VirtualTime kStart(1);
  return ReplayHost::Create({{Pfn(kFirst), Pfn(kFirst + 8)},
                             {Pfn(kFirst + 8), Pfn(kFirst + kPages)}},
                            options, clock != nullptr ? *clock : kStart)
      .value();
}

GpaRange Range(uint64_t pfn, Order order) {
  return {.gpa = ToGpa(Pfn(pfn)), .bytes = order.bytes()};
}

void Report(ReplayHost& host, GpaRange range) {
  host.OnReported(std::span(&range, 1));
}

class ReplayHostTest : public ::testing::TestWithParam<ReplayMode> {};

INSTANTIATE_TEST_SUITE_P(Both, ReplayHostTest,
                         ::testing::Values(ReplayMode::kVirtual,
                                           ReplayMode::kReal),
                         [](const auto& its) {
                           return std::string(Name(its.param));
                         });

TEST_P(ReplayHostTest, TouchedPagesAreResidentUntilReported) {
  const auto host = Make(Options(GetParam()));
  EXPECT_EQ(host->ResidentBytes(), 0u);
  host->OnInUseAtFirst(Pfn(kFirst), Order(4));  // across the two ranges
  EXPECT_EQ(host->ResidentBytes(), 16 * kPageSize);
  host->OnAllocated(Pfn(kFirst + 512), Order(9), 0);
  host->OnAllocated(Pfn(kFirst + 1024), Order(0), 0);
  EXPECT_EQ(host->ResidentBytes(), (16 + 512 + 1) * kPageSize);
  host->OnFreed(Pfn(kFirst + 512), Order(9));
  EXPECT_EQ(host->ResidentBytes(), (16 + 512 + 1) * kPageSize);
  EXPECT_TRUE(host->AnyResident(Pfn(kFirst + 512)));
  Report(*host, Range(kFirst + 512, Order(9)));
  EXPECT_EQ(host->ResidentBytes(), (16 + 1) * kPageSize);
  EXPECT_FALSE(host->AnyResident(Pfn(kFirst + 512)));
  EXPECT_TRUE(host->AnyResident(Pfn(kFirst + 1024)));
  host->CheckContents();
  EXPECT_EQ(host->status(), absl::OkStatus());
}

TEST_P(ReplayHostTest, OnlyAllocationsWithTheFlagsAreTouched) {
  const auto host =
      Make(Options(GetParam(), "GFP_HIGHUSER_MOVABLE,GFP_KERNEL|__GFP_ZERO"));
  const auto allocate = [&](uint64_t pfn, const std::string& gfp) {
    host->OnAllocated(Pfn(kFirst + pfn), Order(0), GfpFlags::Parse(gfp));
  };
  allocate(0, "GFP_KERNEL");
  allocate(1, "__GFP_ZERO");
  allocate(2, "GFP_USER");
  EXPECT_EQ(host->ResidentBytes(), 0u);
  allocate(3, "GFP_KERNEL|__GFP_ZERO|__GFP_COMP");
  allocate(4, "GFP_HIGHUSER_MOVABLE|__GFP_NOWARN");
  EXPECT_EQ(host->ResidentBytes(), 2 * kPageSize);
  // Regardless of flags.
  host->OnInUseAtFirst(Pfn(kFirst + 8), Order(3));
  EXPECT_EQ(host->ResidentBytes(), 10 * kPageSize);
  host->OnFreed(Pfn(kFirst), Order(2));
  host->CheckContents();
  EXPECT_EQ(host->status(), absl::OkStatus());
}

TEST(ReplayHostLossTest, AFreedPageThatLostItsContentsIsNamed) {
  const auto host = Make(Options(ReplayMode::kReal));
  host->OnAllocated(Pfn(kFirst), Order(3), 0);
  Report(*host, Range(kFirst + 5, Order(0)));
  EXPECT_EQ(host->status(), absl::OkStatus()) << "not checked yet";
  host->OnFreed(Pfn(kFirst), Order(3));
  EXPECT_EQ(host->status(),
            absl::DataLossError("pfn 0x1005 was in use, and lost its "
                                "contents"));
}

TEST(ReplayHostLossTest, APageInUseAtTheEndThatLostItsContentsIsNamed) {
  const auto host = Make(Options(ReplayMode::kReal));
  host->OnInUseAtFirst(Pfn(kFirst), Order(9));
  host->CheckContents();
  EXPECT_EQ(host->status(), absl::OkStatus());
  Report(*host, Range(kFirst + 256, Order(8)));
  host->CheckContents();
  EXPECT_THAT(host->status().ToString(), HasSubstr("pfn 0x1100 was in use"));
}

TEST(ReplayHostLossTest, AFailedDiscardIsAnError) {
  const auto host = Make(Options(ReplayMode::kReal));
  Report(*host, Range(kFirst - 1, Order(1)));
  EXPECT_EQ(host->status().code(), absl::StatusCode::kOutOfRange);
}

TEST(ReplayHostLossTest, MemoryThatCannotBeMappedIsAnError) {
  EXPECT_THAT(ReplayHost::Create({{Pfn(0), Pfn(16)}, {Pfn(8), Pfn(32)}},
                                 Options(ReplayMode::kReal), VirtualTime(1))
                  .status()
                  .ToString(),
              HasSubstr("region 0x8000 + 96.00 KiB"));
}

TEST(ParseTouchTest, NamesOrAll) {
  EXPECT_EQ(ParseTouch("all").value(), std::vector<uint32_t>());
  EXPECT_EQ(FormatTouch({}), "all");
  for (const std::string text :
       {"__GFP_ZERO", "GFP_HIGHUSER_MOVABLE,GFP_KERNEL|__GFP_ZERO"}) {
    EXPECT_EQ(FormatTouch(ParseTouch(text).value()), text);
  }
  EXPECT_EQ(FormatTouch(ParseTouch("0x100").value()), "__GFP_ZERO");
  for (const std::string text :
       {"", "none", "ALL", "GFP_KERNEL,", "GFP_KERNEL||__GFP_ZERO", "0x12g",
        "__GFP_UNKNOWN", "GFP_KERNEL __GFP_ZERO"}) {
    EXPECT_THAT(ParseTouch(text).status().ToString(),
                HasSubstr(text + ": must be all, or gfp flags as in "));
  }
}

// A guest of 1 TiB has more than 2^64 pages times microseconds in a day.
TEST(ReplayHostFootprintTest, DoesNotOverflow) {
  VirtualTime time(1);
  const auto host = Make(Options(ReplayMode::kVirtual), &time);
  host->OnInUseAtFirst(Pfn(kFirst), Order(10));
  host->OnInUseAtFirst(Pfn(kFirst + 1024), Order(10));
  time.Advance(Nanoseconds::max());
  const ReplayResult::Footprint footprint = host->FootprintUntilNow();
  EXPECT_DOUBLE_EQ(footprint.resident, 2048.0 * 9223372036854775.0);
  EXPECT_DOUBLE_EQ(footprint.in_use, footprint.resident);
}

}  // namespace
}  // namespace guestmm::replay_host_test
