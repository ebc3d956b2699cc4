#ifndef GUESTMM_TESTS_REPORTING_LINUX_TESTING_H_
#define GUESTMM_TESTS_REPORTING_LINUX_TESTING_H_

// Small worlds with the policy "linux".

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "guestmm/base/lock.h"
#include "guestmm/buddy/zone.h"
#include "guestmm/reporting/linux_policy.h"
#include "tests/testing/reporting_world.h"

namespace guestmm {

// Blocks of 4 pages, the smallest that are reported.
inline constexpr Order kSmall(2);
inline constexpr Order kLarge(3);

// A world of `blocks` such blocks, which merge up to `max_order`, with
// `capacity` blocks in a report.
inline WorldOptions LinuxOf(uint64_t blocks, size_t capacity,
                            Order max_order = kSmall) {
  return {.memory = {BlocksFrom(Pfn(0), blocks, kSmall)},
          .make_policy =
              [capacity] {
                return std::make_unique<LinuxPolicy>(
                    LinuxOptions{.order = kSmall, .capacity = capacity});
              },
          .max_order = max_order};
}

struct LinuxWorld : ReportingWorld {
  using ReportingWorld::ReportingWorld;

  bool IsReported(Pfn pfn) {
    LockHolder hold(allocator->ZoneOf(pfn).lock());
    return allocator->ZoneOf(pfn).IsReported(pfn);
  }
  void Mark(Pfn pfn) {
    LockHolder hold(zone().lock());
    zone().MarkReported(pfn);
  }
  // The blocks of a free list of the first zone, first to last.
  std::vector<Pfn> List(Order order, MigrateType type = MigrateType::kMovable) {
    LockHolder hold(zone().lock());
    std::vector<Pfn> blocks;
    zone().ForEachFreeBlock(order, type,
                            [&](Pfn pfn) { blocks.push_back(pfn); });
    return blocks;
  }
  uint64_t passes() const { return reporter->counters().passes; }
  size_t reports() const { return device->reports().size(); }
};

// A second policy over a world's memory, which a test drives step by step. The
// world's own policy never runs: virtual time does not advance.
class LinuxByHand {
 public:
  explicit LinuxByHand(LinuxWorld& world, size_t capacity,
                       LockHoldObserver* holds = nullptr)
      : zones_(ReportableZones(world.allocator->zones(), holds)),
        first_zone_(zones_[static_cast<size_t>(world.zone().index())]),
        policy_({.order = kSmall, .capacity = capacity}),
        list_(capacity) {
    EXPECT_EQ(policy_.Enable({.zones = std::span(zones_), .clock = world.time}),
              absl::OkStatus());
  }
  ~LinuxByHand() {
    if (!list_.empty()) Return();
    policy_.Disable();
  }

  // The next report; empty if the pass is over.
  std::vector<GpaRange> Next() {
    const bool more = policy_.NextBatch(list_);
    EXPECT_EQ(more, !list_.empty());
    return {list_.ranges().begin(), list_.ranges().end()};
  }
  void Return(bool acknowledged = true) {
    policy_.ReturnBatch(list_, acknowledged);
  }
  // Runs a whole pass; all its reports.
  std::vector<std::vector<GpaRange>> Pass() {
    std::vector<std::vector<GpaRange>> reports;
    for (auto report = Next(); !report.empty(); report = Next()) {
      reports.push_back(std::move(report));
      Return();
    }
    return reports;
  }
  bool BlockFreed() {
    LockHolder hold(first_zone_.lock());
    return policy_.BlockFreed(first_zone_, Pfn(0), kSmall);
  }
  std::optional<Nanoseconds> NextPass() { return policy_.NextPass(); }

 private:
  std::vector<ReportableZone> zones_;
  ReportableZone& first_zone_;
  LinuxPolicy policy_;
  Scatterlist list_;
};

}  // namespace guestmm

#endif  // GUESTMM_TESTS_REPORTING_LINUX_TESTING_H_
