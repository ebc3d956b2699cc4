#include "src/sim/compare_workloads.h"

#include <algorithm>
#include <chrono>
#include <limits>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "guestmm/sim/build_workload.h"
#include "guestmm/sim/burst_workload.h"
#include "guestmm/sim/churn_workload.h"
#include "guestmm/sim/fragmenter_workload.h"
#include "guestmm/sim/guest.h"
#include "guestmm/sim/idle_workload.h"
#include "guestmm/sim/page_cache_workload.h"
#include "guestmm/sim/page_fault1_workload.h"
#include "guestmm/sim/sandbox_workload.h"
#include "guestmm/sim/together.h"
#include "src/sim/draws.h"

namespace guestmm {
namespace {

constexpr int kForEver = std::numeric_limits<int>::max();

// Bursts, for ever, and idles after each.
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
    idle_left_ -= quiet;
    return quiet;
  }

  // What it touches while it idles is none.
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

// Does what `workload` does, but it is not what the guest is there for: it does
// not count as work.
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

std::vector<Vcpu*> Pointers(std::span<const std::unique_ptr<Vcpu>> vcpus) {
  std::vector<Vcpu*> pointers;
  for (const std::unique_ptr<Vcpu>& vcpu : vcpus) {
    pointers.push_back(vcpu.get());
  }
  return pointers;
}

// One workload for each vCPU, made by `make()`.
template <typename Make>
CompareLoad OnEach(const CompareWorld& world, Make make) {
  CompareLoad load;
  for (size_t i = 0; i < world.vcpus.size(); ++i) {
    load.by_vcpu.push_back(make());
  }
  return load;
}

// `share` of the guest's memory, divided among its vCPUs.
uint64_t PerVcpu(const CompareWorld& world, double share) {
  return ShareOf(world.guest_bytes, share) / world.vcpus.size();
}

// A page cache of that share of memory, full.
std::unique_ptr<Workload> FullPageCache(CompareWorld& world, double share) {
  auto cache = std::make_unique<PageCacheWorkload>(
      PageCacheOptions{.max_share = share}, world.allocator,
      Pointers(world.vcpus));
  for (uint64_t before = ~uint64_t{0}; cache->work() != before;) {
    before = cache->work();
    cache->Step(*world.vcpus.front());
  }
  return cache;
}

CompareLoad PageFault1(CompareWorld& world, double cache_share,
                       Order order = Order(0)) {
  CompareLoad load = OnEach(world, [&] {
    return std::make_unique<PageFault1Workload>(
        PageFault1Options{.order = order});
  });
  if (cache_share > 0) load.bystander = FullPageCache(world, cache_share);
  return load;
}

CompareLoad Burst(CompareWorld& world) {
  return OnEach(world, [&] {
    return std::make_unique<RepeatedBurst>(
        PerVcpu(world, 0.8), std::chrono::seconds(15), world.random.Fork());
  });
}

CompareLoad Churn(CompareWorld& world) {
  return OnEach(world, [&] {
    return std::make_unique<ChurnWorkload>(
        ChurnOptions{.bytes = PerVcpu(world, 0.9), .fill = 0.7},
        world.random.Next());
  });
}

CompareLoad Fragmenter(CompareWorld& world) {
  return OnEach(world, [&] {
    return std::make_unique<FragmenterWorkload>(
        FragmenterOptions{.bytes = PerVcpu(world, 0.9)}, world.random.Next());
  });
}

// Bursts; between its own, one vCPU reads files, which does not count as work.
// In the end the files are dropped.
CompareLoad PageCache(CompareWorld& world) {
  CompareLoad load = OnEach(world, [&] {
    return std::make_unique<RepeatedBurst>(
        PerVcpu(world, 0.5), std::chrono::seconds(10), world.random.Fork());
  });
  std::vector<std::unique_ptr<Workload>> both;
  both.push_back(
      std::make_unique<Uncounted>(std::make_unique<PageCacheWorkload>(
          PageCacheOptions{.drop_after = world.duration / 4 * 3},
          world.allocator, Pointers(world.vcpus))));
  both.push_back(std::move(load.by_vcpu.front()));
  load.by_vcpu.front() = std::make_unique<Together>(std::move(both));
  return load;
}

CompareLoad Build(CompareWorld& world) {
  // What a process grows to follows the guest's memory, as the number of
  // parallel jobs does in life.
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

CompareLoad Sandbox(CompareWorld& world) {
  return OnEach(world, [&] {
    return std::make_unique<SandboxWorkload>(
        SandboxOptions{.bytes = PerVcpu(world, 0.95)}, world.random.Next());
  });
}

// page_fault1 in one set-up, with no, a small and a large page cache.
void AddPageFault1(std::vector<CompareRecipe>& recipes, CompareWorkload base) {
  const std::string name = base.name;
  const std::string description = base.description;
  base.description = description + "; no page cache";
  recipes.push_back({base, [](CompareWorld& w) { return PageFault1(w, 0); }});
  base.by_default = false;
  base.name = name + "-small-cache";
  base.description = description + "; 10 % is page cache";
  recipes.push_back({base, [](CompareWorld& w) { return PageFault1(w, 0.1); }});
  base.name = name + "-large-cache";
  base.description = description + "; 70 % is page cache";
  recipes.push_back({base, [](CompareWorld& w) { return PageFault1(w, 0.7); }});
}

std::vector<CompareRecipe> MakeRecipes() {
  std::vector<CompareRecipe> recipes;
  AddPageFault1(
      recipes, {.name = "page_fault1",
                .description = "will-it-scale's, a task for each vCPU: map 128 "
                               "MiB, touch, unmap",
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
                     [](CompareWorld& world) {
                       return PageFault1(world, 0, kPageblockOrder);
                     }});
  // 24 tasks make a second in virtual time as long as several real ones, so
  // both warm-up and samples are shorter than a person would have them.
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
        .description = "files fill what bursts of half of memory leave, and "
                       "are dropped after three quarters of the time",
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

uint64_t CompareLoad::work() const {
  uint64_t sum = 0;
  for (const std::unique_ptr<Workload>& workload : by_vcpu) {
    if (workload != nullptr) sum += workload->work();
  }
  return sum;
}

const std::vector<CompareRecipe>& CompareRecipes() {
  static const auto& recipes = *new std::vector<CompareRecipe>(MakeRecipes());
  return recipes;
}

std::vector<CompareWorkload> CompareWorkloads() {
  std::vector<CompareWorkload> workloads;
  for (const CompareRecipe& recipe : CompareRecipes()) {
    workloads.push_back(recipe.workload);
  }
  return workloads;
}

std::vector<MemoryRange> CompareMemory(uint64_t bytes, uint64_t nodes) {
  std::vector<MemoryRange> memory;
  const uint64_t each =
      bytes / nodes / kPageblockOrder.bytes() * kPageblockOrder.bytes();
  int node = 0;
  uint64_t left = each;  // of the node's
  for (GpaRange range : Guest::MemoryMap(bytes)) {
    while (range.bytes > 0) {
      const bool last = static_cast<uint64_t>(node) + 1 == nodes;
      const uint64_t part = last ? range.bytes : std::min(range.bytes, left);
      memory.push_back({.start = ToPfn(range.gpa),
                        .end = ToPfn(range.gpa + part),
                        .node = node});
      range = {.gpa = range.gpa + part, .bytes = range.bytes - part};
      left -= std::min(left, part);
      if (left == 0 && !last) {
        ++node;
        left = each;
      }
    }
  }
  return memory;
}

}  // namespace guestmm
