#include "guestmm/base/random.h"

#include <bit>

namespace guestmm {
namespace {

// The increment and the output function of splitmix64 (Steele, Lea and Flood
// 2014).
constexpr uint64_t kGolden = 0x9e3779b97f4a7c15;

uint64_t Finalize(uint64_t z) {
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
  z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
  return z ^ (z >> 31);
}

}  // namespace

uint64_t Mix(uint64_t a, uint64_t b, uint64_t c) {
  uint64_t hash = Finalize(a + kGolden);
  hash = Finalize((hash ^ b) + kGolden);
  return Finalize((hash ^ c) + kGolden);
}

Random::Random(uint64_t seed) {
  // splitmix64 spreads any seed, zero included, over the whole state.
  for (uint64_t& word : state_) {
    seed += kGolden;
    word = Finalize(seed);
  }
}

uint64_t Random::Next() {
  const uint64_t result = std::rotl(state_[0] + state_[3], 23) + state_[0];
  const uint64_t shifted = state_[1] << 17;
  state_[2] ^= state_[0];
  state_[3] ^= state_[1];
  state_[1] ^= state_[2];
  state_[0] ^= state_[3];
  state_[2] ^= shifted;
  state_[3] = std::rotl(state_[3], 45);
  return result;
}

uint64_t Random::Below(uint64_t bound) {
  // Multiply and shift (Lemire 2019). The few draws that would favour small
  // results are rejected.
  __extension__ using Wide = unsigned __int128;
  Wide product = static_cast<Wide>(Next()) * bound;
  if (static_cast<uint64_t>(product) < bound) {
    const uint64_t floor = -bound % bound;
    while (static_cast<uint64_t>(product) < floor) {
      product = static_cast<Wide>(Next()) * bound;
    }
  }
  return static_cast<uint64_t>(product >> 64);
}

}  // namespace guestmm
