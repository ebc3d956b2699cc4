// Random programs over a small guest with a reporter, in virtual time. Checks
// every invariant after every step, and at each instant of a report that none
// of its pages is in use.

#include <gtest/gtest.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "guestmm/base/random.h"
#include "tests/testing/reporting_world.h"

namespace guestmm::reporter_model_test {
namespace {

constexpr int kCpus = 2;
constexpr uint64_t kPages = 130;
// Sections behind the first memory, which may be added and removed.
constexpr uint64_t kSections = 4;

// Configurations by seed: blocks that merge above the reporting order, and
// blocks that do not; pageblocks of the largest block, and smaller; an
// unaligned start; two zones; one batch a pass, and many; v12 and v12-hotplug.
WorldOptions Shape(uint64_t seed) {
  Random random(seed);
  const auto below = [&](uint64_t bound) { return random.Below(bound); };
  const Order order(static_cast<int>(1 + below(3)));
  const Order max_order(order.value() + static_cast<int>(below(3)));
  const Pfn start(below(8));
  WorldOptions options = {.memory = {{start, start + PageCount(kPages)}},
                          .v12 = {.order = order,
                                  .threshold = 1 + below(4),
                                  .capacity = 1 + below(4),
                                  .hotplug = random.OneIn(2)},
                          .max_order = max_order,
                          .section_order = max_order,
                          .cpus = kCpus};
  options.pageblock_order =
      Order(max_order.value() - static_cast<int>(below(2)));
  options.hotplug_end =
      options.memory[0].end.AlignUp(max_order) + max_order.pages() * kSections;
  if (random.OneIn(3)) {
    const Pfn high = ToPfn(Gpa(4 * kGiB)) + PageCount(below(8));
    options.memory.push_back({high, high + PageCount(kPages)});
    options.hotplug_end = high + PageCount(kPages);
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
      : options_(Shape(GetParam())),
        random_(GetParam()),
        min_(random_.Below(20)),
        world_(options_) {
    world_.SetMinWatermark(min_);
    world_.device->set_inspect([this](std::span<const GpaRange> ranges) {
      ExpectIsolated(*world_.allocator, ranges);
      ExpectUnowned(ranges);
    });
    // The guest continues before the device answers: no lock is held.
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

  // A step of a vCPU: it allocates or frees.
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

  // Adds or removes a section, or moves it to another zone. A section stays if
  // it is in use, or if the host does not answer.
  void PlugMemory() {
    const PageCount pages = options_.section_order.pages();
    const Pfn start = options_.memory[0].end.AlignUp(options_.section_order) +
                      pages * random_.Below(kSections);
    const PfnRange section = {start, start + pages};
    const std::string_view state = world_.hotplug.StateOf(start);
    absl::Status status;
    if (state == "absent") {
      status = world_.hotplug.Add(section, /*node=*/0);
    } else if (state == "online") {
      status = world_.hotplug.Offline(section);
      if (status.code() == absl::StatusCode::kFailedPrecondition) return;
    } else if (random_.OneIn(2)) {
      status = world_.hotplug.Remove(section);
    } else {
      status = world_.hotplug.Online(
          section, random_.OneIn(2) ? ZoneType::kNormal : ZoneType::kMovable);
    }
    EXPECT_EQ(status, absl::OkStatus());
    world_.SetMinWatermark(min_);
  }

  // A zone's bits are for its own memory only, after any hotplug.
  void ExpectMarksInMemory() {
    for (const std::unique_ptr<Zone>& zone : world_.allocator->zones()) {
      const ZoneBitmap& bitmap = world_.bitmap(zone->type());
      for (std::optional<Pfn> pfn = bitmap.FindNext(Pfn(0)); pfn;
           pfn = bitmap.FindNext(*pfn + PageCount(1))) {
        EXPECT_EQ(world_.allocator->pages().pageblock(*pfn).zone, zone->index())
            << *pfn;
      }
    }
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
    if (random_.OneIn(8)) PlugMemory();
  }

  void ExpectCounts() {
    PageCount owned;
    for (const Block& block : owned_) owned += block.order.pages();
    EXPECT_EQ(world_.allocator->Counts().allocated(), owned);
  }

  const WorldOptions options_;
  Random random_;
  const PageCount min_;
  std::vector<Block> owned_;
  ReportingWorld world_;
};

TEST_P(ReporterModelTest, InvariantsHoldAfterEveryStep) {
  SCOPED_TRACE(testing::Message() << "seed " << GetParam());
  for (int step = 0; step < 600 && !HasFailure(); ++step) {
    SCOPED_TRACE(testing::Message() << "step " << step);
    Step();
    world_.ExpectInvariants();
    ExpectMarksInMemory();
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
}  // namespace guestmm::reporter_model_test
