#ifndef GUESTMM_TESTS_TESTING_HOTPLUG_CHURN_H_
#define GUESTMM_TESTS_TESTING_HOTPLUG_CHURN_H_

// vCPUs on their own threads that allocate and free, while memory is hotplugged
// and a reporter has blocks in flight. Also for ThreadSanitizer: owners write
// to their pages without synchronization other than the allocator's locks.
//
//   RunHotplugChurn({.go_on = [](uint64_t step) { return step < 10'000; },
//                    .make_reporter = MakeBlockReporter});

#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <iterator>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "guestmm/base/lock.h"
#include "guestmm/base/random.h"
#include "guestmm/base/thread_workqueue.h"
#include "guestmm/buddy/free_block_observer.h"
#include "guestmm/buddy/isolated_block.h"
#include "guestmm/buddy/page_allocator.h"
#include "guestmm/mm/migrate/memory_hotplug.h"
#include "tests/testing/page_owners.h"

namespace guestmm {

// The reporter while the vCPUs run: made when they start, destroyed after they
// end. It works on `queue` and must own the pages that it isolates.
class ChurnReporter {
 public:
  virtual ~ChurnReporter() = default;
  // Batches reported and returned.
  virtual uint64_t batches() const = 0;
};
using MakeChurnReporter = std::function<std::unique_ptr<ChurnReporter>(
    PageAllocator& allocator, Workqueue& queue, PageOwners& owners)>;

// A minimal reporter: isolates some free blocks and returns them when it runs
// next.
class BlockReporter final : public ChurnReporter, private FreeBlockObserver {
 public:
  BlockReporter(PageAllocator& allocator, Workqueue& queue, PageOwners& owners)
      : allocator_(allocator),
        queue_(queue),
        owners_(owners),
        random_(100),
        work_([this] { Run(); }) {
    allocator_.SetObserver(this, Order(2));
  }
  ~BlockReporter() override {
    allocator_.SetObserver(nullptr);
    queue_.CancelSync(work_);
    ReturnBatch();
  }

  uint64_t batches() const override { return batches_.load(); }

 private:
  bool OnBlockFreed(Zone& zone, Pfn pfn, Order order) override {
    // Under the zone's lock the block is as notified.
    GUESTMM_CHECK(allocator_.pages().IsFree(pfn, order));
    GUESTMM_CHECK(allocator_.pages().pageblock(pfn).zone == zone.index());
    return true;
  }
  void Wake() override { queue_.Queue(work_); }

  void Run() {
    if (!batch_.empty()) {
      ReturnBatch();
    } else {
      for (const std::unique_ptr<Zone>& zone : allocator_.zones()) {
        IsolateSome(*zone);
      }
    }
    // Waiting for the batch must not depend on another free.
    if (!batch_.empty()) queue_.Queue(work_);
  }
  void IsolateSome(Zone& zone) {
    const Order order(static_cast<int>(random_.Between(1, 5)));
    const size_t before = batch_.size();
    {
      LockHolder hold(zone.lock());
      std::vector<Pfn> free;
      for (int type = 0; type < kRequestTypes; ++type) {
        zone.ForEachFreeBlock(order, static_cast<MigrateType>(type),
                              [&](Pfn pfn) { free.push_back(pfn); });
      }
      for (const Pfn pfn : free) {
        if (batch_.size() == before + 4) break;
        if (auto block = zone.Isolate(pfn)) {
          batch_.push_back(*std::move(block));
        }
      }
    }
    for (size_t i = before; i < batch_.size(); ++i) {
      owners_.Take(batch_[i].pfn(), batch_[i].order(), PageOwners::kReporter);
    }
  }
  void ReturnBatch() {
    if (batch_.empty()) return;
    for (IsolatedBlock& block : batch_) {
      owners_.Give(block.pfn(), block.order(), PageOwners::kReporter);
      Zone& zone = block.zone();
      LockHolder hold(zone.lock());
      zone.Return(std::move(block));
    }
    batch_.clear();
    batches_.fetch_add(1);
  }

  PageAllocator& allocator_;
  Workqueue& queue_;
  PageOwners& owners_;
  Random random_;
  std::vector<IsolatedBlock> batch_;
  std::atomic<uint64_t> batches_{0};
  Work work_;
};

inline std::unique_ptr<ChurnReporter> MakeBlockReporter(
    PageAllocator& allocator, Workqueue& queue, PageOwners& owners) {
  return std::make_unique<BlockReporter>(allocator, queue, owners);
}

// Outcomes.
struct HotplugChurnCounts {
  uint64_t onlined = 0;
  uint64_t offlined = 0;
  uint64_t removed = 0;
  uint64_t refused = 0;  // because a page was in use
  uint64_t batches = 0;

  bool Reaches(const HotplugChurnCounts& other) const {
    return onlined >= other.onlined && offlined >= other.offlined &&
           removed >= other.removed && refused >= other.refused &&
           batches >= other.batches;
  }
};

struct HotplugChurnOptions {
  // Whether a vCPU goes on to its `step`th step. Called on its thread.
  std::function<bool(uint64_t step)> go_on;
  // The vCPUs run on until all of this has happened, up to a limit.
  HotplugChurnCounts at_least = {};
  MakeChurnReporter make_reporter = MakeBlockReporter;
  KernelVersion per_cpu_lists = KernelVersion::kV5_3;
  uint64_t seed = 1;
};

// Two nodes of two memory blocks of 64 pages at boot, and space for 12 more.
class HotplugChurn {
 public:
  explicit HotplugChurn(const HotplugChurnOptions& options)
      : options_(options),
        allocator_(
            PageAllocator::Create(
                {.memory = {{Start(0), Start(2), 0}, {Start(2), Start(4), 1}},
                 .hotplug_end = Start(kSections),
                 .cpus = kCpus,
                 .cpu_nodes = {0, 1, 1},
                 .max_order = Order(5),
                 .pageblock_order = Order(4),
                 .section_order = kSection,
                 .min_free_kbytes = 16,
                 .per_cpu_lists = options.per_cpu_lists,
                 .per_cpu_limits = PerCpuLimits{.batch = 5, .high = 12}})
                .value()),
        owners_(Start(0), Start(kSections)),
        hotplug_(*allocator_, nullptr, &queue_) {}

  HotplugChurnCounts Run() {
    std::unique_ptr<ChurnReporter> reporter =
        options_.make_reporter(*allocator_, queue_, owners_);
    std::atomic<int> running{kCpus};
    std::vector<std::thread> threads;
    for (int cpu = 0; cpu < kCpus; ++cpu) {
      threads.emplace_back([this, cpu, &running] {
        RunVcpu(cpu);
        running.fetch_sub(1);
      });
    }
    // An observer thread: counts and invariants must be valid at any time.
    threads.emplace_back([this, &running] {
      for (uint64_t round = 0; running.load() > 0; ++round) {
        static_cast<void>(allocator_->Counts());
        // Differences of counts that change concurrently: never below zero.
        const VmStat stat = allocator_->vmstat();
        EXPECT_LT(stat.numa_hit, uint64_t{1} << 63);
        EXPECT_LT(stat.numa_local, uint64_t{1} << 63);
        EXPECT_LT(stat.pgfree, uint64_t{1} << 63);
        static_cast<void>(hotplug_.StateOf(Start(3)));
        if (round % 16 == 0) allocator_->DrainPerCpuPages();
        EXPECT_EQ(allocator_->CheckInvariants(), absl::OkStatus());
        std::this_thread::yield();
      }
    });
    Random random(options_.seed * 1000);
    while (running.load() > 0) {
      Hotplug(random);
      counts_.batches = reporter->batches();
      if (counts_.Reaches(options_.at_least)) enough_.store(true);
    }
    for (std::thread& thread : threads) thread.join();

    for (BlockExchange& exchange : exchanges_) {
      if (const auto left = exchange.Take()) {
        allocator_->Free(0, left->pfn, left->order);
      }
    }
    counts_.batches = reporter->batches();
    reporter.reset();
    allocator_->DrainPerCpuPages();
    EXPECT_FALSE(owners_.handed_out_twice());
    EXPECT_EQ(allocator_->CheckInvariants(), absl::OkStatus());
    EXPECT_EQ(allocator_->Counts().free, allocator_->Counts().managed);
    return counts_;
  }

 private:
  static constexpr int kCpus = 3;
  static constexpr uint64_t kSections = 16;
  static constexpr Order kSection{6};
  // Steps of a vCPU that waits for the outcomes.
  static constexpr uint64_t kMostSteps = 10'000'000;

  static Pfn Start(uint64_t section) {
    return Pfn(1048576) + kSection.pages() * section;
  }

  // Acts as a program on `cpu`: allocates blocks of several kinds, uses them,
  // and frees blocks that it allocated or was handed. Its demand rises and
  // falls.
  void RunVcpu(int cpu) {
    constexpr Gfp kKinds[] = {kGfpUser,   kGfpUser,        kGfpUser,
                              kGfpKernel, kGfpReclaimable, kGfpAtomic};
    Random random(options_.seed + static_cast<uint64_t>(cpu) * 100);
    std::vector<Block> live;
    size_t most = 30;
    for (uint64_t step = 0;
         options_.go_on(step) || (!enough_.load() && step < kMostSteps);
         ++step) {
      if (random.OneIn(1000)) most = random.Between(0, 60);
      if (live.size() < most && random.OneIn(2)) {
        const Order order(random.OneIn(3) ? static_cast<int>(random.Below(5))
                                          : 0);
        Gfp gfp = kKinds[random.Below(std::size(kKinds))];
        if (random.OneIn(8)) {
          gfp = gfp.PreferablyFrom(static_cast<int>(random.Below(2)));
        }
        const std::optional<Pfn> pfn = allocator_->Allocate(cpu, order, gfp);
        if (!pfn) continue;
        owners_.Take(*pfn, order, cpu);
        if (random.OneIn(16)) {
          // A device pins it for a moment.
          allocator_->Pin(*pfn);
          allocator_->Unpin(cpu, *pfn);
        }
        live.push_back({*pfn, order});
      } else if (!live.empty()) {
        std::swap(live[random.Below(live.size())], live.back());
        Block block = live.back();
        live.pop_back();
        owners_.Give(block.pfn, block.order, cpu);
        if (random.OneIn(4)) {
          const std::optional<Block> other =
              exchanges_[random.Below(exchanges_.size())].Swap(block);
          if (!other) continue;
          block = *other;
        }
        allocator_->Free(cpu, block.pfn, block.order);
      }
    }
    for (const Block& block : live) {
      owners_.Give(block.pfn, block.order, cpu);
      allocator_->Free(cpu, block.pfn, block.order);
    }
  }

  // One operation on one memory block. There are no concurrent ones, so only
  // pages in use can make it fail.
  void Hotplug(Random& random) {
    const uint64_t number = random.Below(kSections);
    const PfnRange range = {Start(number), Start(number + 1)};
    const std::string_view state = hotplug_.StateOf(range.start);
    if (state == "absent") {
      EXPECT_EQ(hotplug_.Add(range, static_cast<int>(random.Below(2))),
                absl::OkStatus());
    } else if (state == "offline" && random.OneIn(4)) {
      EXPECT_EQ(hotplug_.Remove(range), absl::OkStatus());
      ++counts_.removed;
    } else if (state == "offline") {
      EXPECT_EQ(hotplug_.Online(range, random.OneIn(2) ? ZoneType::kMovable
                                                       : ZoneType::kNormal),
                absl::OkStatus());
      ++counts_.onlined;
    } else {
      const absl::Status status = hotplug_.Offline(range);
      ++(status.ok() ? counts_.offlined : counts_.refused);
      if (!status.ok()) {
        EXPECT_NE(std::string(status.message()).find("is in use: allocated"),
                  std::string::npos)
            << status;
      }
    }
  }

  const HotplugChurnOptions options_;
  std::unique_ptr<PageAllocator> allocator_;
  PageOwners owners_;
  ThreadWorkqueue queue_;
  MemoryHotplug hotplug_;
  std::array<BlockExchange, 2> exchanges_;
  std::atomic<bool> enough_{false};
  HotplugChurnCounts counts_;
};

inline HotplugChurnCounts RunHotplugChurn(const HotplugChurnOptions& options) {
  return HotplugChurn(options).Run();
}

}  // namespace guestmm

#endif  // GUESTMM_TESTS_TESTING_HOTPLUG_CHURN_H_
