// Random programs over a small guest with a reporter, in virtual time: every
// invariant after every step, and at each instant of a report none of its pages
// in anyone's hands.

#include <gtest/gtest.h>

#include <cstdint>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "guestmm/base/random.h"
#include "tests/testing/reporting_world.h"

namespace guestmm {
namespace {

constexpr int kCpus = 2;
constexpr uint64_t kPages = 130;

// Some of the shapes that matter, by seed: blocks that merge above the
// reporting order and such that do not; an unaligned start; two zones; one
// batch a pass and many.
WorldOptions Shape(uint64_t seed) {
  Random random(seed);
  const auto below = [&](uint64_t bound) { return random.Below(bound); };
  const Order order(static_cast<int>(1 + below(3)));
  const Order max_order(order.value() + static_cast<int>(below(3)));
  const Pfn start(below(8));
  WorldOptions options = {.memory = {{start, start + PageCount(kPages)}},
                          .v12 = {.order = order,
                                  .threshold = 1 + below(4),
                                  .capacity = 1 + below(4)},
                          .max_order = max_order,
                          .cpus = kCpus};
  if (random.OneIn(3)) {
    const Pfn high = ToPfn(Gpa(4 * kGiB)) + PageCount(below(8));
    options.memory.push_back({high, high + PageCount(kPages)});
  }
  options.per_cpu_limits = {.batch = static_cast<uint32_t>(1 + below(4)),
                            .high = static_cast<uint32_t>(1 + below(8))};
  options.seed = seed;
  options.report_time = Nanoseconds(1 + below(200));
  return options;
}

class ReporterModelTest : public testing::TestWithParam<uint64_t> {
 protected:
  struct Block {
    Pfn pfn;
    Order order;
  };

  ReporterModelTest()
      : options_(Shape(GetParam())), random_(GetParam()), world_(options_) {
    world_.SetMinWatermark(PageCount(random_.Below(20)));
    world_.device->set_inspect([this](std::span<const GpaRange> ranges) {
      ExpectIsolated(*world_.allocator, ranges);
      ExpectUnowned(ranges);
    });
    // Before it answers, the rest of the guest goes on: no lock is held.
    world_.device->set_answer([this](std::span<const GpaRange> ranges) {
      for (uint64_t i = random_.Below(4); i > 0; --i) UseMemory();
      ExpectIsolated(*world_.allocator, ranges);
      return random_.OneIn(8) ? absl::ResourceExhaustedError("full")
                              : absl::OkStatus();
    });
  }

  void ExpectUnowned(std::span<const GpaRange> ranges) {
    for (const GpaRange& range : ranges) {
      const Pfn start = ToPfn(range.gpa);
      const Pfn end = start + PageCount(range.bytes / kPageSize);
      for (const Block& block : owned_) {
        EXPECT_TRUE(block.pfn + block.order.pages() <= start ||
                    end <= block.pfn)
            << range << " is reported; " << block.pfn << ", " << block.order
            << " is in use";
      }
    }
  }

  // What a vCPU does: it allocates or frees.
  void UseMemory() {
    const int cpu = static_cast<int>(random_.Below(kCpus));
    if (random_.OneIn(2)) {
      const Order order(static_cast<int>(
          random_.OneIn(2)
              ? 0
              : random_.Below(
                    static_cast<uint64_t>(options_.max_order.value()) + 1)));
      if (const auto pfn = world_.allocator->Allocate(cpu, order)) {
        owned_.push_back({*pfn, order});
      }
    } else if (!owned_.empty()) {
      std::swap(owned_[random_.Below(owned_.size())], owned_.back());
      const Block block = owned_.back();
      owned_.pop_back();
      world_.allocator->Free(cpu, block.pfn, block.order);
    }
  }

  void FreeAll() {
    for (const Block& block : std::exchange(owned_, {})) {
      world_.allocator->Free(0, block.pfn, block.order);
    }
    world_.allocator->DrainPerCpuPages();
  }

  void Step() {
    switch (random_.Below(24)) {
      case 0:
        world_.allocator->DrainPerCpuPages();
        break;
      case 1:
        if (world_.device->outstanding()) {
          world_.device->End(absl::UnavailableError("reset"));
        }
        break;
      case 2:
        if (random_.OneIn(4)) FreeAll();
        break;
      case 3:
        if (!random_.OneIn(4)) break;
        EXPECT_EQ(world_.reporter->Disable(*world_.device), absl::OkStatus());
        EXPECT_EQ(world_.allocator->Counts().isolated, PageCount(0));
        for (uint64_t i = random_.Below(8); i > 0; --i) UseMemory();
        EXPECT_EQ(world_.reporter->Enable(*world_.device), absl::OkStatus());
        break;
      case 4:
      case 5:
      case 6:
      case 7:
        world_.time.RunFor(Nanoseconds(random_.Below(100)));
        break;
      default:
        UseMemory();
    }
  }

  void ExpectCounts() {
    PageCount owned;
    for (const Block& block : owned_) owned += block.order.pages();
    EXPECT_EQ(world_.allocator->Counts().allocated(), owned);
  }

  const WorldOptions options_;
  Random random_;
  std::vector<Block> owned_;
  ReportingWorld world_;
};

TEST_P(ReporterModelTest, InvariantsHoldAfterEveryStep) {
  SCOPED_TRACE(testing::Message() << "seed " << GetParam());
  for (int step = 0; step < 600 && !HasFailure(); ++step) {
    SCOPED_TRACE(testing::Message() << "step " << step);
    Step();
    world_.ExpectInvariants();
    ExpectCounts();
  }
  world_.device->set_answer({});
  FreeAll();
  world_.Settle();
  EXPECT_EQ(world_.allocator->Counts().isolated, PageCount(0));
  EXPECT_EQ(world_.allocator->Counts().free,
            world_.allocator->Counts().managed);
}

INSTANTIATE_TEST_SUITE_P(Seeds, ReporterModelTest,
                         testing::Range<uint64_t>(1, 61),
                         testing::PrintToStringParamName());

}  // namespace
}  // namespace guestmm
