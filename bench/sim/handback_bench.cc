// How fast memory goes back to the host: through the whole path (free lists,
// reporter, virtqueue, device, madvise), and by a bare loop with one madvise a
// block over the same blocks. Both in turn in each iteration, on the same RAM,
// touched anew each time; the ratio is what counts.
//
//   scattered  every other 2 MiB block: one call a block for both
//   adjacent   all of them: the path merges neighbours, the loop does not

#include <benchmark/benchmark.h>
#include <sys/mman.h>

#include <chrono>
#include <memory>
#include <vector>

#include "guestmm/reporting/v12_policy.h"
#include "guestmm/sim/guest.h"

namespace guestmm {
namespace {

using std::chrono::steady_clock;

constexpr Order kBlock = kPageblockOrder;
constexpr uint64_t kBlocks = 256;

enum Layout { kScattered, kAdjacent };

double SecondsSince(steady_clock::time_point start) {
  return std::chrono::duration<double>(steady_clock::now() - start).count();
}

void BM_HandBack(benchmark::State& state, HugePages huge_pages, Layout layout) {
  VirtualTime time(1);
  const auto guest = Guest::Create(
      {.memory = Guest::MemoryMap((kBlocks + 32) * kBlock.bytes()),
       .huge_pages = huge_pages,
       .make_policy =
           [] {
             // Reports whatever is free, so that both hand back the same.
             return std::make_unique<V12Policy>(V12Options{.threshold = 1});
           },
       .virtual_time = &time});
  if (!guest.ok()) {
    state.SkipWithError("no guest");
    return;
  }
  Vcpu& vcpu = (*guest)->vcpu(0);
  std::vector<Pfn> blocks;
  std::vector<Pfn> kept;
  for (uint64_t i = 0; i < kBlocks; ++i) {
    const Pfn pfn = vcpu.Allocate(kBlock).value();
    const bool odd = (pfn.value() >> kBlock.value()) % 2 == 1;
    (layout == kAdjacent || odd ? blocks : kept).push_back(pfn);
  }
  const auto touch = [&] {
    for (const Pfn pfn : blocks) vcpu.Touch(pfn, kBlock, 1);
  };

  double path_seconds = 0;
  double bare_seconds = 0;
  for (auto _ : state) {
    touch();
    auto start = steady_clock::now();
    for (const Pfn pfn : blocks) {
      madvise((*guest)
                  ->ram()
                  .Translate({.gpa = ToGpa(pfn), .bytes = kBlock.bytes()})
                  ->bytes()
                  .data(),
              kBlock.bytes(), MADV_DONTNEED);
    }
    bare_seconds += SecondsSince(start);

    touch();
    start = steady_clock::now();
    for (const Pfn pfn : blocks) vcpu.Free(pfn, kBlock);
    time.RunUntilIdle();
    const double seconds = SecondsSince(start);
    path_seconds += seconds;
    state.SetIterationTime(seconds);

    // The blocks that were just freed are the first to be handed out again.
    for (Pfn& pfn : blocks) pfn = vcpu.Allocate(kBlock).value();
  }
  const double bytes = static_cast<double>(blocks.size() * kBlock.bytes()) *
                       static_cast<double>(state.iterations());
  state.counters["path_GiB/s"] = bytes / path_seconds / kGiB;
  state.counters["bare_GiB/s"] = bytes / bare_seconds / kGiB;
  state.counters["path/bare"] = bare_seconds / path_seconds;
  const ReporterCounters counters = (*guest)->reporter()->counters();
  state.counters["reported/freed"] =
      static_cast<double>(counters.reported_bytes) / bytes;
}
BENCHMARK_CAPTURE(BM_HandBack, small_pages_scattered, HugePages::kForbid,
                  kScattered)
    ->UseManualTime();
BENCHMARK_CAPTURE(BM_HandBack, small_pages_adjacent, HugePages::kForbid,
                  kAdjacent)
    ->UseManualTime();
BENCHMARK_CAPTURE(BM_HandBack, huge_pages_scattered, HugePages::kAdvise,
                  kScattered)
    ->UseManualTime();
BENCHMARK_CAPTURE(BM_HandBack, huge_pages_adjacent, HugePages::kAdvise,
                  kAdjacent)
    ->UseManualTime();

}  // namespace
}  // namespace guestmm

BENCHMARK_MAIN();
