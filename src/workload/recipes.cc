#include "guestmm/workload/recipes.h"

#include <algorithm>
#include <chrono>
#include <limits>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "guestmm/workload/build_workload.h"
#include "guestmm/workload/burst_workload.h"
#include "guestmm/workload/churn_workload.h"
#include "guestmm/workload/fragmenter_workload.h"
#include "guestmm/workload/idle_workload.h"
#include "guestmm/workload/interleaved_workload.h"
#include "guestmm/workload/page_cache_workload.h"
#include "guestmm/workload/page_fault1_workload.h"
#include "guestmm/workload/sandbox_workload.h"
#include "src/workload/draws.h"

namespace guestmm {
namespace {

constexpr int kForEver = std::numeric_limits<int>::max();

// Runs one burst after another without end, and idles after each.
class RepeatedBurst final : public Workload {
 public:
  RepeatedBurst(uint64_t bytes, Nanoseconds idle_time, Random random)
      : bytes_(bytes),
        idle_time_(idle_time),
        random_(random),
        burst_(std::in_place, bytes, random_.Next()),
        idle_(random_.Next()) {}

  std::optional<Nanoseconds> Step(Vcpu& vcpu) override {
    if (idle_left_ <= Nanoseconds(0)) {
      if (const auto quiet = burst_->Step(vcpu)) return quiet;
      done_ += burst_->work();
      burst_.emplace(bytes_, random_.Next());
      idle_left_ = idle_time_;
    }
    const Nanoseconds quiet = *idle_.Step(vcpu);
    if (!vcpu.blocked()) idle_left_ -= quiet;
    return quiet;
  }

  // Without what it touches while it idles.
  uint64_t work() const override { return done_ + burst_->work(); }

 private:
  const uint64_t bytes_;
  const Nanoseconds idle_time_;
  Random random_;
  std::optional<BurstWorkload> burst_;
  IdleWorkload idle_;
  Nanoseconds idle_left_{0};
  uint64_t done_ = 0;
};

// Runs `workload` without counting it as work.
class Uncounted final : public Workload {
 public:
  explicit Uncounted(std::unique_ptr<Workload> workload)
      : workload_(std::move(workload)) {}

  std::optional<Nanoseconds> Step(Vcpu& vcpu) override {
    return workload_->Step(vcpu);
  }
  uint64_t work() const override { return 0; }

 private:
  const std::unique_ptr<Workload> workload_;
};

// The load in which each vCPU runs a workload made by `make`.
template <typename Make>
GuestLoad OnEach(const BootedGuest& world, Make make) {
  GuestLoad load;
  for (size_t i = 0; i < world.vcpus.size(); ++i) {
    load.by_vcpu.push_back(make());
  }
  return load;
}

// The bytes that each vCPU has of `share` of the guest's memory.
uint64_t PerVcpu(const BootedGuest& world, double share) {
  return ShareOf(world.guest_bytes, share) / world.vcpus.size();
}

// A page cache that has read until it is full, or holds `share` of memory.
std::unique_ptr<Workload> FullPageCache(BootedGuest& world, double share) {
  auto cache = std::make_unique<PageCacheWorkload>(
      PageCacheOptions{.max_share = share}, world.allocator, world.vcpus);
  for (uint64_t before = ~uint64_t{0}; cache->work() != before;) {
    before = cache->work();
    cache->Step(*world.vcpus.front());
  }
  return cache;
}

GuestLoad PageFault1(BootedGuest& world, double cache_share,
                     Order order = Order(0)) {
  GuestLoad load = OnEach(world, [&] {
    return std::make_unique<PageFault1Workload>(
        PageFault1Options{.order = order});
  });
  if (cache_share > 0) load.bystander = FullPageCache(world, cache_share);
  return load;
}

GuestLoad Burst(BootedGuest& world) {
  return OnEach(world, [&] {
    return std::make_unique<RepeatedBurst>(
        PerVcpu(world, 0.8), std::chrono::seconds(15), world.random.Fork());
  });
}

GuestLoad Churn(BootedGuest& world) {
  return OnEach(world, [&] {
    return std::make_unique<ChurnWorkload>(
        ChurnOptions{.bytes = PerVcpu(world, 0.9), .fill = 0.7},
        world.random.Next());
  });
}

GuestLoad Fragmenter(BootedGuest& world) {
  return OnEach(world, [&] {
    return std::make_unique<FragmenterWorkload>(
        FragmenterOptions{.bytes = PerVcpu(world, 0.9)}, world.random.Next());
  });
}

// Bursts on each vCPU. Between its bursts vCPU 0 reads files, which does not
// count as work. The files are dropped after three quarters of the duration.
GuestLoad PageCache(BootedGuest& world) {
  GuestLoad load = OnEach(world, [&] {
    return std::make_unique<RepeatedBurst>(
        PerVcpu(world, 0.5), std::chrono::seconds(10), world.random.Fork());
  });
  std::vector<std::unique_ptr<Workload>> both;
  both.push_back(
      std::make_unique<Uncounted>(std::make_unique<PageCacheWorkload>(
          PageCacheOptions{.drop_after = world.duration / 4 * 3},
          world.allocator, world.vcpus)));
  both.push_back(std::move(load.by_vcpu.front()));
  load.by_vcpu.front() = std::make_unique<InterleavedWorkload>(std::move(both));
  return load;
}

GuestLoad Build(BootedGuest& world) {
  // The size of processes follows the guest's memory, as the number of parallel
  // jobs does in practice.
  const uint64_t largest = PerVcpu(world, 0.2);
  return OnEach(world, [&] {
    return std::make_unique<BuildWorkload>(
        BuildOptions{.phases = kForEver,
                     .min_process_bytes = std::min(4 * kMiB, largest),
                     .max_process_bytes = largest,
                     .max_kernel_bytes = PerVcpu(world, 0.05),
                     .max_file_bytes = PerVcpu(world, 0.2)},
        world.random.Next());
  });
}

GuestLoad Sandbox(BootedGuest& world) {
  return OnEach(world, [&] {
    return std::make_unique<SandboxWorkload>(
        SandboxOptions{.bytes = PerVcpu(world, 0.95)}, world.random.Next());
  });
}

// Adds page_fault1 in one set-up: without, with a small and with a large page
// cache.
void AddPageFault1(std::vector<WorkloadRecipe>& recipes, WorkloadInfo base) {
  const std::string name = base.name;
  const std::string description = base.description;
  base.description = description + "; no page cache";
  recipes.push_back({base, [](BootedGuest& w) { return PageFault1(w, 0); }});
  base.by_default = false;
  base.name = name + "-small-cache";
  base.description = description + "; 10 % is page cache";
  recipes.push_back({base, [](BootedGuest& w) { return PageFault1(w, 0.1); }});
  base.name = name + "-large-cache";
  base.description = description + "; 70 % is page cache";
  recipes.push_back({base, [](BootedGuest& w) { return PageFault1(w, 0.7); }});
}

std::vector<WorkloadRecipe> MakeRecipes() {
  std::vector<WorkloadRecipe> recipes;
  AddPageFault1(recipes,
                {.name = "page_fault1",
                 .description = "will-it-scale's, one task per vCPU: maps 128 "
                                "MiB, touches it, unmaps it",
                 .guest_bytes = 2 * kGiB,
                 .vcpus = 2,
                 .duration_seconds = 16,
                 .warmup_seconds = 6});
  recipes.push_back({{.name = "page_fault1-thp",
                      .description = "page_fault1 with huge pages in the guest",
                      .guest_bytes = 2 * kGiB,
                      .vcpus = 2,
                      .duration_seconds = 16,
                      .warmup_seconds = 6},
                     [](BootedGuest& world) {
                       return PageFault1(world, 0, kPageblockOrder);
                     }});
  // Simulating a second of 24 tasks takes several, so warm-up and measurement
  // are shorter than they would be on a real machine.
  AddPageFault1(
      recipes, {.name = "page_fault1-30g",
                .description = "page_fault1 on 30 GiB, 24 vCPUs, one node; 3 s "
                               "warm-up, 5 s measured",
                .guest_bytes = 30 * kGiB,
                .vcpus = 24,
                .duration_seconds = 8,
                .warmup_seconds = 3,
                .by_default = false});
  AddPageFault1(recipes, {.name = "page_fault1-60g",
                          .description =
                              "page_fault1 on 60 GiB, 24 vCPUs, two nodes; 3 s "
                              "warm-up, 5 s measured",
                          .guest_bytes = 60 * kGiB,
                          .nodes = 2,
                          .vcpus = 24,
                          .duration_seconds = 8,
                          .warmup_seconds = 3,
                          .by_default = false});
  recipes.push_back({{.name = "burst",
                      .description = "grows to 80 % of memory and frees it, "
                                     "every 15 s; idles between",
                      .guest_bytes = 2 * kGiB,
                      .vcpus = 2,
                      .duration_seconds = 60},
                     Burst});
  recipes.push_back({{.name = "churn",
                      .description = "allocates and frees blocks of all orders "
                                     "at random, at 63 % of memory",
                      .guest_bytes = 2 * kGiB,
                      .vcpus = 2,
                      .duration_seconds = 30},
                     Churn});
  recipes.push_back(
      {{.name = "fragmenter",
        .description = "fills 90 % of memory and frees all but one page in "
                       "400, then idles",
        .guest_bytes = 2 * kGiB,
        .vcpus = 2,
        .duration_seconds = 60},
       Fragmenter});
  recipes.push_back(
      {{.name = "page_cache",
        .description = "page cache fills what bursts of half of memory leave, "
                       "and is dropped at three quarters of the time",
        .guest_bytes = 2 * kGiB,
        .vcpus = 2,
        .duration_seconds = 80},
       PageCache});
  recipes.push_back({{.name = "build",
                      .description = "waves of 40 short-lived processes "
                                     "a vCPU, 20 s of quiet between",
                      .guest_bytes = 2 * kGiB,
                      .vcpus = 2,
                      .duration_seconds = 150},
                     Build});
  recipes.push_back({{.name = "sandbox",
                      .description = "seconds of work near the limit of "
                                     "memory, then 30 to 90 s of idling",
                      .guest_bytes = kGiB,
                      .vcpus = 1,
                      .duration_seconds = 300},
                     Sandbox});
  return recipes;
}

}  // namespace

uint64_t GuestLoad::work() const {
  uint64_t sum = 0;
  for (const std::unique_ptr<Workload>& workload : by_vcpu) {
    if (workload != nullptr) sum += workload->work();
  }
  return sum;
}

const std::vector<WorkloadRecipe>& WorkloadRecipes() {
  static const auto& recipes = *new std::vector<WorkloadRecipe>(MakeRecipes());
  return recipes;
}

std::vector<WorkloadInfo> WorkloadInfos() {
  std::vector<WorkloadInfo> workloads;
  for (const WorkloadRecipe& recipe : WorkloadRecipes()) {
    workloads.push_back(recipe.workload);
  }
  return workloads;
}

}  // namespace guestmm
