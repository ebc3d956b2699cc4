#include "tests/testing/dma_device.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstring>
#include <thread>
#include <utility>

#include "guestmm/base/check.h"

namespace guestmm {
namespace {

constexpr uint64_t kLineBytes = 64;
using Line = std::array<uint64_t, kLineBytes / sizeof(uint64_t)>;

// Different for each line and stamp. No byte is zero, as discarded pages read.
Line Contents(Gpa gpa, uint32_t stamp) {
  Line line;
  uint64_t word = gpa.value() ^ uint64_t { stamp } << 32;
  for (uint64_t& at : line) {
    word = (word ^ word >> 29) * 0x9e3779b97f4a7c15;
    at = word | 0x0101010101010101;
  }
  return line;
}

}  // namespace

void DmaDevice::Map(Pfn pfn, Order order) {
  std::optional<Translation> memory =
      ram_.Translate({.gpa = ToGpa(pfn), .bytes = order.bytes()});
  GUESTMM_CHECK(memory.has_value())
      << "block at " << pfn << ", " << order << ", is not in guest RAM";
  LockHolder hold(mutex_);
  const auto after =
      std::find_if(blocks_.begin(), blocks_.end(),
                   [&](const Block& block) { return pfn < block.pfn; });
  Block& block = *blocks_.insert(
      after, {.pfn = pfn,
              .memory = *std::move(memory),
              .stamps = std::vector<uint32_t>(order.bytes() / kLineBytes)});
  for (uint64_t line = 0; line < block.stamps.size(); ++line) {
    Write(block, line);
  }
}

void DmaDevice::Unmap(Pfn pfn) {
  LockHolder hold(mutex_);
  const auto block =
      std::find_if(blocks_.begin(), blocks_.end(),
                   [&](const Block& mapped) { return pfn == mapped.pfn; });
  GUESTMM_CHECK(block != blocks_.end()) << "no block is mapped at " << pfn;
  blocks_.erase(block);
}

void DmaDevice::WriteSome(Random& random) {
  LockHolder hold(mutex_);
  if (blocks_.empty()) return;
  for (uint64_t left = random.Between(1, 16); left > 0; --left) {
    Block& block = blocks_[random.Below(blocks_.size())];
    Write(block, random.Below(block.stamps.size()));
  }
}

void DmaDevice::Run(Random random, const std::atomic<bool>& stop) {
  while (!stop) {
    WriteSome(random);
    std::this_thread::yield();
  }
}

std::optional<Gpa> DmaDevice::FirstLost() const {
  LockHolder hold(mutex_);
  for (const Block& block : blocks_) {
    const std::byte* const memory = block.memory.bytes().data();
    for (uint64_t i = 0; i < block.stamps.size(); ++i) {
      const Gpa gpa = ToGpa(block.pfn) + i * kLineBytes;
      const Line line = Contents(gpa, block.stamps[i]);
      const auto* const wrote = reinterpret_cast<const std::byte*>(line.data());
      const std::byte* const holds = memory + i * kLineBytes;
      if (std::memcmp(holds, wrote, kLineBytes) == 0) continue;
      const auto lost = std::mismatch(wrote, wrote + kLineBytes, holds).first;
      return gpa + static_cast<uint64_t>(lost - wrote);
    }
  }
  return std::nullopt;
}

void DmaDevice::Write(Block& block, uint64_t line) {
  block.stamps[line] = ++last_stamp_;
  const Line contents =
      Contents(ToGpa(block.pfn) + line * kLineBytes, last_stamp_);
  std::memcpy(block.memory.bytes().data() + line * kLineBytes, contents.data(),
              kLineBytes);
}

}  // namespace guestmm
