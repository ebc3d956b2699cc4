#include "guestmm/trace/trace_event.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <sstream>

namespace guestmm::trace_event_test {
namespace {

TEST(GfpFlagsTest, NoFlagIsNone) {
  EXPECT_EQ(GfpFlags::Parse("none"), 0u);
  EXPECT_EQ(GfpFlags::Parse(""), 0u);
  EXPECT_EQ(GfpFlags::Format(0), "none");
}

TEST(GfpFlagsTest, ANameForSeveralFlagsSetsEachOfThem) {
  EXPECT_EQ(GfpFlags::Parse("GFP_KERNEL"),
            GfpFlags::Parse("__GFP_DIRECT_RECLAIM|__GFP_KSWAPD_RECLAIM|"
                            "__GFP_IO|__GFP_FS"));
  const uint32_t movable = GfpFlags::Parse("GFP_HIGHUSER_MOVABLE|__GFP_ZERO");
  EXPECT_TRUE((movable & GfpFlags::kMovable) != 0);
  EXPECT_TRUE((movable & GfpFlags::kHighmem) != 0);
  EXPECT_TRUE((movable & GfpFlags::kZero) != 0);
  EXPECT_TRUE((movable & GfpFlags::kReclaimable) == 0);
  EXPECT_TRUE((movable & GfpFlags::kUnknown) == 0);
}

TEST(GfpFlagsTest, FormatsAsTheKernelDoes) {
  for (const char* const text :
       {"GFP_KERNEL_ACCOUNT|__GFP_ZERO",
        "GFP_HIGHUSER_MOVABLE|__GFP_COMP|__GFP_ZERO",
        "GFP_NOFS|__GFP_NOFAIL|__GFP_COMP|__GFP_HARDWALL|__GFP_MOVABLE",
        "GFP_KERNEL|GFP_DMA32", "GFP_TRANSHUGE", "GFP_TRANSHUGE_LIGHT",
        "GFP_ATOMIC|__GFP_NOWARN", "GFP_NOWAIT", "GFP_NOFS|__GFP_HARDWALL",
        "GFP_USER", "__GFP_RECLAIMABLE"}) {
    EXPECT_EQ(GfpFlags::Format(GfpFlags::Parse(text)), text);
  }
}

TEST(GfpFlagsTest, EveryBitHasAName) {
  for (int bit = 0; bit < 32; ++bit) {
    const uint32_t flag = uint32_t{1} << bit;
    EXPECT_EQ(GfpFlags::Parse(GfpFlags::Format(flag)), flag) << bit;
  }
  EXPECT_EQ(GfpFlags::Parse(GfpFlags::Format(~uint32_t{0})), ~uint32_t{0});
}

TEST(GfpFlagsTest, KnowsTheNamesOfOlderKernels) {
  EXPECT_EQ(GfpFlags::Parse("GFP_WAIT"), GfpFlags::Parse("__GFP_RECLAIM"));
  EXPECT_EQ(GfpFlags::Parse("GFP_ZERO"), GfpFlags::kZero);
  EXPECT_EQ(GfpFlags::Parse("__GFP_REPEAT"),
            GfpFlags::Parse("__GFP_RETRY_MAYFAIL"));
}

TEST(GfpFlagsTest, OtherNamesAreUnknown) {
  EXPECT_EQ(GfpFlags::Parse("GFP_NEW"), GfpFlags::kUnknown);
  EXPECT_EQ(GfpFlags::Parse("0x12g"), GfpFlags::kUnknown);
}

// include/linux/gfp_types.h of 6.12.
TEST(GfpFlagsTest, KnowsTheKernelsNumbers) {
  EXPECT_EQ(GfpFlags::Parse("0x140dca"),
            GfpFlags::Parse("GFP_HIGHUSER_MOVABLE|__GFP_COMP|__GFP_ZERO"));
  EXPECT_EQ(GfpFlags::Parse("0xcc0"), GfpFlags::Parse("GFP_KERNEL"));
  EXPECT_EQ(GfpFlags::Parse("0x10"), GfpFlags::kReclaimable);
  EXPECT_EQ(GfpFlags::Parse("0x800000"), GfpFlags::Parse("__GFP_ZEROTAGS"));
  EXPECT_EQ(GfpFlags::Parse("__GFP_ZERO|0x400000"),
            GfpFlags::Parse("__GFP_ZERO|__GFP_ACCOUNT"));
  EXPECT_EQ(GfpFlags::Parse("0x0"), 0u);
  // __GFP_NOLOCKDEP, by the configuration; and GFP_NOIO of 4.9.
  EXPECT_EQ(GfpFlags::Parse("0x1000100"), GfpFlags::kUnknown);
  EXPECT_EQ(GfpFlags::Parse("0x2400000"), GfpFlags::kUnknown);
}

TEST(TraceEventTest, PrintsAsFtraceDoes) {
  TraceEvent event{.time = std::chrono::microseconds(21'635'540),
                   .pfn = Pfn(0x100352),
                   .order = Order(1),
                   .kind = TraceEvent::Kind::kAlloc,
                   .migratetype = 1,
                   .cpu = 1,
                   .gfp = GfpFlags::kZero};
  std::ostringstream text;
  text << event << "\n";
  event.kind = TraceEvent::Kind::kFree;
  event.time += Nanoseconds(1);
  text << event << "\n";
  event.kind = TraceEvent::Kind::kZoneAlloc;
  text << event << "\n";
  event.kind = TraceEvent::Kind::kDrain;
  text << event;
  EXPECT_EQ(text.str(),
            "guestmm-0 [001] 21.635540: mm_page_alloc: pfn=0x100352 order=1 "
            "migratetype=1 gfp_flags=__GFP_ZERO\n"
            "guestmm-0 [001] 21.635540001: mm_page_free: pfn=0x100352 order=1\n"
            "guestmm-0 [001] 21.635540001: mm_page_alloc_zone_locked: "
            "pfn=0x100352 order=1 migratetype=1\n"
            "guestmm-0 [001] 21.635540001: mm_page_pcpu_drain: pfn=0x100352 "
            "order=1 migratetype=1");
}

}  // namespace
}  // namespace guestmm::trace_event_test
