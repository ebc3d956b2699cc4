// The adaptive policy's promises, over random programs: at rest the host has
// all reportable memory, and nothing was reported that the host had already.

#include <gtest/gtest.h>

#include <chrono>
#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include "guestmm/base/random.h"
#include "tests/reporting/adaptive_testing.h"

namespace guestmm::adaptive_policy_model_test {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr Order kSection{6};
constexpr PfnRange kAdded = {.start = Pfn(512), .end = Pfn(576)};

// A guest that allocates, frees and idles; its zones run low, its device fails,
// its driver is removed and comes back, and memory is hotplugged and removed.
class Program {
 public:
  Program(const WorldOptions& options, Order granule, uint64_t seed,
          bool reregister)
      : world_(options, granule), random_(seed), reregister_(reregister) {
    world_.device->set_answer([this](std::span<const GpaRange>) {
      return fail_ ? absl::UnavailableError("full") : absl::OkStatus();
    });
  }

  void Run(int steps) {
    for (int i = 0; i < steps && !testing::Test::HasFailure(); ++i) {
      Step();
      world_.ExpectInvariants();
    }
  }

  // The guest is idle from here on, but for a block that it takes and frees, as
  // what is taken asks for no pass; and the device works.
  void ComeToRest() {
    fail_ = false;
    // The low mark is a block above the min mark; otherwise that block could
    // not be isolated.
    const PageCount min(random_.OneIn(2) ? random_.Below(200) : 0);
    for (const auto& zone : world_.allocator->zones()) {
      const PageCount low = min + world_.allocator->max_order().pages();
      zone->SetWatermarks({.min = min, .low = low, .high = low});
    }
    if (world_.granule > Order(0)) TakeAndFree(Order(4));
    world_.Run(seconds(60));
    world_.ExpectInvariants();
  }

  AdaptiveWorld& world() { return world_; }

 private:
  void Step() {
    switch (random_.Below(24)) {
      case 0:
        // The device refuses reports for a while, or is reset.
        if (random_.OneIn(2)) fail_ = !fail_;
        world_.time.RunFor(std::chrono::microseconds(random_.Below(200)));
        world_.FailReport();
        return;
      case 1:
        Watermark(PageCount(random_.OneIn(2) ? random_.Below(300) : 0));
        return;
      case 2:
        if (reregister_) world_.Disable();
        if (reregister_) world_.Enable();
        return;
      case 3:
        PlugOrUnplug();
        return;
      case 4:
        world_.Run(seconds(random_.Below(20)));
        return;
      case 5:
      case 6:
      case 7:
        world_.Run(milliseconds(random_.Below(1000)));
        return;
      default:
        break;
    }
    // Phases of mostly allocating and mostly freeing.
    if (blocks_.empty() ||
        random_.Below(64) < (++uses_ / 64 % 2 == 0 ? 44 : 20)) {
      const Order order(static_cast<int>(random_.Below(5)));
      if (const auto pfn = world_.Allocate(order)) {
        blocks_.emplace_back(*pfn, order);
      }
      return;
    }
    std::swap(blocks_[random_.Below(blocks_.size())], blocks_.back());
    world_.Free(blocks_.back().first, blocks_.back().second);
    blocks_.pop_back();
  }

  void TakeAndFree(Order order) {
    std::optional<Pfn> pfn = world_.Allocate(order);
    for (; !pfn && !blocks_.empty(); pfn = world_.Allocate(order)) {
      world_.Free(blocks_.back().first, blocks_.back().second);
      blocks_.pop_back();
    }
    if (pfn) world_.Free(*pfn, order);
  }

  void Watermark(PageCount mark) {
    for (const auto& zone : world_.allocator->zones()) {
      zone->SetWatermarks({.min = mark, .low = mark, .high = mark});
    }
  }

  void PlugOrUnplug() {
    if (!plugged_) {
      world_.AddOnline(kAdded, ZoneType::kNormal);
      Watermark(PageCount(0));
      plugged_ = true;
    } else if (world_.hotplug.Offline(kAdded).ok()) {
      ASSERT_EQ(world_.hotplug.Remove(kAdded), absl::OkStatus());
      // Memory that is added there later is new to the host.
      world_.NoteReports();
      for (Pfn at = kAdded.start; at < kAdded.end; at += PageCount(1)) {
        world_.has[at.value()] = false;
        world_.split[at.value()] = false;
      }
      plugged_ = false;
    }
  }

  AdaptiveWorld world_;
  Random random_;
  const bool reregister_;
  bool fail_ = false;
  bool plugged_ = false;
  int uses_ = 0;
  std::vector<std::pair<Pfn, Order>> blocks_;
};

constexpr int kSteps = 400;
constexpr uint64_t kSeeds = 40;

WorldOptions World(const AdaptiveOptions& policy, uint64_t seed) {
  WorldOptions options = AdaptiveOf(policy);
  options.section_order = kSection;
  options.hotplug_end = kAdded.end;
  options.seed = seed;
  return options;
}

const std::vector<AdaptiveOptions>& Policies() {
  static const std::vector<AdaptiveOptions> policies = {
      {.order = Order(3), .floor = Order(1)},
      {.order = Order(3), .floor = Order(0), .capacity = 2},
      {.order = Order(3), .floor = Order(3), .capacity = 1},
      {.order = Order(3), .floor = Order(1), .capacity = 2, .reports = 4},
      {.order = Order(3),
       .granule = Order(3),
       .floor = Order(0),
       .capacity = 3,
       .reports = 3},
      {.order = Order(3), .granule = Order(3), .floor = Order(3)},
      {.order = Order(4), .granule = Order(1), .floor = Order(2)},
      // These split the host's granules.
      {.order = Order(2), .granule = Order(4)},
      {.order = Order(3), .granule = Order(3), .floor = Order(0)},
      {.order = Order(3), .granule = Order(4), .floor = Order(1)},
      {.order = Order(4), .granule = Order(2), .floor = Order(0)},
      {.order = Order(0), .floor = Order(0)}};
  return policies;
}

class EveryAdaptivePolicyModelTest : public testing::TestWithParam<size_t> {
 protected:
  const AdaptiveOptions& policy() const { return Policies()[GetParam()]; }
};

INSTANTIATE_TEST_SUITE_P(Policies, EveryAdaptivePolicyModelTest,
                         testing::Range<size_t>(0, Policies().size()));

TEST_P(EveryAdaptivePolicyModelTest,
       AtRestAllIsWithTheHostAndNothingWasReportedTwice) {
  for (uint64_t seed = 1; seed <= kSeeds; ++seed) {
    SCOPED_TRACE(testing::Message() << "seed " << seed);
    Program program(World(policy(), seed), policy().granule, seed,
                    /*reregister=*/false);
    program.Run(kSteps);
    program.ComeToRest();
    AdaptiveWorld& world = program.world();
    ASSERT_EQ(world.FirstMissing(policy().order), std::nullopt);
    ASSERT_GT(world.reported, 0u);
    if (policy().granule == Order(0)) {
      ASSERT_EQ(world.reported, world.needed);
    }
  }
}

TEST_P(EveryAdaptivePolicyModelTest, NorDoesADriverThatComesAndGoesLoseAny) {
  for (uint64_t seed = 1; seed <= kSeeds; ++seed) {
    SCOPED_TRACE(testing::Message() << "seed " << seed);
    Program program(World(policy(), seed), policy().granule, seed,
                    /*reregister=*/true);
    program.Run(kSteps);
    program.ComeToRest();
    ASSERT_EQ(program.world().FirstMissing(policy().order), std::nullopt);
  }
}

TEST(AdaptivePolicyModelTest, PerCpuListsHideNothing) {
  for (uint64_t seed = 1; seed <= kSeeds; ++seed) {
    SCOPED_TRACE(testing::Message() << "seed " << seed);
    WorldOptions options = World(Policies().front(), seed);
    options.per_cpu_limits = {.batch = 4, .high = 12};
    Program program(options, Order(0), seed, /*reregister=*/true);
    program.Run(kSteps);
    program.ComeToRest();
    ASSERT_EQ(program.world().FirstMissing(Order(3)), std::nullopt);
  }
}

}  // namespace
}  // namespace guestmm::adaptive_policy_model_test
