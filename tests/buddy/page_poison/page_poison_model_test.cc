// Checks the contents of every page of a guest after each step of a random
// program.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <ostream>
#include <string>
#include <vector>

#include "guestmm/base/random.h"
#include "guestmm/buddy/page_allocator.h"
#include "guestmm/buddy/page_poison.h"
#include "tests/buddy/page_poison/page_poison_testing.h"

namespace guestmm::page_poison_model_test {
namespace {

using ::testing::TestWithParam;
using ::testing::Values;

struct ProgramOptions {
  const char* name;
  PagePoisonOptions poison;
  KernelVersion per_cpu_lists;
};

std::ostream& operator<<(std::ostream& os, const ProgramOptions& options) {
  return os << options.name;
}

class PagePoisonProgram : public TestWithParam<ProgramOptions> {
 protected:
  static constexpr uint64_t kPages = 128;
  static constexpr int kCpus = 2;

  struct Block {
    Pfn pfn;
    Order order;
    int pins = 0;
    bool freed = false;
  };

  PagePoisonProgram()
      : world_(GetParam().poison, {45, kPages - 45},
               {.cpus = kCpus,
                .max_order = Order(6),
                .pageblock_order = Order(4),
                .per_cpu_lists = GetParam().per_cpu_lists,
                .per_cpu_limits = PerCpuLimits{.batch = 3, .high = 9}}),
        shadow_(kPages * kPageSize, Poisons() ? kPoison : uint8_t{0}) {}

  static bool Poisons() {
    return GetParam().poison.mode == PagePoisonMode::kPoison;
  }
  uint8_t* Shadow(Pfn pfn) { return &shadow_[pfn.value() * kPageSize]; }

  void Write(const Block& block) {
    const auto value = static_cast<uint8_t>(random_.Next());
    world_.Write(block.pfn, block.order, value);
    std::memset(Shadow(block.pfn), value, block.order.bytes());
  }
  // Writes anywhere, to pages with or without an owner.
  void WriteAnywhere() {
    const Pfn pfn(random_.Below(kPages));
    const uint64_t offset = random_.Below(kPageSize);
    uint8_t value = static_cast<uint8_t>(random_.Next());
    if (random_.OneIn(2)) {
      value =
          static_cast<uint8_t>(Shadow(pfn)[offset] ^ 1U << random_.Below(8));
    }
    world_.At(pfn)[offset] = value;
    Shadow(pfn)[offset] = value;
  }

  void Allocate() {
    const Order order(static_cast<int>(random_.Below(7)));
    const auto pfn = world_.allocator().Allocate(Cpu(), order);
    if (!pfn) return;
    blocks_.push_back({*pfn, order});
    if (Poisons()) ExpectFound(*pfn, order);
    if (GetParam().poison.init_on_alloc &&
        GetParam().poison.mode != PagePoisonMode::kInitOnFree) {
      std::memset(Shadow(*pfn), 0, order.bytes());
    }
  }
  // Adds to the corruptions that must be found.
  void ExpectFound(Pfn pfn, Order order) {
    for (const Pfn end = pfn + order.pages(); pfn < end; pfn += PageCount(1)) {
      PageCorruption corruption = {.pfn = pfn};
      int bytes = 0;
      int bits = 0;
      for (uint32_t i = 0; i < kPageSize; ++i) {
        const uint8_t byte = Shadow(pfn)[i];
        if (byte == kPoison) continue;
        if (bytes++ == 0) {
          corruption.first = i;
          corruption.found = byte;
        }
        corruption.last = i;
        for (int bit = 0; bit < 8; ++bit) bits += (byte ^ kPoison) >> bit & 1;
      }
      if (bytes == 0) continue;
      corruption.single_bit = bits == 1;
      single_bits_ += bits == 1 ? 1 : 0;
      ++expected_pages_;
      if (expected_.size() < PagePoison::kMostRemembered) {
        expected_.push_back(corruption);
      }
    }
  }
  void Free(Block& block) {
    block.freed = true;
    world_.Free(block.pfn, block.order, Cpu());
    MaybeGone(block);
  }
  void Pin(Block& block) {
    if (block.freed) return;
    ++block.pins;
    world_.allocator().Pin(block.pfn);
  }
  void Unpin(Block& block) {
    if (block.pins == 0) return;
    --block.pins;
    world_.allocator().Unpin(Cpu(), block.pfn);
    MaybeGone(block);
  }
  void MaybeGone(Block& block) {
    if (!block.freed || block.pins > 0) return;
    if (GetParam().poison.mode != PagePoisonMode::kOff) {
      std::memset(Shadow(block.pfn), Poisons() ? kPoison : 0,
                  block.order.bytes());
    }
    std::swap(block, blocks_.back());
    blocks_.pop_back();
  }

  void Step() {
    if (random_.OneIn(20)) return world_.allocator().DrainPerCpuPages();
    if (random_.OneIn(10)) return WriteAnywhere();
    if (blocks_.empty() || random_.OneIn(3)) return Allocate();
    Block& block = blocks_[random_.Below(blocks_.size())];
    switch (random_.Below(5)) {
      case 0:
        return Write(block);
      case 1:
        return Pin(block);
      case 2:
        return Unpin(block);
      default:
        if (!block.freed) Free(block);
    }
  }

  void Compare() {
    for (Pfn pfn(0); pfn < Pfn(kPages); pfn += PageCount(1)) {
      ASSERT_EQ(std::memcmp(world_.At(pfn), Shadow(pfn), kPageSize), 0) << pfn;
    }
    ASSERT_EQ(world_.poison().corrupted_pages(), expected_pages_);
    ASSERT_EQ(world_.poison().corruptions(), expected_);
    ASSERT_EQ(world_.allocator().CheckInvariants(), absl::OkStatus());
  }

  int Cpu() { return static_cast<int>(random_.Below(kCpus)); }

  Random random_{1};
  PoisonWorld world_;
  std::vector<uint8_t> shadow_;
  std::vector<Block> blocks_;
  std::vector<PageCorruption> expected_;
  uint64_t expected_pages_ = 0;
  int single_bits_ = 0;
};

TEST_P(PagePoisonProgram, EveryByteIsAsInTheShadow) {
  for (int step = 0; step < 3000; ++step) {
    Step();
    Compare();
    if (HasFatalFailure()) {
      FAIL() << "step " << step;
    }
  }
  if (Poisons()) {
    EXPECT_GT(expected_pages_, 30u);
    EXPECT_GT(single_bits_, 5);
  } else {
    EXPECT_EQ(expected_pages_, 0u);
  }
}

INSTANTIATE_TEST_SUITE_P(
    Modes, PagePoisonProgram,
    Values(ProgramOptions{"Off", {}, KernelVersion::kV5_3},
           ProgramOptions{"Poison", kPoisoned, KernelVersion::kV5_3},
           ProgramOptions{"PoisonOf6_1", kPoisoned, KernelVersion::kV6_1},
           ProgramOptions{"InitOnFree", kZeroed, KernelVersion::kV5_3},
           ProgramOptions{"InitOnAlloc", kCleared, KernelVersion::kV6_1},
           ProgramOptions{
               "PoisonAndInitOnAlloc",
               {.mode = PagePoisonMode::kPoison, .init_on_alloc = true},
               KernelVersion::kV6_1},
           ProgramOptions{
               "InitOnFreeAndInitOnAlloc",
               {.mode = PagePoisonMode::kInitOnFree, .init_on_alloc = true},
               KernelVersion::kV5_3}),
    [](const auto& param) { return std::string(param.param.name); });

}  // namespace
}  // namespace guestmm::page_poison_model_test
