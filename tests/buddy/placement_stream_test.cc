// One long random stream of operations, with a hash over every page that it was
// given and over the free lists that it left. The model tests compare small
// worlds step by step; here a change of the allocator's data structures that
// moves one page in half a million operations is found.
//
// The numbers change only if the placement changes on purpose.

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cstdint>
#include <deque>
#include <latch>
#include <memory>
#include <optional>
#include <ostream>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "guestmm/base/lock.h"
#include "guestmm/base/random.h"
#include "guestmm/buddy/isolated_block.h"
#include "guestmm/buddy/page_allocator.h"
#include "guestmm/mm/migrate/memory_hotplug.h"

namespace guestmm {
namespace {

enum class Locks {
  kOwned,  // by the thread that runs the stream
  kSpin,   // other threads have taken them too often for that
};

struct Stream {
  KernelVersion version;
  Locks locks;
  uint64_t hash;
};

std::ostream& operator<<(std::ostream& os, const Stream& stream) {
  return os << static_cast<int>(stream.version) << ", "
            << (stream.locks == Locks::kOwned ? "owned" : "spin");
}

class StreamRun {
 public:
  StreamRun(KernelVersion version, Locks locks)
      : allocator_(
            PageAllocator::Create({.memory = {{kStart, kStart + kSections * 2}},
                                   .hotplug_end = kStart + kSections * 4,
                                   .cpus = kCpus,
                                   .per_cpu_lists = version,
                                   .placement = {.rules = version}})
                .value()),
        hotplug_(*allocator_) {
    if (locks == Locks::kSpin) TakeLocksFromManyThreads();
  }
  ~StreamRun() {
    may_end_.count_down();
    for (std::thread& thread : threads_) thread.join();
  }
  StreamRun(const StreamRun&) = delete;
  StreamRun& operator=(const StreamRun&) = delete;

  uint64_t Run() {
    constexpr int kSteps = 400'000;
    for (int step = 0; step < kSteps; ++step) {
      if (step % 5'000 == 0) {
        if (random_.OneIn(4)) FreeAll();
        MoveSection();
        ChooseTarget();
      }
      Step();
    }
    while (!isolated_.empty()) Return();
    EXPECT_EQ(allocator_->CheckInvariants(), absl::OkStatus());
    for (const std::unique_ptr<Zone>& zone : allocator_->zones()) {
      LockHolder hold(zone->lock());
      for (int order = 0; order <= kMaxOrder.value(); ++order) {
        for (int type = 0; type < kMigrateTypes; ++type) {
          zone->ForEachFreeBlock(Order(order), static_cast<MigrateType>(type),
                                 [this](Pfn pfn) { Note(pfn.value()); });
        }
      }
    }
    return hash_;
  }

 private:
  // Zones DMA32 and Normal, of one section each, and room for two more.
  static constexpr PageCount kSections = kSectionOrder.pages();
  static constexpr Pfn kStart{(4 * kGiB / kPageSize) - kSections.value()};
  static constexpr int kCpus = 3;

  struct Live {
    Pfn pfn;
    Order order;
    int pins = 0;
  };

  void TakeLocksFromManyThreads() {
    for (uint32_t i = 0; i <= BiasedLock::kMaxOwners; ++i) {
      std::latch taken(1);
      threads_.emplace_back([this, &taken] {
        for (const std::unique_ptr<Zone>& zone : allocator_->zones()) {
          { LockHolder hold(zone->lock()); }
          for (int cpu = 0; cpu < kCpus; ++cpu) {
            LockHolder hold(allocator_->per_cpu_pages(cpu, *zone).lock());
          }
        }
        taken.count_down();
        may_end_.wait();
      });
      taken.wait();
    }
    EXPECT_FALSE(allocator_->zones().front()->lock().biased());
  }

  void Note(uint64_t value) { hash_ = Mix(hash_, value, 0); }

  // Full, empty, or something in between.
  void ChooseTarget() {
    const PageCounts counts = allocator_->Counts();
    Note(counts.free.value());
    Note(counts.cached.value());
    const uint64_t all = counts.managed.value();
    target_ = all * random_.Below(10) / 8;
    largest_ = static_cast<int>(random_.Below(kMaxOrder.bits() + 1));
    type_ =
        random_.OneIn(2) ? -1 : static_cast<int>(random_.Below(kRequestTypes));
  }

  void Step() {
    const uint64_t what = random_.Below(4'000);
    const int cpu = static_cast<int>(random_.Below(kCpus));
    switch (what) {
      case 0:
        return allocator_->DrainPerCpuPages();
      case 1:
        return allocator_->RefreshPerCpuPages(cpu);
      case 2:
        return MoveSection();
      case 3:
        return ReturnOldest();
      default:
        break;
    }
    if (what < 20) return AllocateAt();
    if (what < 60) return Isolate();
    if (what < 100) return Return();
    if (what < 120) return PinOrUnpin(cpu);
    // Runs, so that lists fill and empty.
    if (random_.OneIn(64)) freeing_ = random_.OneIn(2);
    const bool full = used_ >= target_;
    if (full != freeing_ && random_.OneIn(4)) freeing_ = full;
    freeing_ ? Free(cpu) : Allocate(cpu);
  }

  void Allocate(int cpu) {
    const Order order(std::min(
        {std::countr_zero(random_.Next()), largest_, kMaxOrder.value()}));
    Gfp gfp = random_.OneIn(8) ? kGfpKernel : kGfpUser;
    gfp.type = static_cast<MigrateType>(
        type_ >= 0 ? type_ : static_cast<int>(random_.Below(kRequestTypes)));
    const std::optional<Pfn> pfn = allocator_->Allocate(cpu, order, gfp);
    Note(pfn ? pfn->value() : ~uint64_t{0});
    if (!pfn) {
      target_ /= 2;
      return;
    }
    Add(*pfn, order);
  }

  void AllocateAt() {
    const Order order(static_cast<int>(random_.Below(kMaxOrder.bits() + 1)));
    const Pfn pfn = Pfn(kStart.value() + random_.Below(4 * kSections.value()))
                        .AlignDown(order);
    const bool taken =
        allocator_->AllocateAt(pfn, order, MigrateType::kMovable);
    Note(taken ? 1 : 0);
    if (taken) Add(pfn, order);
  }

  void Add(Pfn pfn, Order order) {
    live_.push_back({pfn, order});
    used_ += order.pages().value();
  }

  void Free(int cpu) {
    if (live_.empty()) return;
    // The newest, or any.
    const size_t at = random_.OneIn(2)
                          ? live_.size() - 1
                          : static_cast<size_t>(random_.Below(live_.size()));
    const Live block = live_[at];
    live_[at] = live_.back();
    live_.pop_back();
    used_ -= block.order.pages().value();
    allocator_->Free(cpu, block.pfn, block.order);
    for (int pin = 0; pin < block.pins; ++pin) {
      allocator_->Unpin(cpu, block.pfn);
    }
  }

  void FreeAll() {
    while (!isolated_.empty()) Return();
    while (!live_.empty()) Free(0);
  }

  void PinOrUnpin(int cpu) {
    if (live_.empty()) return;
    Live& block = live_[random_.Below(live_.size())];
    if (block.pins > 0 && random_.OneIn(2)) {
      --block.pins;
      allocator_->Unpin(cpu, block.pfn);
    } else {
      ++block.pins;
      allocator_->Pin(block.pfn);
    }
  }

  Zone& AnyZone() {
    const auto zones = allocator_->zones();
    return *zones[random_.Below(zones.size())];
  }

  // Isolates a block near the head of a list; marks its successor as reported.
  void Isolate() {
    Zone& zone = AnyZone();
    LockHolder hold(zone.lock());
    const Order order(static_cast<int>(random_.Below(kMaxOrder.bits() + 1)));
    const auto type = static_cast<MigrateType>(random_.Below(kRequestTypes));
    std::optional<Pfn> pfn = zone.FirstFreeBlock(order, type);
    if (!pfn) return;
    if (const auto next = zone.NextFreeBlock(*pfn, order, type)) {
      zone.MarkReported(*next);
      if (random_.OneIn(2)) zone.RotateFreeList(order, type, *next);
    }
    Note(pfn->value());
    if (std::optional<IsolatedBlock> block = zone.Isolate(*pfn)) {
      isolated_.push_back(std::move(*block));
    }
  }

  void Return() {
    if (isolated_.empty()) return;
    IsolatedBlock block = std::move(isolated_.back());
    isolated_.pop_back();
    Return(std::move(block));
  }
  void ReturnOldest() {
    if (isolated_.empty()) return;
    IsolatedBlock block = std::move(isolated_.front());
    isolated_.pop_front();
    Return(std::move(block));
  }
  void Return(IsolatedBlock block) {
    Zone& zone = allocator_->ZoneOf(block.pfn());
    LockHolder hold(zone.lock());
    const Order merged =
        zone.Return(std::move(block),
                    random_.OneIn(2) ? ReturnTo::kTail : ReturnTo::kItsPlace);
    Note(merged.bits());
  }

  // Adds one of the sections behind the memory at boot, or takes one away.
  void MoveSection() {
    const Pfn start = kStart + kSections * (2 + random_.Below(2));
    const PfnRange section = PagesOf(start, kSectionOrder);
    const std::string_view state = hotplug_.StateOf(start);
    if (state == "absent") {
      EXPECT_TRUE(hotplug_.Add(section, /*node=*/0).ok());
    } else if (state == "online") {
      Note(hotplug_.Offline(section).ok() ? 1 : 0);
      return;
    }
    EXPECT_TRUE(hotplug_
                    .Online(section, random_.OneIn(2) ? ZoneType::kMovable
                                                      : ZoneType::kNormal)
                    .ok());
  }

  std::unique_ptr<PageAllocator> allocator_;
  MemoryHotplug hotplug_;
  Random random_{1};
  uint64_t hash_ = 0;
  std::vector<Live> live_;
  uint64_t used_ = 0;
  uint64_t target_ = 0;
  int largest_ = 0;
  int type_ = -1;
  bool freeing_ = false;
  std::deque<IsolatedBlock> isolated_;
  std::latch may_end_{1};
  std::vector<std::thread> threads_;
};

class PlacementStreamTest : public ::testing::TestWithParam<Stream> {};

TEST_P(PlacementStreamTest, EveryPageIsTheSame) {
  EXPECT_EQ(StreamRun(GetParam().version, GetParam().locks).Run(),
            GetParam().hash);
}

constexpr uint64_t k53 = 9280016653624222045U;
constexpr uint64_t k61 = 11989825982774757548U;
constexpr uint64_t k612 = 12078807594456137612U;

INSTANTIATE_TEST_SUITE_P(
    Kernels, PlacementStreamTest,
    ::testing::Values(Stream{KernelVersion::kV5_3, Locks::kOwned, k53},
                      Stream{KernelVersion::kV5_3, Locks::kSpin, k53},
                      Stream{KernelVersion::kV6_1, Locks::kOwned, k61},
                      Stream{KernelVersion::kV6_1, Locks::kSpin, k61},
                      Stream{KernelVersion::kV6_12, Locks::kOwned, k612},
                      Stream{KernelVersion::kV6_12, Locks::kSpin, k612}));

}  // namespace
}  // namespace guestmm
