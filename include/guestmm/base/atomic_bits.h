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

// The threads that change something at a time. Where there is one, it needs no
// atomic read-modify-write, which costs as much as 20 other instructions.
enum class Writers : bool { kOne, kMany };

// A fixed number of bits that are set, cleared and counted in runs.
// Thread-safe, relaxed ordering; callers that need ordering must synchronize. A
// word whose bits already have the wanted value is only read.
class AtomicBits {
 public:
  // All clear.
  explicit AtomicBits(uint64_t size, Writers writers = Writers::kMany)
      : many_writers_(writers == Writers::kMany),
        words_((size + kWord - 1) / kWord) {}

  // REQUIRES for all below: the run lies within the size.

  // Sets [first, first + count); calls `visit(index)` for each bit that was
  // clear, ascending.
  template <typename Visitor>
  void Set(uint64_t first, uint64_t count, Visitor visit) {
    ForEachWord(first, count, [&](uint64_t index, uint64_t mask) {
      Visit(index, SetIn(index, mask), visit);
    });
  }
  // The same; returns the number of bits that were clear.
  uint64_t Set(uint64_t first, uint64_t count) {
    uint64_t changed = 0;
    ForEachWord(first, count, [&](uint64_t index, uint64_t mask) {
      changed += CountOf(SetIn(index, mask));
    });
    return changed;
  }

  // Clears the run; calls `visit(index)` for each bit that was set, ascending.
  template <typename Visitor>
  void Clear(uint64_t first, uint64_t count, Visitor visit) {
    ForEachWord(first, count, [&](uint64_t index, uint64_t mask) {
      Visit(index, ClearIn(index, mask), visit);
    });
  }
  // The same; returns the number of bits that were set.
  uint64_t Clear(uint64_t first, uint64_t count) {
    uint64_t changed = 0;
    ForEachWord(first, count, [&](uint64_t index, uint64_t mask) {
      changed += CountOf(ClearIn(index, mask));
    });
    return changed;
  }

  // Set and Clear of one bit; true if that changed it.
  bool SetOne(uint64_t index) {
    return SetIn(index / kWord, uint64_t{1} << index % kWord) != 0;
  }
  bool ClearOne(uint64_t index) {
    return ClearIn(index / kWord, uint64_t{1} << index % kWord) != 0;
  }

  bool Test(uint64_t index) const {
    return (words_[index / kWord].load(std::memory_order_relaxed) >>
                index % kWord &
            1) != 0;
  }
  // True if a bit of the run is set; true if all are.
  bool Any(uint64_t first, uint64_t count) const {
    return AnyWord(first, count, [this](uint64_t index, uint64_t mask) {
      return (words_[index].load(std::memory_order_relaxed) & mask) != 0;
    });
  }
  bool All(uint64_t first, uint64_t count) const {
    return !AnyWord(first, count, [this](uint64_t index, uint64_t mask) {
      return (~words_[index].load(std::memory_order_relaxed) & mask) != 0;
    });
  }
  // The number of set bits in the run.
  uint64_t Count(uint64_t first, uint64_t count) const {
    uint64_t sum = 0;
    ForEachWord(first, count, [&](uint64_t index, uint64_t mask) {
      sum += CountOf(words_[index].load(std::memory_order_relaxed) & mask);
    });
    return sum;
  }

 private:
  static constexpr uint64_t kWord = 64;

  // Set and clear the bits of `mask` in a word; return those that changed.
  uint64_t SetIn(uint64_t index, uint64_t mask) {
    std::atomic<uint64_t>& word = words_[index];
    uint64_t old = word.load(std::memory_order_relaxed);
    if ((old & mask) == mask) return 0;
    if (many_writers_) {
      old = word.fetch_or(mask, std::memory_order_relaxed);
    } else {
      word.store(old | mask, std::memory_order_relaxed);
    }
    return mask & ~old;
  }
  uint64_t ClearIn(uint64_t index, uint64_t mask) {
    std::atomic<uint64_t>& word = words_[index];
    uint64_t old = word.load(std::memory_order_relaxed);
    if ((old & mask) == 0) return 0;
    if (many_writers_) {
      old = word.fetch_and(~mask, std::memory_order_relaxed);
    } else {
      word.store(old & ~mask, std::memory_order_relaxed);
    }
    return mask & old;
  }
  // The number of set bits. Most words have none or all, and without a
  // processor's instruction for it, counting is a call.
  static uint64_t CountOf(uint64_t bits) {
    if (bits == 0 || bits == ~uint64_t{0}) return bits & kWord;
    return static_cast<uint64_t>(std::popcount(bits));
  }

  // True if `holds(word, mask)` for one of the words that have bits of the run;
  // those behind it are not looked at.
  template <typename Holds>
  static bool AnyWord(uint64_t first, uint64_t count, Holds holds) {
    // Of most runs, one.
    if (const uint64_t offset = first % kWord; count - 1 < kWord - offset)
        [[likely]] {
      return holds(first / kWord, ~uint64_t{0} >> (kWord - count) << offset);
    }
    const uint64_t end = first + count;
    while (first < end) {
      const uint64_t offset = first % kWord;
      const uint64_t bits = std::min(kWord - offset, end - first);
      if (holds(first / kWord, ~uint64_t{0} >> (kWord - bits) << offset)) {
        return true;
      }
      first += bits;
    }
    return false;
  }
  // Calls `visit(word, mask)` for each word that has bits of the run.
  template <typename Visitor>
  static void ForEachWord(uint64_t first, uint64_t count, Visitor visit) {
    AnyWord(first, count, [&](uint64_t word, uint64_t mask) {
      visit(word, mask);
      return false;
    });
  }
  template <typename Visitor>
  static void Visit(uint64_t word, uint64_t bits, Visitor visit) {
    for (; bits != 0; bits &= bits - 1) {
      visit(word * kWord + static_cast<uint64_t>(std::countr_zero(bits)));
    }
  }

  const bool many_writers_;
  std::vector<std::atomic<uint64_t>> words_;
};

}  // namespace guestmm

#endif  // GUESTMM_BASE_ATOMIC_BITS_H_
