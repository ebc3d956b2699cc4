#ifndef GUESTMM_BASE_ATOMIC_BITS_H_
#define GUESTMM_BASE_ATOMIC_BITS_H_

#include <algorithm>
#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "guestmm/base/export.h"

namespace GUESTMM_EXPORT guestmm {

// A fixed number of bits that are set, cleared and counted in runs.
// Thread-safe, relaxed ordering; callers that need ordering must synchronize. A
// word whose bits already have the wanted value is only read.
class AtomicBits {
 public:
  // All clear.
  explicit AtomicBits(uint64_t size) : words_((size + kWord - 1) / kWord) {}

  // REQUIRES for all below: the run lies within the size.

  // Sets [first, first + count); calls `visit(index)` for each bit that was
  // clear, ascending.
  template <typename Visitor>
  void Set(uint64_t first, uint64_t count, Visitor visit) {
    ForEachWord(first, count, [&](uint64_t index, uint64_t mask) {
      uint64_t old = words_[index].load(std::memory_order_relaxed);
      if ((old & mask) == mask) return;
      old = words_[index].fetch_or(mask, std::memory_order_relaxed);
      Visit(index, mask & ~old, visit);
    });
  }
  void Set(uint64_t first, uint64_t count) {
    Set(first, count, [](uint64_t) {});
  }

  // Clears the run; calls `visit(index)` for each bit that was set, ascending.
  template <typename Visitor>
  void Clear(uint64_t first, uint64_t count, Visitor visit) {
    ForEachWord(first, count, [&](uint64_t index, uint64_t mask) {
      uint64_t old = words_[index].load(std::memory_order_relaxed);
      if ((old & mask) == 0) return;
      old = words_[index].fetch_and(~mask, std::memory_order_relaxed);
      Visit(index, mask & old, visit);
    });
  }
  void Clear(uint64_t first, uint64_t count) {
    Clear(first, count, [](uint64_t) {});
  }

  bool Test(uint64_t index) const { return Count(index, 1) != 0; }
  // The number of set bits in the run.
  uint64_t Count(uint64_t first, uint64_t count) const {
    uint64_t sum = 0;
    ForEachWord(first, count, [&](uint64_t index, uint64_t mask) {
      sum += static_cast<uint64_t>(
          std::popcount(words_[index].load(std::memory_order_relaxed) & mask));
    });
    return sum;
  }

 private:
  static constexpr uint64_t kWord = 64;

  // Calls `visit(word, mask)` for each word that has bits of the run.
  template <typename Visitor>
  static void ForEachWord(uint64_t first, uint64_t count, Visitor visit) {
    const uint64_t end = first + count;
    while (first < end) {
      const uint64_t offset = first % kWord;
      const uint64_t bits = std::min(kWord - offset, end - first);
      visit(first / kWord, ~uint64_t{0} >> (kWord - bits) << offset);
      first += bits;
    }
  }
  template <typename Visitor>
  static void Visit(uint64_t word, uint64_t bits, Visitor visit) {
    for (; bits != 0; bits &= bits - 1) {
      visit(word * kWord + static_cast<uint64_t>(std::countr_zero(bits)));
    }
  }

  std::vector<std::atomic<uint64_t>> words_;
};

}  // namespace guestmm

#endif  // GUESTMM_BASE_ATOMIC_BITS_H_
