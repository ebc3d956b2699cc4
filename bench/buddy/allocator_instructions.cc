// The loops of allocator_bench.cc, to be counted instead of timed:
//
//   bench/buddy/instructions PROGRAM
//
// runs this program under callgrind, which counts the loops in Counted(), and
// compares the counts with instructions.txt. One of two vCPUs is used.
//
// Prints the compiler, then a line for each count: row, allocator, operations.

#include <valgrind/callgrind.h>

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <span>
#include <vector>

#include "bench/buddy/bench_allocators.h"
#include "bench/buddy/churn.h"
#include "guestmm/base/random.h"

namespace guestmm::bench {
namespace {

// Each call is one of callgrind's dumps.
template <typename Step>
void Counted(size_t steps, Step step) {
  CALLGRIND_TOGGLE_COLLECT;
  for (size_t i = 0; i < steps; ++i) step(i);
  CALLGRIND_TOGGLE_COLLECT;
  CALLGRIND_DUMP_STATS;
}

void Print(const char* row, const char* allocator, size_t operations) {
  std::printf("%s %s %zu\n", row, allocator, operations);
}

template <typename Allocator, int kOrder>
void CountPair(const char* row, const char* name) {
  constexpr size_t kPairs = 20'000;
  Warm<Allocator> allocator;
  const auto pair = [&](size_t) {
    allocator->Free(0, allocator->Allocate(0, kOrder), kOrder);
  };
  for (size_t i = 0; i < 100; ++i) pair(i);
  Counted(kPairs, pair);
  Print(row, name, 2 * kPairs);
}

template <typename Allocator, int kOrder>
void CountAll(const char* bulk, const char* sequential, const char* random,
              const char* name) {
  Warm<Allocator> allocator;
  std::vector<uint64_t> blocks(kPages >> kOrder);
  const auto allocate = [&](size_t i) {
    blocks[i] = allocator->Allocate(0, kOrder);
  };
  const auto free = [&](size_t i) { allocator->Free(0, blocks[i], kOrder); };
  Counted(blocks.size(), allocate);
  Print(bulk, name, blocks.size());
  Counted(blocks.size(), free);
  Print(sequential, name, blocks.size());
  for (size_t i = 0; i < blocks.size(); ++i) allocate(i);
  Random(1).Shuffle(std::span(blocks));
  Counted(blocks.size(), free);
  Print(random, name, blocks.size());
}

template <typename Allocator>
void CountChurn(const char* row, const char* name) {
  constexpr size_t kSteps = 100'000;
  Churn<Allocator> churn;
  Counted(kSteps, [&](size_t) { churn.Step(); });
  Print(row, name, kSteps);
}

template <typename Allocator>
void CountRows(const char* name) {
  CountPair<Allocator, 0>("pair_o0", name);
  CountPair<Allocator, 9>("pair_o9", name);
  CountAll<Allocator, 0>("bulk_o0", "seq_free_o0", "rand_free_o0", name);
  CountAll<Allocator, 9>("bulk_o9", "seq_free_o9", "rand_free_o9", name);
  CountChurn<Allocator>("churn", name);
}

}  // namespace
}  // namespace guestmm::bench

int main() {
  using namespace guestmm::bench;  // NOLINT(google-build-using-namespace)
#if defined(__GNUC__) && !defined(__clang__)
  std::printf("gcc %d\n", __GNUC__);
#else
  std::printf("another compiler\n");
#endif
  CountRows<Nothing>("nothing");
  CountRows<List>("list");
  CountRows<Guestmm>("5.3");
  CountRows<Guestmm61>("6.1");
  CountRows<Guestmm612>("6.12");
}
