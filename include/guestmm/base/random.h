#ifndef GUESTMM_BASE_RANDOM_H_
#define GUESTMM_BASE_RANDOM_H_

#include <array>
#include <cstdint>
#include <span>
#include <utility>

#include "guestmm/base/export.h"

namespace GUESTMM_EXPORT guestmm {

// A hash of three numbers: 64 uniform bits that look independent for any two
// different inputs. Fixed, like Random's sequence.
uint64_t Mix(uint64_t a, uint64_t b, uint64_t c);

// A seeded generator with a fixed sequence (xoshiro256++, Blackman and Vigna
// 2019): a seed replays the same run with any compiler and library.
class Random {
 public:
  explicit Random(uint64_t seed);

  // 64 uniform bits.
  uint64_t Next();
  // Uniform in [0, bound). REQUIRES: bound > 0.
  uint64_t Below(uint64_t bound);
  // Uniform in [low, high]. REQUIRES: low <= high.
  uint64_t Between(uint64_t low, uint64_t high) {
    return high - low == ~uint64_t{0} ? Next() : low + Below(high - low + 1);
  }
  // True in one of `denominator` cases. REQUIRES: denominator > 0.
  bool OneIn(uint64_t denominator) { return Below(denominator) == 0; }
  // A generator whose sequence is independent of this one's further use.
  Random Fork() { return Random(Next()); }

  template <typename T>
  void Shuffle(std::span<T> items) {
    for (size_t i = items.size(); i > 1; --i) {
      std::swap(items[i - 1], items[Below(i)]);
    }
  }

 private:
  std::array<uint64_t, 4> state_;
};

}  // namespace guestmm

#endif  // GUESTMM_BASE_RANDOM_H_
