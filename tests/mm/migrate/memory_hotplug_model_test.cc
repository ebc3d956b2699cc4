// Random programs of memory hotplug, compared with a naive model.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "guestmm/base/lock.h"
#include "guestmm/base/random.h"
#include "guestmm/buddy/page_allocator.h"
#include "guestmm/mm/migrate/memory_hotplug.h"
#include "tests/mm/migrate/memory_hotplug_testing.h"
#include "tests/testing/tiny_allocator.h"

namespace guestmm::memory_hotplug_model_test {
namespace {

// Eight memory blocks above 4 GiB, on two nodes; two of them are present at
// boot.
class RandomProgram {
 public:
  explicit RandomProgram(uint64_t seed)
      : random_(seed),
        allocator_(MakeAllocator(
            {.memory = {{Start(0), Start(1), 0}, {Start(1), Start(2), 1}},
             .hotplug_end = Start(kSections),
             .cpus = 2,
             .max_order = Order(3),
             .pageblock_order = Order(2),
             .section_order = kSection,
             .min_free_kbytes = 0,
             .per_cpu_lists =
                 seed % 2 == 0 ? KernelVersion::kV5_3 : KernelVersion::kV6_1,
             .per_cpu_limits = PerCpuLimits{.batch = 2, .high = 4}})),
        hotplug_(*allocator_) {
    sections_[0] = {.state = "online", .zone = "0 Normal", .node = 0};
    sections_[1] = {.state = "online", .zone = "1 Normal", .node = 1};
  }
  ~RandomProgram() {
    for (IsolatedBlock& block : isolated_) Return(std::move(block));
  }

  void Step() {
    const int cpu = static_cast<int>(random_.Below(2));
    switch (random_.Below(12)) {
      case 0:
        return Add();
      case 1:
        return Online();
      case 2:
      case 3:
        return Offline();
      case 4:
        return Remove();
      case 5:
      case 6:
      case 7:
        return Allocate(cpu);
      case 8:
      case 9:
        return Free(cpu);
      case 10:
        return IsolateOrReturn();
      default:
        allocator_->DrainPerCpuPages();
    }
  }

  void Check() const {
    ASSERT_EQ(allocator_->CheckInvariants(), absl::OkStatus());
    PageCount managed;
    PageCount isolated;
    PageCount allocated;
    for (uint64_t i = 0; i < kSections; ++i) {
      ASSERT_EQ(hotplug_.StateOf(Start(i)), sections_[i].state) << i;
      if (sections_[i].state != "online") continue;
      managed += kSection.pages();
      ASSERT_EQ(ZoneName(Start(i)), sections_[i].zone);
    }
    for (const IsolatedBlock& block : isolated_) {
      isolated += block.order().pages();
    }
    for (const auto& [pfn, order] : live_) {
      allocated += order.pages();
      ASSERT_EQ(allocator_->pages().Get(pfn),
                (PageInfo{PageState::kAllocated, order}));
    }
    const PageCounts counts = allocator_->Counts();
    ASSERT_EQ(counts.managed, managed);
    ASSERT_EQ(counts.isolated, isolated);
    ASSERT_EQ(counts.allocated(), allocated);
    ASSERT_EQ(counts.offlining, PageCount(0));
  }

  uint64_t offlined() const { return offlined_; }

 private:
  static constexpr uint64_t kSections = 8;
  struct Block {
    std::string state = "absent";
    std::string zone = {};
    int node = 0;
  };

  static Pfn Start(uint64_t section) {
    return kNormalStart + PageCount(section * kSectionPages);
  }
  std::string ZoneName(Pfn pfn) const {
    const Zone& zone = allocator_->ZoneOf(pfn);
    return absl::StrCat(zone.node(), " ", std::string(Name(zone.type())));
  }

  // One or two memory blocks.
  void Choose() {
    first_ = random_.Below(kSections);
    count_ = std::min(random_.Between(1, 2), kSections - first_);
  }
  PfnRange range() const { return {Start(first_), Start(first_ + count_)}; }
  bool AllAre(const std::string& state) const {
    for (uint64_t i = first_; i < first_ + count_; ++i) {
      if (sections_[i].state != state) return false;
    }
    return true;
  }
  template <typename Change>
  void ChangeAll(Change change) {
    for (uint64_t i = first_; i < first_ + count_; ++i) change(sections_[i]);
  }

  void Add() {
    Choose();
    const int node = static_cast<int>(random_.Below(2));
    const bool may = AllAre("absent");
    ASSERT_EQ(hotplug_.Add(range(), node).ok(), may);
    if (may)
      ChangeAll([&](Block& b) { b = {.state = "offline", .node = node}; });
  }
  void Online() {
    Choose();
    const ZoneType type =
        random_.OneIn(2) ? ZoneType::kMovable : ZoneType::kNormal;
    const bool may = AllAre("offline");
    ASSERT_EQ(hotplug_.Online(range(), type).ok(), may);
    if (!may) return;
    ChangeAll([&](Block& b) {
      b.state = "online";
      b.zone = absl::StrCat(b.node, " ", std::string(Name(type)));
    });
  }
  void Offline() {
    Choose();
    bool may = AllAre("online") &&
               sections_[first_].zone == sections_[first_ + count_ - 1].zone;
    for (const auto& [pfn, order] : live_) may &= !range().Contains(pfn);
    for (const IsolatedBlock& b : isolated_) may &= !range().Contains(b.pfn());
    const absl::Status status = hotplug_.Offline(range());
    ASSERT_EQ(status.ok(), may) << status;
    if (!may) return;
    ++offlined_;
    ChangeAll([&](Block& b) { b.state = "offline"; });
  }
  void Remove() {
    Choose();
    const bool may = AllAre("offline");
    ASSERT_EQ(hotplug_.Remove(range()).ok(), may);
    if (may) ChangeAll([&](Block& b) { b = {}; });
  }
  void Allocate(int cpu) {
    constexpr Gfp kKinds[] = {kGfpUser, kGfpUser, kGfpKernel, kGfpReclaimable};
    const Order order(random_.OneIn(2) ? 0
                                       : static_cast<int>(random_.Below(4)));
    const auto pfn = allocator_->Allocate(cpu, order, kKinds[random_.Below(4)]);
    if (!pfn) return;
    ASSERT_FALSE(live_.contains(*pfn));
    live_[*pfn] = order;
  }
  void Free(int cpu) {
    if (live_.empty()) return;
    const auto at = std::next(
        live_.begin(), static_cast<ptrdiff_t>(random_.Below(live_.size())));
    allocator_->Free(cpu, at->first, at->second);
    live_.erase(at);
  }
  void IsolateOrReturn() {
    if (!isolated_.empty()) {
      guestmm::Return(std::move(isolated_.back()));
      isolated_.pop_back();
      return;
    }
    Zone& zone =
        *allocator_->zones()[random_.Below(allocator_->zones().size())];
    LockHolder hold(zone.lock());
    std::optional<Pfn> free;
    zone.ForEachFreeBlock(Order(static_cast<int>(random_.Below(4))),
                          MigrateType::kMovable, [&](Pfn pfn) { free = pfn; });
    if (!free) return;
    if (auto block = zone.Isolate(*free))
      isolated_.push_back(*std::move(block));
  }

  Random random_;
  std::unique_ptr<PageAllocator> allocator_;
  MemoryHotplug hotplug_;
  std::array<Block, kSections> sections_;
  std::map<Pfn, Order> live_;
  std::vector<IsolatedBlock> isolated_;
  uint64_t first_ = 0;
  uint64_t count_ = 0;
  uint64_t offlined_ = 0;
};

TEST(MemoryHotplugTest, AnyProgramDoesAsANaiveModelSays) {
  uint64_t offlined = 0;
  for (uint64_t seed = 1; seed <= 60; ++seed) {
    SCOPED_TRACE(testing::Message() << "seed " << seed);
    RandomProgram program(seed);
    for (int step = 0; step < 400; ++step) {
      SCOPED_TRACE(testing::Message() << "step " << step);
      program.Step();
      program.Check();
      if (HasFatalFailure()) return;
    }
    offlined += program.offlined();
  }
  // The programs cover all outcomes.
  EXPECT_GT(offlined, 60);
}

}  // namespace
}  // namespace guestmm::memory_hotplug_model_test
