// Hotplug in a guest on threads: vCPUs write to real RAM, and the host discards
// what v12-hotplug reports.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <barrier>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "guestmm/base/random.h"
#include "guestmm/host/discard/discarding_hypervisor.h"
#include "guestmm/machine/real/guest.h"
#include "guestmm/mm/migrate/memory_hotplug.h"
#include "guestmm/reporting/v12_policy.h"
#include "guestmm/virtio/device/balloon_device.h"
#include "guestmm/virtio/driver/balloon_driver.h"

namespace guestmm::guest_hotplug_threads_test {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr int kVcpus = 3;
constexpr int kRounds = 16;
constexpr uint64_t kSteps = 24;        // of each vCPU in each round
constexpr uint64_t kMemoryBlocks = 3;  // the first of them at boot

constexpr PfnRange MemoryBlock(uint64_t number) {
  const Pfn start = Pfn(0) + kSectionOrder.pages() * number;
  return {start, start + kSectionOrder.pages()};
}

constexpr GpaRange ToGpaRange(PfnRange range) {
  return {.gpa = ToGpa(range.start), .bytes = range.pages().bytes()};
}

// In every fourth round only the kernel holds memory, programs hold none.
constexpr bool HasPrograms(int round) { return round % 4 != 3; }

// Discards with madvise, and counts what lies in hot-added memory.
class CountingHypervisor final : public Hypervisor {
 public:
  explicit CountingHypervisor(const GuestRam& ram) : madvise_(ram) {}

  absl::Status Discard(std::span<const GpaRange> ranges) override {
    for (const GpaRange& range : ranges) {
      if (range.gpa >= ToGpa(MemoryBlock(1).start)) added_ += range.bytes;
    }
    return madvise_.Discard(ranges);
  }
  DiscardCounters counters() const override { return madvise_.counters(); }

  uint64_t bytes_of_added() const { return added_; }

 private:
  DiscardingHypervisor madvise_;
  std::atomic<uint64_t> added_{0};
};

// All vCPUs take the same number of steps in a round and meet before the next
// one; the main thread does its part of the round meanwhile.
class GuestHotplugThreadsTest : public testing::Test {
 protected:
  struct Block {
    Pfn pfn;
    Order order;
    uint64_t stamp;
  };

  void RunVcpu(int id) {
    Vcpu& vcpu = guest_->vcpu(id);
    Random random(kSeed + static_cast<uint64_t>(id));
    std::vector<Block> blocks;
    for (int round = 0; round < kRounds; ++round) {
      rounds_.arrive_and_wait();
      if (!HasPrograms(round)) FreeAll(vcpu, blocks);
      freed_.arrive_and_wait();
      // Demand rises and falls.
      const uint64_t most = random.Between(0, 16);
      for (uint64_t step = 0; step < kSteps; ++step) {
        if (random.OneIn(2) && blocks.size() < most) {
          Allocate(vcpu, random, HasPrograms(round) ? kGfpUser : kGfpKernel,
                   blocks);
        } else if (!blocks.empty()) {
          std::swap(blocks[random.Below(blocks.size())], blocks.back());
          Free(vcpu, blocks.back());
          blocks.pop_back();
        }
        ++steps_;
      }
    }
    FreeAll(vcpu, blocks);
  }

  // Does one operation on each hot-added memory block, each after the same
  // number of vCPU steps.
  void RunHotplug() {
    Random random(kSeed * 1000);
    for (int round = 0; round < kRounds; ++round) {
      rounds_.arrive_and_wait();
      freed_.arrive_and_wait();
      uint64_t steps = kVcpus * kSteps * static_cast<uint64_t>(round);
      for (uint64_t number = 1; number < kMemoryBlocks; ++number) {
        steps += random.Below(kVcpus * kSteps / kMemoryBlocks);
        while (steps_ < steps) std::this_thread::yield();
        Hotplug(MemoryBlock(number), HasPrograms(round), random);
      }
    }
  }

  void Hotplug(PfnRange range, bool has_programs, Random& random) {
    const std::string_view state = guest_->hotplug().StateOf(range.start);
    if (state == "absent") {
      EXPECT_EQ(guest_->hotplug().Add(range, 0), absl::OkStatus());
      // What was there before is gone.
      EXPECT_EQ(guest_->ram().ResidentBytes(ToGpaRange(range)).value(), 0u);
      // It is onlined at once, so that it is in use most of the time.
      Online(range, random);
    } else if (state == "online") {
      Offline(range, has_programs);
    } else if (random.OneIn(2)) {
      Online(range, random);
    } else {
      Remove(range);
    }
  }

  void Online(PfnRange range, Random& random) {
    EXPECT_EQ(
        guest_->hotplug().Online(
            range, random.OneIn(4) ? ZoneType::kNormal : ZoneType::kMovable),
        absl::OkStatus());
    ++onlined_;
  }

  void Offline(PfnRange range, bool has_programs) {
    const PageAllocator& allocator = guest_->allocator();
    const bool movable =
        allocator.ZoneOf(range.start).type() == ZoneType::kMovable;
    const absl::Status status = guest_->hotplug().Offline(range);
    if (status.ok()) {
      ++offlined_;
      return;
    }
    // Only a page in use can keep it, and the kernel has none there.
    EXPECT_TRUE(has_programs || !movable) << status;
    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_THAT(std::string(status.message()),
                HasSubstr("is in use: allocated"));
    ++refused_;
  }

  void Remove(PfnRange range) {
    EXPECT_EQ(guest_->hotplug().Remove(range), absl::OkStatus());
    EXPECT_FALSE(guest_->ram().Translate(ToGpaRange(range)).has_value());
    const PfnRange last = {range.end - PageCount(1), range.end};
    EXPECT_FALSE(guest_->ram().Translate(ToGpaRange(last)).has_value());
    ++removed_;
  }

  void Allocate(Vcpu& vcpu, Random& random, Gfp gfp,
                std::vector<Block>& blocks) {
    const Order order(random.OneIn(3) ? kPageblockOrder.value()
                                      : static_cast<int>(random.Below(9)));
    const std::optional<Pfn> pfn = vcpu.Allocate(order, gfp);
    if (!pfn) return;
    if (*pfn >= MemoryBlock(1).start) ++allocated_from_added_;
    blocks.push_back({*pfn, order, random.Next()});
    vcpu.Touch(*pfn, order, blocks.back().stamp);
  }

  void Free(Vcpu& vcpu, const Block& block) {
    if (vcpu.FindCorrupted(block.pfn, block.order, block.stamp)) ++corrupted_;
    vcpu.Free(block.pfn, block.order);
  }

  void FreeAll(Vcpu& vcpu, std::vector<Block>& blocks) {
    for (const Block& block : blocks) Free(vcpu, block);
    blocks.clear();
  }

  static constexpr uint64_t kSeed = 20190812;

  CountingHypervisor* hypervisor_ = nullptr;
  const std::unique_ptr<Guest> guest_ =
      Guest::Create({.memory = {{MemoryBlock(0).start, MemoryBlock(0).end}},
                     .huge_pages = HugePages::kForbid,
                     .vcpus = kVcpus,
                     .hotplug_end = ToGpa(MemoryBlock(kMemoryBlocks).start),
                     .make_policy =
                         [] {
                           // Small, so that reports are in flight most of the
                           // time.
                           return std::make_unique<V12Policy>(V12Options{
                               .threshold = 2, .capacity = 4, .hotplug = true});
                         },
                     .make_hypervisor =
                         [this](const GuestRam& ram) {
                           auto made =
                               std::make_unique<CountingHypervisor>(ram);
                           hypervisor_ = made.get();
                           return made;
                         }})
          .value();
  // All wait here for the round, and for programs to have freed their memory.
  std::barrier<> rounds_{kVcpus + 1};
  std::barrier<> freed_{kVcpus + 1};
  std::atomic<uint64_t> steps_{0};
  std::atomic<uint64_t> allocated_from_added_{0};
  std::atomic<uint64_t> corrupted_{0};
  // Used by the main thread.
  int onlined_ = 0;
  int offlined_ = 0;
  int refused_ = 0;
  int removed_ = 0;
};

TEST_F(GuestHotplugThreadsTest, ContentsSurviveWhileMemoryComesAndGoes) {
  SCOPED_TRACE(kSeed);
  std::vector<std::thread> threads;
  for (int id = 0; id < kVcpus; ++id) {
    threads.emplace_back([this, id] { RunVcpu(id); });
  }
  RunHotplug();
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(corrupted_, 0u);
  EXPECT_GT(allocated_from_added_, 0u);
  EXPECT_GT(onlined_, 0);
  EXPECT_GT(offlined_, 0);
  EXPECT_GT(refused_, 0);
  EXPECT_GT(removed_, 0);

  // Nothing is in use any more, so all of it can be removed, with reports of it
  // in flight.
  for (uint64_t number = 1; number < kMemoryBlocks; ++number) {
    const PfnRange range = MemoryBlock(number);
    if (guest_->hotplug().StateOf(range.start) == "online") {
      EXPECT_EQ(guest_->hotplug().Offline(range), absl::OkStatus());
    }
    if (guest_->hotplug().StateOf(range.start) == "offline") Remove(range);
    EXPECT_EQ(guest_->hotplug().StateOf(range.start), "absent");
    EXPECT_FALSE(guest_->ram().Translate(ToGpaRange(range)).has_value());
  }
  EXPECT_THAT(guest_->ram().regions(), ElementsAre(ToGpaRange(MemoryBlock(0))));
  ASSERT_TRUE(guest_->WaitUntilAtRest(Workqueue::kForever));
  EXPECT_EQ(guest_->CheckInvariants(), absl::OkStatus());
  const PageCounts counts = guest_->allocator().Counts();
  EXPECT_EQ(counts.managed, kSectionOrder.pages());
  EXPECT_EQ(counts.allocated(), guest_->driver()->queue_pages());
  // The device was never given memory that is not there.
  EXPECT_EQ(guest_->device()->counters().skipped(), 0u);
  EXPECT_EQ(hypervisor_->counters().failures, 0u);
  EXPECT_GT(hypervisor_->bytes_of_added(), 0u);
}

}  // namespace
}  // namespace guestmm::guest_hotplug_threads_test
