// What guestmm's policy promises, over random programs: at rest all that can be
// reported is with the host, and nothing was reported that the host had.

#include <gtest/gtest.h>

#include <chrono>
#include <cstdint>
#include <utility>
#include <vector>

#include "guestmm/base/random.h"
#include "tests/testing/guestmm_world.h"

namespace guestmm::guestmm_policy_model_test {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr Order kSection{6};
constexpr PfnRange kAdded = {.start = Pfn(512), .end = Pfn(576)};

// A guest's life: takes, frees, is idle; its zones run low, its device fails,
// its driver is removed and comes back, its memory grows and shrinks.
class Program {
 public:
  Program(const GuestmmWorldOptions& options, uint64_t seed, bool reregister)
      : world_(options), random_(seed), reregister_(reregister) {
    world_.device.set_answer([this](std::span<const GpaRange>) {
      return fail_ ? absl::UnavailableError("full") : absl::OkStatus();
    });
  }

  void Run(int steps) {
    for (int i = 0; i < steps && !testing::Test::HasFatalFailure(); ++i) {
      Step();
      world_.ExpectInvariants();
    }
  }

  // A guest that does nothing more, and a host that works.
  void ComeToRest() {
    fail_ = false;
    Watermark(PageCount(0));
    world_.Run(seconds(60));
    world_.ExpectInvariants();
  }

  GuestmmWorld& world() { return world_; }

 private:
  void Step() {
    switch (random_.Below(24)) {
      case 0:
        fail_ = !fail_;
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
    // More is taken than freed for a while, and then less.
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

  void Watermark(PageCount mark) {
    for (const auto& zone : world_.allocator->zones()) {
      zone->SetWatermarks({.min = mark, .low = mark, .high = mark});
    }
  }

  void PlugOrUnplug() {
    if (!plugged_) {
      ASSERT_EQ(world_.hotplug.Add(kAdded, /*node=*/0), absl::OkStatus());
      ASSERT_EQ(world_.hotplug.Online(kAdded, ZoneType::kNormal),
                absl::OkStatus());
      Watermark(PageCount(0));
      plugged_ = true;
    } else if (world_.hotplug.Offline(kAdded).ok()) {
      ASSERT_EQ(world_.hotplug.Remove(kAdded), absl::OkStatus());
      // What comes there later is new to the host.
      world_.NoteReports();
      for (Pfn at = kAdded.start; at < kAdded.end; at += PageCount(1)) {
        world_.has[at.value()] = false;
      }
      plugged_ = false;
    }
  }

  GuestmmWorld world_;
  Random random_;
  const bool reregister_;
  bool fail_ = false;
  bool plugged_ = false;
  int uses_ = 0;
  std::vector<std::pair<Pfn, Order>> blocks_;
};

constexpr int kSteps = 400;
constexpr uint64_t kSeeds = 40;

GuestmmWorldOptions World(const GuestmmOptions& policy, uint64_t seed) {
  return {.policy = policy,
          .section_order = kSection,
          .hotplug_end = kAdded.end,
          .seed = seed};
}

const std::vector<GuestmmOptions>& Policies() {
  static const std::vector<GuestmmOptions> policies = {
      {.order = Order(3), .floor = Order(1)},
      {.order = Order(3), .floor = Order(0), .capacity = 2},
      {.order = Order(3), .floor = Order(3), .capacity = 1},
      {.order = Order(3), .granule = Order(3), .floor = Order(3)},
      {.order = Order(4), .granule = Order(1), .floor = Order(2)},
      {.order = Order(0), .floor = Order(0)}};
  return policies;
}

TEST(GuestmmPolicyModelTest, AtRestAllIsWithTheHostAndNothingWasReportedTwice) {
  for (const GuestmmOptions& policy : Policies()) {
    for (uint64_t seed = 1; seed <= kSeeds; ++seed) {
      SCOPED_TRACE(testing::Message()
                   << "order " << policy.order.value() << ", seed " << seed);
      Program program(World(policy, seed), seed, /*reregister=*/false);
      program.Run(kSteps);
      program.ComeToRest();
      GuestmmWorld& world = program.world();
      ASSERT_EQ(world.FirstMissing(policy.order), std::nullopt);
      ASSERT_GT(world.reported, 0u);
      if (policy.granule == Order(0)) {
        ASSERT_EQ(world.reported, world.needed);
      }
    }
  }
}

TEST(GuestmmPolicyModelTest, NorDoesADriverThatComesAndGoesLoseAny) {
  for (const GuestmmOptions& policy : Policies()) {
    for (uint64_t seed = 1; seed <= kSeeds; ++seed) {
      SCOPED_TRACE(testing::Message()
                   << "order " << policy.order.value() << ", seed " << seed);
      Program program(World(policy, seed), seed, /*reregister=*/true);
      program.Run(kSteps);
      program.ComeToRest();
      ASSERT_EQ(program.world().FirstMissing(policy.order), std::nullopt);
    }
  }
}

TEST(GuestmmPolicyModelTest, PerCpuListsHideNothing) {
  for (uint64_t seed = 1; seed <= kSeeds; ++seed) {
    SCOPED_TRACE(testing::Message() << "seed " << seed);
    GuestmmWorldOptions options = World(Policies().front(), seed);
    options.per_cpu_limits = {.batch = 4, .high = 12};
    Program program(options, seed, /*reregister=*/true);
    program.Run(kSteps);
    program.ComeToRest();
    ASSERT_EQ(program.world().FirstMissing(Order(3)), std::nullopt);
  }
}

}  // namespace
}  // namespace guestmm::guestmm_policy_model_test
