// Random programs over a small guest that reports as Linux does, in virtual
// time. Checks every invariant after every step, that no block is marked that
// was used since its report, and that all blocks are marked in the end.

#include <gtest/gtest.h>

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "guestmm/base/random.h"
#include "tests/reporting/linux_testing.h"

namespace guestmm::linux_model_test {
namespace {

constexpr uint64_t kPages = 130;
// Sections behind the first memory, which may be added and removed.
constexpr uint64_t kSections = 3;

struct Shape {
  LinuxOptions policy;
  WorldOptions world;
};

// Configurations by seed: blocks that merge above the reporting order, and
// blocks that do not; small pageblocks; an unaligned start; two zones; one
// report a pass, and many; the placement of either kernel version.
Shape ShapeOf(uint64_t seed) {
  Random random(seed);
  const auto below = [&](uint64_t bound) { return random.Below(bound); };
  Shape shape;
  LinuxOptions& policy = shape.policy;
  policy = {.order = Order(static_cast<int>(1 + below(3))),
            .delay = Nanoseconds(below(500)),
            .capacity = 1 + below(4)};
  const Order max_order(policy.order.value() + static_cast<int>(below(3)));
  const Pfn start(below(8));
  WorldOptions& world = shape.world;
  world.memory = {{start, start + PageCount(kPages)}};
  world.make_policy = [policy] {
    return std::make_unique<LinuxPolicy>(policy);
  };
  world.max_order = max_order;
  world.section_order = max_order;
  world.pageblock_order = Order(max_order.value() - static_cast<int>(below(2)));
  world.hotplug_end = world.memory.front().end.AlignUp(max_order) +
                      max_order.pages() * kSections;
  if (random.OneIn(3)) {
    const Pfn high = ToPfn(Gpa(4 * kGiB)) + PageCount(below(8));
    world.memory = {world.memory.front(), {high, high + PageCount(kPages)}};
    world.hotplug_end = high + PageCount(kPages);
  }
  world.per_cpu_limits = {.batch = static_cast<uint32_t>(1 + below(4)),
                          .high = static_cast<uint32_t>(1 + below(8))};
  if (random.OneIn(2)) world.placement.rules = KernelVersion::kV6_1;
  world.seed = seed;
  world.report_time = Nanoseconds(1 + below(200));
  return shape;
}

class LinuxModelTest : public testing::TestWithParam<uint64_t> {
 protected:
  struct Block {
    Pfn pfn;
    Order order;
  };

  LinuxModelTest()
      : shape_(ShapeOf(GetParam())),
        random_(GetParam()),
        min_(random_.Below(20)),
        world_(shape_.world) {
    world_.SetMinWatermark(min_);
    world_.device->set_inspect([this](std::span<const GpaRange> ranges) {
      ExpectIsolated(*world_.allocator, ranges);
      if (world_.device->outstanding() && !resetting_) Tell(ranges);
    });
    // The guest continues before the device answers: no lock is held.
    world_.device->set_answer([this](std::span<const GpaRange> ranges) {
      for (uint64_t i = random_.Below(4); i > 0; --i) UseMemory();
      ExpectIsolated(*world_.allocator, ranges);
      return random_.OneIn(8) ? absl::ResourceExhaustedError("full")
                              : absl::OkStatus();
    });
  }

  // Records that the host was notified of these.
  void Tell(std::span<const GpaRange> ranges) {
    for (const GpaRange& range : ranges) {
      const Pfn start = ToPfn(range.gpa);
      for (uint64_t i = 0; i < range.bytes / kPageSize; ++i) {
        told_[start + PageCount(i)] = range;
      }
    }
  }
  // Records that the block is in use and may be written: its report is void.
  void Use(const Block& block) {
    for (uint64_t i = 0; i < block.order.pages().value(); ++i) {
      told_.erase(block.pfn + PageCount(i));
    }
  }

  void UseMemory() {
    if (random_.OneIn(2)) {
      const uint64_t orders =
          static_cast<uint64_t>(shape_.world.max_order.value()) + 1;
      const Order order(
          static_cast<int>(random_.OneIn(2) ? 0 : random_.Below(orders)));
      const Gfp gfp = random_.OneIn(4) ? kGfpKernel : kGfpUser;
      if (const auto pfn = world_.allocator->Allocate(0, order, gfp)) {
        owned_.push_back({*pfn, order});
        Use(owned_.back());
      }
    } else if (!owned_.empty()) {
      std::swap(owned_[random_.Below(owned_.size())], owned_.back());
      const Block block = owned_.back();
      owned_.pop_back();
      world_.allocator->Free(0, block.pfn, block.order);
    }
  }

  void FreeAll() {
    for (const Block& block : std::exchange(owned_, {})) {
      world_.allocator->Free(0, block.pfn, block.order);
    }
    world_.allocator->DrainPerCpuPages();
  }

  // Adds or removes a section. A section that is in use stays.
  void PlugMemory() {
    const Order order = shape_.world.section_order;
    const Pfn start = shape_.world.memory.front().end.AlignUp(order) +
                      order.pages() * random_.Below(kSections);
    const PfnRange section = {start, start + order.pages()};
    if (world_.hotplug.StateOf(start) == "absent") {
      world_.AddOnline(
          section, random_.OneIn(2) ? ZoneType::kNormal : ZoneType::kMovable);
    } else if (world_.hotplug.Offline(section).ok()) {
      EXPECT_EQ(world_.hotplug.Remove(section), absl::OkStatus());
      Use({start, order});
    }
    world_.SetMinWatermark(min_);
  }

  void Step() {
    switch (random_.Below(24)) {
      case 0:
        world_.allocator->DrainPerCpuPages();
        break;
      case 1:
        if (!world_.device->outstanding()) break;
        resetting_ = true;
        world_.device->End(absl::UnavailableError("reset"));
        resetting_ = false;
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
        if (random_.OneIn(2)) PlugMemory();
        break;
      case 5:
      case 6:
      case 7:
        world_.time.RunFor(Nanoseconds(random_.Below(300)));
        break;
      default:
        UseMemory();
    }
  }

  // Calls `visit(zone, head, order, is_reported)` for every free block that is
  // not going offline.
  template <typename Visitor>
  void ForEachFreeBlock(Visitor visit) {
    for (const std::unique_ptr<Zone>& zone : world_.allocator->zones()) {
      LockHolder hold(zone->lock());
      for (int order = 0; order <= zone->max_order().value(); ++order) {
        for (int type = 0; type < kRequestTypes; ++type) {
          std::vector<Pfn> list;
          zone->ForEachFreeBlock(Order(order), static_cast<MigrateType>(type),
                                 [&](Pfn pfn) { list.push_back(pfn); });
          for (const Pfn pfn : list) {
            visit(*zone, pfn, Order(order), zone->IsReported(pfn));
          }
        }
      }
    }
  }

  // A marked block was reported whole, and no page of it was used since.
  void ExpectMarksAreTrue() {
    ForEachFreeBlock([&](Zone&, Pfn head, Order order, bool is_reported) {
      if (!is_reported) return;
      EXPECT_GE(order, shape_.policy.order) << head;
      for (uint64_t i = 0; i < order.pages().value(); ++i) {
        const auto told = told_.find(head + PageCount(i));
        ASSERT_NE(told, told_.end()) << head << ", " << order;
        EXPECT_EQ(told->second, RangeOf(head, order));
      }
    });
  }

  bool IsWorthAPass(const Zone& zone) const {
    return zone.free_pages() >
           zone.watermarks().low +
               shape_.policy.order.pages() * shape_.policy.capacity;
  }

  const Shape shape_;
  Random random_;
  const PageCount min_;
  std::vector<Block> owned_;
  bool resetting_ = false;
  // The last report of a page that was not used since.
  std::map<Pfn, GpaRange> told_;
  LinuxWorld world_;
};

TEST_P(LinuxModelTest, MarksAreTrueAndInTheEndAllIsMarked) {
  SCOPED_TRACE(testing::Message() << "seed " << GetParam());
  for (int step = 0; step < 600 && !HasFailure(); ++step) {
    SCOPED_TRACE(testing::Message() << "step " << step);
    Step();
    world_.ExpectInvariants();
    ExpectMarksAreTrue();
  }
  world_.device->set_answer({});
  FreeAll();
  // One request reports the first blocks of a list: most of a zone is in
  // flight, and the rest must stay above the watermark. The others wait for the
  // next request.
  for (int request = 0; request < 3; ++request) {
    EXPECT_EQ(world_.reporter->Disable(*world_.device), absl::OkStatus());
    EXPECT_EQ(world_.reporter->Enable(*world_.device), absl::OkStatus());
    world_.Settle();
  }
  ExpectMarksAreTrue();
  uint64_t unmarked = 0;
  ForEachFreeBlock([&](Zone& zone, Pfn, Order order, bool is_reported) {
    const bool may_be_isolated =
        zone.free_pages() > zone.watermarks().min + order.pages();
    if (order >= shape_.policy.order && IsWorthAPass(zone) && may_be_isolated) {
      unmarked += is_reported ? 0 : 1;
    }
  });
  EXPECT_EQ(unmarked, 0u);
}

INSTANTIATE_TEST_SUITE_P(Seeds, LinuxModelTest, testing::Range<uint64_t>(1, 61),
                         testing::PrintToStringParamName());

}  // namespace
}  // namespace guestmm::linux_model_test
