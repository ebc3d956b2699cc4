// Lines as the tools printed them, unchanged, from recordings of Linux 6.1 and
// 6.18.

#include <gtest/gtest.h>

#include <cstdint>
#include <vector>

#include "guestmm/trace/trace_event.h"
#include "tests/trace/trace_testing.h"

namespace guestmm::tool_output_test {
namespace {

using trace::ReadWhole;
using trace::WholeTrace;

TraceEvent Alloc(int64_t ns, uint64_t pfn, int order, uint8_t migratetype,
                 uint16_t cpu, const char* gfp) {
  return {.time = Nanoseconds(ns),
          .pfn = Pfn(pfn),
          .order = Order(order),
          .kind = TraceEvent::Kind::kAlloc,
          .migratetype = migratetype,
          .cpu = cpu,
          .gfp = GfpFlags::Parse(gfp)};
}

TraceEvent Free(int64_t ns, uint64_t pfn, int order, uint16_t cpu) {
  return {.time = Nanoseconds(ns),
          .pfn = Pfn(pfn),
          .order = Order(order),
          .kind = TraceEvent::Kind::kFree,
          .cpu = cpu};
}

struct Printed {
  const char* by;
  const char* text;
  std::vector<TraceEvent> events;
};

TEST(ToolOutputTest, IsRead) {
  const Printed all[] = {
      {"trace-cmd report, 3.1.6",
       R"(cpus=2
         timeout-198   [000]    21.529202: mm_page_alloc:        page=0xffffffffa8d17a4a pfn=0x10231a order=1 migratetype=0 gfp_flags=GFP_KERNEL_ACCOUNT|__GFP_ZERO
         timeout-198   [000]    21.529564: mm_page_free:         page=0xffffffffa8d505c6 pfn=0x13ae96 order=0
         timeout-198   [000]    21.529590: mm_page_free_batched: page=0xffffffffa8d505c6 pfn=0x13ae96 order=0
)",
       {Alloc(21'529'202'000, 0x10231a, 1, 0, 0,
              "GFP_KERNEL_ACCOUNT|__GFP_ZERO"),
        Free(21'529'564'000, 0x13ae96, 0, 0)}},
      {"trace-cmd report -t, 3.1.6",
       R"(         timeout-198   [000]    21.529202260: mm_page_alloc:        page=0xffffffffa8d17a4a pfn=0x10231a order=1 migratetype=0 gfp_flags=GFP_KERNEL_ACCOUNT|__GFP_ZERO
         timeout-198   [000]    21.529564270: mm_page_free:         page=0xffffffffa8d505c6 pfn=0x13ae96 order=0
)",
       {Alloc(21'529'202'260, 0x10231a, 1, 0, 0,
              "GFP_KERNEL_ACCOUNT|__GFP_ZERO"),
        Free(21'529'564'270, 0x13ae96, 0, 0)}},
      {"trace-cmd report --ts-diff, 3.1.6",
       R"(         timeout-198   [000]    21.529202:          mm_page_alloc:        page=0xffffffffa8d17a4a pfn=0x10231a order=1 migratetype=0 gfp_flags=GFP_KERNEL_ACCOUNT|__GFP_ZERO
         timeout-198   [000]    21.529271: (+69)    mm_page_alloc:        page=0xffffffffa8d505c6 pfn=0x13ae96 order=0 migratetype=0 gfp_flags=GFP_KERNEL_ACCOUNT|__GFP_ZERO
         timeout-198   [000]    21.529564: (+224)   mm_page_free:         page=0xffffffffa8d505c6 pfn=0x13ae96 order=0
)",
       {Alloc(21'529'202'000, 0x10231a, 1, 0, 0,
              "GFP_KERNEL_ACCOUNT|__GFP_ZERO"),
        Alloc(21'529'271'000, 0x13ae96, 0, 0, 0,
              "GFP_KERNEL_ACCOUNT|__GFP_ZERO"),
        Free(21'529'564'000, 0x13ae96, 0, 0)}},
      {"trace-cmd record -T, 3.1.6",
       R"(         timeout-399   [000]    64.408306: mm_page_alloc:        page=0xffffffffa8d50716 pfn=0x13afe6 order=1 migratetype=0 gfp_flags=GFP_KERNEL_ACCOUNT|__GFP_ZERO
         timeout-399   [000]    64.408898: kernel_stack:         <stack trace >
=> trace_event_raw_event_mm_page_alloc (ffffffffa7ab73cf)
=> __traceiter_mm_page_alloc (ffffffffa7ab6541)
         timeout-399   [000]    64.409383: mm_page_free:         page=0xffffffffa8d51784 pfn=0x13c054 order=0
)",
       {Alloc(64'408'306'000, 0x13afe6, 1, 0, 0,
              "GFP_KERNEL_ACCOUNT|__GFP_ZERO"),
        Free(64'409'383'000, 0x13c054, 0, 0)}},
      {"perf script, 6.1",
       R"(             cat   509 [000]    90.613997:        kmem:mm_page_alloc: page=0x10dca6 pfn=0x10dca6 order=0 migratetype=1 gfp_flags=GFP_HIGHUSER_MOVABLE|__GFP_COMP|__GFP_ZERO
       perf-exec   507 [001]    90.620218:         kmem:mm_page_free: page=0x13b979 pfn=0x13b979 order=0
       perf-exec   507 [001]    90.627592: kmem:mm_page_free_batched: page=0x13b979 pfn=0x13b979 order=0
)",
       {Alloc(90'613'997'000, 0x10dca6, 0, 1, 0,
              "GFP_HIGHUSER_MOVABLE|__GFP_COMP|__GFP_ZERO"),
        Free(90'620'218'000, 0x13b979, 0, 1)}},
      {"perf script --ns, 6.1",
       R"(             cat   509 [000]    90.613997234:        kmem:mm_page_alloc: page=0x10dca6 pfn=0x10dca6 order=0 migratetype=1 gfp_flags=GFP_HIGHUSER_MOVABLE|__GFP_COMP|__GFP_ZERO
       perf-exec   507 [001]    90.620218441:         kmem:mm_page_free: page=0x13b979 pfn=0x13b979 order=0
)",
       {Alloc(90'613'997'234, 0x10dca6, 0, 1, 0,
              "GFP_HIGHUSER_MOVABLE|__GFP_COMP|__GFP_ZERO"),
        Free(90'620'218'441, 0x13b979, 0, 1)}},
      {"perf record -g, 6.1",
       R"(perf  8773 [001] 26995.320483:        kmem:mm_page_alloc: page=0x121855 pfn=0x121855 order=0 migratetype=0 gfp_flags=GFP_HIGHUSER|__GFP_ACCOUNT
	ffffffff8161f78b __alloc_frozen_pages_noprof+0x26b ([kernel.kallsyms])
	ffffffff81658d16 alloc_pages_mpol+0x86 ([kernel.kallsyms])
	           f838f __GI___libc_write+0x4f (/usr/lib/x86_64-linux-gnu/libc.so.6)

perf-exec  8774 [001] 26995.322344:         kmem:mm_page_free: page=0x16219b pfn=0x16219b order=0
)",
       {Alloc(26'995'320'483'000, 0x121855, 0, 0, 1,
              "GFP_HIGHUSER|__GFP_ACCOUNT"),
        Free(26'995'322'344'000, 0x16219b, 0, 1)}},
      {"perf script -F +pid,+tid,+misc,+period,+ip,+sym, 6.1",
       R"(            perf  2624/2624  [001] K     26890.946520:          1        kmem:mm_page_alloc: page=0x1d05f3 pfn=0x1d05f3 order=0 migratetype=0 gfp_flags=GFP_HIGHUSER|__GFP_ACCOUNT ffffffff8161f78b __alloc_frozen_pages_noprof
       perf-exec  2625/2625  [001] K     26890.947208:          1         kmem:mm_page_free: page=0x1558d7 pfn=0x1558d7 order=0 ffffffff8161bdf4 free_unref_folios
)",
       {Alloc(26'890'946'520'000, 0x1d05f3, 0, 0, 1,
              "GFP_HIGHUSER|__GFP_ACCOUNT"),
        Free(26'890'947'208'000, 0x1558d7, 0, 1)}},
      {"tracing/trace, 6.18",
       R"(# tracer: nop
#
# entries-in-buffer/entries-written: 17981/17981   #P:2
#
#                                _-----=> irqs-off/BH-disabled
#                               / _----=> need-resched
#                              | / _---=> hardirq/softirq
#                              || / _--=> preempt-depth
#                              ||| / _-=> migrate-disable
#                              |||| /     delay
#           TASK-PID     CPU#  |||||  TIMESTAMP  FUNCTION
#              | |         |   |||||     |         |
            bash-9230    [001] ..... 27019.991304: mm_page_alloc: page=00000000f86bf2b1 pfn=0x25e23c order=1 migratetype=2 gfp_flags=__GFP_RECLAIMABLE|__GFP_IO|__GFP_FS|__GFP_NOWARN|__GFP_NORETRY|__GFP_COMP|__GFP_NOMEMALLOC
         timeout-9233    [000] ..... 27019.996395: mm_page_free: page=000000003181121a pfn=0x1e299e order=0
         timeout-9233    [000] ...2. 27019.996396: mm_page_free_batched: page=000000003181121a pfn=0x1e299e order=0
)",
       {Alloc(27'019'991'304'000, 0x25e23c, 1, 2, 1,
              "__GFP_RECLAIMABLE|__GFP_IO|__GFP_FS|__GFP_NOWARN|__GFP_NORETRY|_"
              "_GFP_COMP|__GFP_NOMEMALLOC"),
        Free(27'019'996'395'000, 0x1e299e, 0, 0)}},
      {"tracing/trace, record-tgid, 6.18",
       R"(# tracer: nop
#
# entries-in-buffer/entries-written: 28960/28960   #P:2
#
#                                          _-----=> irqs-off/BH-disabled
#                                         / _----=> need-resched
#                                        | / _---=> hardirq/softirq
#                                        || / _--=> preempt-depth
#                                        ||| / _-=> migrate-disable
#                                        |||| /     delay
#           TASK-PID       TGID    CPU#  |||||  TIMESTAMP  FUNCTION
#              | |           |       |   |||||     |         |
             c++-9210    (   9210) [001] ...1. 27020.872200: mm_page_alloc: page=0000000014dd3c42 pfn=0x1b9893 order=0 migratetype=0 gfp_flags=GFP_NOWAIT
             c++-9210    (   9210) [001] ..... 27020.872372: mm_page_free: page=000000008b75f462 pfn=0x14f91d order=0
)",
       {Alloc(27'020'872'200'000, 0x1b9893, 0, 0, 1, "GFP_NOWAIT"),
        Free(27'020'872'372'000, 0x14f91d, 0, 1)}},
      {"tracing/trace, noirq-info, 6.18",
       R"(            bash-9230    [001]  27020.406863: mm_page_alloc: page=000000004d7341a8 pfn=0x1cc8a3 order=0 migratetype=0 gfp_flags=GFP_KERNEL_ACCOUNT|__GFP_ZERO|__GFP_COMP
         timeout-9239    [001]  27020.407183: mm_page_free: page=000000007598335e pfn=0x1de9a8 order=0
)",
       {Alloc(27'020'406'863'000, 0x1cc8a3, 0, 0, 1,
              "GFP_KERNEL_ACCOUNT|__GFP_ZERO|__GFP_COMP"),
        Free(27'020'407'183'000, 0x1de9a8, 0, 1)}},
      {"tracing/trace, stacktrace, 6.18",
       R"(            bash-9230    [001] ..... 27028.159623: mm_page_alloc: page=00000000a91d4820 pfn=0x202d97 order=0 migratetype=0 gfp_flags=GFP_KERNEL_ACCOUNT|__GFP_ZERO|__GFP_COMP
            bash-9230    [001] ..... 27028.159952: <stack trace>
 => trace_event_raw_event_mm_page_alloc
 => __alloc_frozen_pages_noprof
 => alloc_pages_mpol
)",
       {Alloc(27'028'159'623'000, 0x202d97, 0, 0, 1,
              "GFP_KERNEL_ACCOUNT|__GFP_ZERO|__GFP_COMP")}},
  };
  for (const auto& [by, text, events] : all) {
    const WholeTrace trace = ReadWhole(text);
    EXPECT_TRUE(trace.status.ok()) << by << ": " << trace.message();
    EXPECT_EQ(trace.events, events) << by;
    EXPECT_EQ(trace.counters.bad_lines, 0u) << by;
  }
}

TEST(ToolOutputTest, FailedAllocationsAreCounted) {
  // trace-cmd report 3.1.6 and perf script 6.1, of a huge page pool larger than
  // memory.
  const WholeTrace trace = ReadWhole(
      R"(              sh-453   [000]   159.020697: mm_page_alloc:        page=(nil) pfn=0x0 order=9 migratetype=1 gfp_flags=GFP_HIGHUSER_MOVABLE|__GFP_NOWARN|__GFP_RETRY_MAYFAIL|__GFP_COMP|__GFP_THISNODE
              sh   348 [001]   126.327662: kmem:mm_page_alloc: page=(nil) pfn=0x0 order=9 migratetype=1 gfp_flags=GFP_HIGHUSER_MOVABLE|__GFP_NOWARN|__GFP_RETRY_MAYFAIL|__GFP_COMP|__GFP_THISNODE
)");
  EXPECT_TRUE(trace.status.ok()) << trace.message();
  EXPECT_EQ(trace.counters.failed_allocs, 2u);
  EXPECT_EQ(trace.counters.events, 0u);
}

TEST(ToolOutputTest, LostEventsAreCounted) {
  // trace-cmd extract 3.1.6, trace_pipe of 6.18, perf script
  // --show-lost-events.
  const WholeTrace trace = ReadWhole(
      R"(CPU:1 [EVENTS DROPPED]
CPU:0 [230643 EVENTS DROPPED]
CPU:1 [LOST 6966 EVENTS]
            perf  8796 [000] 26998.017582: PERF_RECORD_LOST lost 130
)");
  EXPECT_TRUE(trace.status.ok()) << trace.message();
  EXPECT_EQ(trace.counters.lost, 1u + 230643 + 6966 + 130);
}

TEST(ToolOutputTest, NumericFlagsAreTheKernels) {
  // trace-cmd report -R 3.1.6.
  const WholeTrace trace = ReadWhole(
      R"(         timeout-198   [000]    21.529202: mm_page_alloc:         pfn=0x10231a order=1 gfp_flags=0x400dc0 migratetype=0
)");
  EXPECT_TRUE(trace.status.ok()) << trace.message();
  EXPECT_EQ(trace.events, std::vector{Alloc(21'529'202'000, 0x10231a, 1, 0, 0,
                                            "GFP_KERNEL_ACCOUNT|__GFP_ZERO")});
}

}  // namespace
}  // namespace guestmm::tool_output_test
