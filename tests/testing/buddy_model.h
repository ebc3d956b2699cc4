#ifndef GUESTMM_TESTS_TESTING_BUDDY_MODEL_H_
#define GUESTMM_TESTS_TESTING_BUDDY_MODEL_H_

// The allocator's rules, written down as plainly as the standard library
// allows and with no regard for speed: the oracle of the model tests.

#include <cstdint>
#include <list>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "guestmm/base/units.h"
#include "guestmm/buddy/page_allocator.h"
#include "guestmm/buddy/page_map.h"

namespace guestmm::buddy {

class ZoneModel {
 public:
  struct Block {
    PageState state;
    int order;
    bool operator==(const Block&) const = default;
  };

  ZoneModel(PfnRange span, int max_order, uint64_t min, uint64_t low)
      : span_(span),
        max_order_(max_order),
        min_(min),
        low_(low),
        lists_(static_cast<size_t>(max_order) + 1) {}

  void AddMemory(PfnRange range);
  bool WatermarkOk(int order, uint64_t mark) const;
  std::optional<uint64_t> Allocate(int order, PageState state);
  // Merges and lists the block at `pfn`; returns what it became.
  std::pair<uint64_t, int> Free(uint64_t pfn);
  // False, with no effect, where the min watermark forbids it.
  bool Isolate(uint64_t pfn);

  PfnRange span() const { return span_; }
  uint64_t min() const { return min_; }
  uint64_t low() const { return low_; }
  uint64_t managed() const {
    return PagesIf([](PageState) { return true; });
  }
  uint64_t PagesIn(PageState state) const {
    return PagesIf([state](PageState s) { return s == state; });
  }
  // Every block by its first page, whatever its state.
  std::map<uint64_t, Block>& blocks() { return blocks_; }
  const std::map<uint64_t, Block>& blocks() const { return blocks_; }
  // The free lists by order, heads first.
  const std::vector<std::list<uint64_t>>& lists() const { return lists_; }

 private:
  template <typename Predicate>
  uint64_t PagesIf(Predicate wanted) const {
    uint64_t pages = 0;
    for (const auto& [pfn, block] : blocks_) {
      if (wanted(block.state)) pages += uint64_t{1} << block.order;
    }
    return pages;
  }
  bool IsFree(uint64_t pfn, int order) const;

  PfnRange span_;
  int max_order_;
  uint64_t min_;
  uint64_t low_;
  std::map<uint64_t, Block> blocks_;
  std::vector<std::list<uint64_t>> lists_;
};

class AllocatorModel {
 public:
  // `watermarks`: one zone's min and low each, lowest zone first.
  AllocatorModel(const PageAllocatorOptions& options, Order observed_from,
                 const std::vector<Watermarks>& watermarks);

  std::optional<uint64_t> Allocate(int cpu, int order);
  void Free(int cpu, uint64_t pfn);
  void Drain();
  bool Isolate(uint64_t pfn);
  // The order the block has on its free list.
  int Return(uint64_t pfn);

  const std::vector<ZoneModel>& zones() const { return zones_; }
  uint64_t cached() const;

  // What the observer was told, in order, and how often it was woken.
  struct Told {
    std::vector<std::pair<uint64_t, int>> freed;
    int wakes = 0;
    bool operator==(const Told&) const = default;
  };
  const Told& told() const { return told_; }

  // Everything that decides what happens next, as a key.
  std::string State() const;

 private:
  // A vCPU's list of one zone, the page freed last in front.
  std::list<uint64_t>& CpuList(int cpu, size_t zone) {
    return cpu_lists_[static_cast<size_t>(cpu) * zones_.size() + zone];
  }
  size_t ZoneOf(uint64_t pfn) const;
  std::optional<uint64_t> AllocateAbove(bool low, int cpu, int order);
  // Frees to the zone and tells the observer; true if it heard of it.
  bool FreeToZone(uint64_t pfn);

  const PerCpuLimits limits_;
  const int observed_from_;
  std::vector<ZoneModel> zones_;
  std::vector<std::list<uint64_t>> cpu_lists_;
  Told told_;
};

}  // namespace guestmm::buddy

#endif  // GUESTMM_TESTS_TESTING_BUDDY_MODEL_H_
