// The cost of an operation as memory grows: 1 GiB to 4 TiB of 4 KiB pages,
// without memory behind them.
//
//   Init       makes an allocator
//   First GiB  allocates half a GiB of a fresh guest, page by page
//   Pair       allocates and frees a page, as in allocator_bench.cc
//   Churn      the same; to 1 TiB, whose metadata then takes 2.3 GiB
//
// The work of the last three does not grow with memory, so only cache misses
// grow. Read the counters: `ns` per single operation, the median of slices of
// 2,040; `metadata_bytes`, resident after the run. The argument is in GiB.

#include <algorithm>
#include <bit>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "bench/buddy/slices.h"
#include "benchmark/benchmark.h"
#include "guestmm/base/random.h"
#include "guestmm/base/units.h"
#include "guestmm/buddy/page_allocator.h"

namespace guestmm::bench {
namespace {

constexpr uint64_t kPagesOfGib = kGiB / kPageSize;

// From 4 GiB on, so that all memory is in zone Normal.
constexpr Pfn kStart(4 * kPagesOfGib);

// The largest are less by what is below kStart, and the list heads, which links
// of 30 bits also have to reach.
uint64_t PagesOf(const benchmark::State& state) {
  constexpr uint64_t kMost = 4091 * kPagesOfGib;
  return std::min(static_cast<uint64_t>(state.range(0)) * kPagesOfGib, kMost);
}

std::unique_ptr<PageAllocator> MakeAllocator(uint64_t pages) {
  return PageAllocator::Create({.memory = {{kStart, kStart + PageCount(pages)}},
                                .min_free_kbytes = 0})
      .value();
}

void ReportMetadata(benchmark::State& state, const PageAllocator& allocator) {
  state.counters["metadata_bytes"] =
      static_cast<double>(allocator.pages().ResidentBytes().value_or(0));
}

// One guest after the other; `p10_ms` is the lowest decile.
void Init(benchmark::State& state) {
  std::vector<double> seconds;
  uint64_t metadata = 0;
  for (auto _ : state) {
    const auto start = std::chrono::steady_clock::now();
    const auto allocator = MakeAllocator(PagesOf(state));
    const std::chrono::duration<double> elapsed =
        std::chrono::steady_clock::now() - start;
    state.SetIterationTime(elapsed.count());
    seconds.push_back(elapsed.count());
    metadata = allocator->pages().ResidentBytes().value_or(0);
  }
  std::ranges::sort(seconds);
  state.counters["p10_ms"] = seconds[seconds.size() / 10] * 1e3;
  state.counters["metadata_bytes"] = static_cast<double>(metadata);
}

void FirstGib(benchmark::State& state) {
  Slices slices;
  for (auto _ : state) {
    const auto allocator = MakeAllocator(PagesOf(state));
    state.SetIterationTime(slices.Run(
        kPagesOfGib / 2, 1, [&](size_t) { allocator->Allocate(0, Order(0)); }));
  }
  slices.Report(state);
}

void Pair(benchmark::State& state) {
  const auto allocator = MakeAllocator(PagesOf(state));
  Slices slices;
  for (auto _ : state) {
    state.SetIterationTime(slices.Run(51'000, 2, [&](size_t) {
      allocator->Free(0, *allocator->Allocate(0, Order(0)), Order(0));
    }));
  }
  slices.Report(state);
  ReportMetadata(state, *allocator);
}

// Half full of blocks of random orders, mostly small, everywhere in memory;
// each step allocates one or frees a random one. Without an allocator: the cost
// of the loop, which misses caches too.
enum class Over { kGuestmm, kNothing };

template <Over kOver>
void Churn(benchmark::State& state) {
  const uint64_t pages = PagesOf(state);
  const auto allocator = MakeAllocator(pages);
  std::vector<std::pair<uint32_t, uint8_t>> live;
  uint64_t used = 0;
  Random random(1);
  const auto step = [&](size_t) {
    const uint64_t bits = random.Next();
    if (used < pages / 2) {
      const Order order(std::min(std::countr_zero(bits), 9));
      Pfn pfn;
      if (kOver == Over::kGuestmm) pfn = *allocator->Allocate(0, order);
      used += order.pages().value();
      live.emplace_back(static_cast<uint32_t>(pfn.value()),
                        static_cast<uint8_t>(order.value()));
    } else {
      auto& block =
          live[static_cast<size_t>(((bits >> 32) * live.size()) >> 32)];
      const Order order(block.second);
      if (kOver == Over::kGuestmm) allocator->Free(0, Pfn(block.first), order);
      used -= order.pages().value();
      block = live.back();
      live.pop_back();
    }
  };
  while (used < pages / 2) step(0);
  // Until the free lists are in random order.
  const size_t settle = std::min<size_t>(live.size(), 4'000'000);
  for (size_t i = 0; i < settle; ++i) step(i);
  Slices slices;
  for (auto _ : state) state.SetIterationTime(slices.Run(102'000, 1, step));
  slices.Report(state);
  ReportMetadata(state, *allocator);
}

void Sizes(benchmark::internal::Benchmark* benchmark) {
  benchmark->UseManualTime()->Unit(benchmark::kMillisecond);
  for (const int64_t gib : {1, 4, 16, 64, 256, 1024}) benchmark->Arg(gib);
}
void AllSizes(benchmark::internal::Benchmark* benchmark) {
  Sizes(benchmark);
  benchmark->Arg(4096);
}

BENCHMARK(Init)->Apply(AllSizes);
BENCHMARK(FirstGib)->Name("First GiB")->Apply(AllSizes);
BENCHMARK(Pair)->Apply(AllSizes);
BENCHMARK(Churn<Over::kGuestmm>)->Name("Churn")->Apply(Sizes);
BENCHMARK(Churn<Over::kNothing>)->Name("Churn, loop alone")->Apply(Sizes);

}  // namespace
}  // namespace guestmm::bench

BENCHMARK_MAIN();
