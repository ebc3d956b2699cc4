// The cost of an allocation and a free: 4 GiB of 4 KiB pages, without memory
// behind them. Each row is one loop, run over the library with the per-CPU
// lists of Linux 5.3 and with those of 6.1, over a yardstick
// (list_allocator.h), and without an allocator, which is the cost of the loop.
//
// Read the counters: `ns` per single operation, the median of slices of 2,040
// operations, and `mean_ns`; `x_list`, times the yardstick's, both net of the
// loop. Time is that of one whole pass.
//
//   pair       allocate then free one block, over and over
//   bulk       allocate all of the memory, block by block
//   seq_free   free it in the order in which it was allocated
//   rand_free  free it in random order; afterwards `merged` of 1,024
//              order-10 blocks can be allocated
//   churn      about half full: while under half, allocate an order that is the
//              number of trailing zeros of a random number; else free a random
//              live block
//   tail       single allocations in churn: `p50_ns`, `p99.9_ns`, both with the
//              clock's own cost
//   2T/...     two vCPUs on two threads; cross_free: half of what one frees
//              came from the other

#include <algorithm>
#include <array>
#include <barrier>
#include <bit>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "bench/buddy/bench_allocators.h"
#include "bench/buddy/churn.h"
#include "bench/buddy/slices.h"
#include "benchmark/benchmark.h"
#include "guestmm/base/random.h"

namespace guestmm::bench {
namespace {

constexpr uint64_t BlocksOf(int order) { return kPages >> order; }

// The number of blocks of order 10 that can be allocated now.
template <typename Allocator>
double Merged(Allocator& allocator) {
  allocator.Drain();
  std::vector<uint64_t> blocks;
  while (blocks.size() < BlocksOf(kMaxOrder.value())) {
    const uint64_t block = allocator.Allocate(0, kMaxOrder.value());
    if (block == kNoPage) break;
    blocks.push_back(block);
  }
  for (const uint64_t block : blocks) {
    allocator.Free(0, block, kMaxOrder.value());
  }
  return static_cast<double>(blocks.size());
}

template <typename Allocator, int kOrder>
void Pair(benchmark::State& state) {
  Warm<Allocator> allocator;
  Slices slices;
  for (auto _ : state) {
    state.SetIterationTime(slices.Run(51'000, 2, [&](size_t) {
      allocator->Free(0, allocator->Allocate(0, kOrder), kOrder);
    }));
  }
  slices.Report(state);
}

enum class Timed { kAllocate, kFree };
enum class FreeOrder { kSequential, kRandom };

template <typename Allocator, int kOrder, Timed kTimed, FreeOrder kFreeOrder>
void AllocateAllFreeAll(benchmark::State& state) {
  Warm<Allocator> allocator;
  std::vector<uint64_t> blocks(BlocksOf(kOrder));
  Random random(1);
  Slices allocate;
  Slices free;
  // Passes over few blocks are repeated, or the loop would be all overhead.
  constexpr size_t kPasses = kOrder == 0 ? 1 : 16;
  for (auto _ : state) {
    double seconds = 0;
    for (size_t pass = 0; pass < kPasses; ++pass) {
      const double allocating = allocate.Run(blocks.size(), 1, [&](size_t i) {
        blocks[i] = allocator->Allocate(0, kOrder);
      });
      if (kFreeOrder == FreeOrder::kRandom) {
        random.Shuffle(std::span(blocks));
      }
      const double freeing = free.Run(blocks.size(), 1, [&](size_t i) {
        allocator->Free(0, blocks[i], kOrder);
      });
      seconds += kTimed == Timed::kAllocate ? allocating : freeing;
    }
    state.SetIterationTime(seconds);
  }
  (kTimed == Timed::kAllocate ? allocate : free).Report(state);
  state.counters["merged"] = Merged(*allocator);
  state.counters["metadata_bytes"] =
      static_cast<double>(allocator->MetadataBytes());
}

template <typename Allocator>
void ChurnRow(benchmark::State& state) {
  Churn<Allocator> churn;
  Slices slices;
  for (auto _ : state) {
    state.SetIterationTime(
        slices.Run(102'000, 1, [&](size_t) { churn.Step(); }));
  }
  slices.Report(state);
  churn.FreeAll();
  state.counters["merged"] = Merged(churn.allocator());
}

template <typename Allocator>
void TailRow(benchmark::State& state) {
  using Clock = std::chrono::steady_clock;
  Churn<Allocator> churn;
  std::vector<int64_t> times;
  for (auto _ : state) {
    const Clock::time_point pass = Clock::now();
    for (int i = 0; i < 102'000; ++i) {
      churn.Step([&](int order) {
        const Clock::time_point start = Clock::now();
        const uint64_t pfn = churn.allocator().Allocate(0, order);
        times.push_back((Clock::now() - start).count());
        return pfn;
      });
    }
    state.SetIterationTime(
        std::chrono::duration<double>(Clock::now() - pass).count());
  }
  std::sort(times.begin(), times.end());
  state.counters["p50_ns"] = static_cast<double>(times[times.size() / 2]);
  state.counters["p99.9_ns"] =
      static_cast<double>(times[times.size() - 1 - times.size() / 1000]);
}

// Two vCPUs, each with its own thread for the lifetime of this object.
class TwoThreads {
 public:
  TwoThreads() = default;
  TwoThreads(const TwoThreads&) = delete;
  TwoThreads& operator=(const TwoThreads&) = delete;
  ~TwoThreads() {
    work_ = nullptr;
    start_.arrive_and_wait();
    other_.join();
  }

  // Runs `work(cpu, slices)`, which returns seconds, on both vCPUs, started
  // together; returns the longer time.
  double Run(Slices& slices, std::function<double(int, Slices&)> work) {
    work_ = std::move(work);
    start_.arrive_and_wait();
    const double seconds = work_(0, own_[0]);
    end_.arrive_and_wait();
    for (Slices& of_one : own_) {
      slices.Merge(of_one);
      of_one = Slices();
    }
    return std::max(seconds, other_seconds_);
  }

 private:
  void Other() {
    while (true) {
      start_.arrive_and_wait();
      if (!work_) return;
      other_seconds_ = work_(1, own_[1]);
      end_.arrive_and_wait();
    }
  }

  std::function<double(int, Slices&)> work_;
  std::array<Slices, 2> own_;
  double other_seconds_ = 0;
  std::barrier<> start_{2};
  std::barrier<> end_{2};
  std::thread other_{[this] { Other(); }};
};

template <typename Allocator, int kOrder>
void PairOnTwoThreads(benchmark::State& state) {
  Warm<Allocator> allocator;
  TwoThreads threads;
  Slices slices;
  for (auto _ : state) {
    state.SetIterationTime(threads.Run(slices, [&](int cpu, Slices& own) {
      return own.Run(204'000, 2, [&](size_t) {
        allocator->Free(cpu, allocator->Allocate(cpu, kOrder), kOrder);
      });
    }));
  }
  slices.Report(state);
}

enum class FreedBy { kItsOwner, kEither };

template <typename Allocator, Timed kTimed, FreedBy kFreedBy>
void AllocateAllFreeAllOnTwoThreads(benchmark::State& state) {
  Warm<Allocator> allocator;
  std::array<std::vector<uint64_t>, 2> blocks;
  for (auto& half : blocks) half.resize(kPages / 2);
  TwoThreads threads;
  Random random(1);
  Slices allocate;
  Slices free;
  for (auto _ : state) {
    const double allocating = threads.Run(allocate, [&](int cpu, Slices& own) {
      auto& half = blocks[static_cast<size_t>(cpu)];
      return own.Run(half.size(), 1,
                     [&](size_t i) { half[i] = allocator->Allocate(cpu, 0); });
    });
    if (kFreedBy == FreedBy::kEither) {
      for (size_t i = 0; i < blocks[0].size(); i += 2) {
        std::swap(blocks[0][i], blocks[1][i]);
      }
    }
    for (auto& half : blocks) random.Shuffle(std::span(half));
    const double freeing = threads.Run(free, [&](int cpu, Slices& own) {
      auto& half = blocks[static_cast<size_t>(cpu)];
      return own.Run(half.size(), 1,
                     [&](size_t i) { allocator->Free(cpu, half[i], 0); });
    });
    state.SetIterationTime(kTimed == Timed::kAllocate ? allocating : freeing);
  }
  (kTimed == Timed::kAllocate ? allocate : free).Report(state);
  state.counters["merged"] = Merged(*allocator);
}

using Row = void (*)(benchmark::State&);

// By row: the last results of the loop alone and of the yardstick.
struct Yardstick {
  std::optional<double> nothing;
  std::optional<double> list;
};
std::map<std::string, Yardstick> yardsticks;

void Register(const std::string& row, Row guestmm, Row guestmm61,
              Row guestmm612, Row list, Row nothing) {
  const auto add = [&](const std::string& allocator, Row run) {
    benchmark::RegisterBenchmark(
        (row + "/" + allocator).c_str(),
        [row, allocator, run](benchmark::State& state) {
          run(state);
          const auto ns = state.counters.find("ns");
          if (ns == state.counters.end()) return;
          Yardstick& yardstick = yardsticks[row];
          if (allocator == "nothing") yardstick.nothing = ns->second;
          if (allocator == "list") yardstick.list = ns->second;
          if (!yardstick.nothing || !yardstick.list) return;
          state.counters["x_list"] = (ns->second - *yardstick.nothing) /
                                     (*yardstick.list - *yardstick.nothing);
        })
        ->UseManualTime()
        ->Unit(benchmark::kMillisecond);
  };
  add("nothing", nothing);
  add("list", list);
  add("guestmm", guestmm);
  add("guestmm61", guestmm61);
  add("guestmm612", guestmm612);
}

template <int kOrder, Timed kTimed, FreeOrder kFreeOrder>
void RegisterAll(const std::string& row) {
  Register(row, AllocateAllFreeAll<Guestmm, kOrder, kTimed, kFreeOrder>,
           AllocateAllFreeAll<Guestmm61, kOrder, kTimed, kFreeOrder>,
           AllocateAllFreeAll<Guestmm612, kOrder, kTimed, kFreeOrder>,
           AllocateAllFreeAll<List, kOrder, kTimed, kFreeOrder>,
           AllocateAllFreeAll<Nothing, kOrder, kTimed, kFreeOrder>);
}

template <int kOrder>
void RegisterPairOnTwoThreads(const std::string& row) {
  Register(row, PairOnTwoThreads<Guestmm, kOrder>,
           PairOnTwoThreads<Guestmm61, kOrder>,
           PairOnTwoThreads<Guestmm612, kOrder>, PairOnTwoThreads<List, kOrder>,
           PairOnTwoThreads<Nothing, kOrder>);
}

template <Timed kTimed, FreedBy kFreedBy>
void RegisterAllOnTwoThreads(const std::string& row) {
  Register(row, AllocateAllFreeAllOnTwoThreads<Guestmm, kTimed, kFreedBy>,
           AllocateAllFreeAllOnTwoThreads<Guestmm61, kTimed, kFreedBy>,
           AllocateAllFreeAllOnTwoThreads<Guestmm612, kTimed, kFreedBy>,
           AllocateAllFreeAllOnTwoThreads<List, kTimed, kFreedBy>,
           AllocateAllFreeAllOnTwoThreads<Nothing, kTimed, kFreedBy>);
}

void RegisterRows() {
  Register("pair_o0", Pair<Guestmm, 0>, Pair<Guestmm61, 0>, Pair<Guestmm612, 0>,
           Pair<List, 0>, Pair<Nothing, 0>);
  Register("pair_o9", Pair<Guestmm, 9>, Pair<Guestmm61, 9>, Pair<Guestmm612, 9>,
           Pair<List, 9>, Pair<Nothing, 9>);
  RegisterAll<0, Timed::kAllocate, FreeOrder::kSequential>("bulk_o0");
  RegisterAll<0, Timed::kFree, FreeOrder::kSequential>("seq_free_o0");
  RegisterAll<0, Timed::kFree, FreeOrder::kRandom>("rand_free_o0");
  RegisterAll<9, Timed::kAllocate, FreeOrder::kSequential>("bulk_o9");
  RegisterAll<9, Timed::kFree, FreeOrder::kSequential>("seq_free_o9");
  RegisterAll<9, Timed::kFree, FreeOrder::kRandom>("rand_free_o9");
  Register("churn", ChurnRow<Guestmm>, ChurnRow<Guestmm61>,
           ChurnRow<Guestmm612>, ChurnRow<List>, ChurnRow<Nothing>);
  Register("tail", TailRow<Guestmm>, TailRow<Guestmm61>, TailRow<Guestmm612>,
           TailRow<List>, TailRow<Nothing>);
  RegisterPairOnTwoThreads<0>("2T/pair_o0");
  RegisterPairOnTwoThreads<9>("2T/pair_o9");
  RegisterAllOnTwoThreads<Timed::kAllocate, FreedBy::kItsOwner>("2T/bulk_o0");
  RegisterAllOnTwoThreads<Timed::kFree, FreedBy::kItsOwner>("2T/rand_free_o0");
  RegisterAllOnTwoThreads<Timed::kFree, FreedBy::kEither>("2T/cross_free_o0");
}

}  // namespace
}  // namespace guestmm::bench

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  guestmm::bench::RegisterRows();
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
}
