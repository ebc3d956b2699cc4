// The rules of 6.12's per-CPU lists, beside what a recorded kernel's own events
// say of them.

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <vector>

#include "guestmm/buddy/per_cpu_marks.h"
#include "guestmm/trace/recording.h"
#include "src/experiment/replay/pcp_reconstruction.h"

namespace guestmm::recorded_lists_test {
namespace {

using Kind = TraceEvent::Kind;

// Numbers of pages of all lists: as the kernel's events have it, and as the
// rules have it with the recorded requests and refills.
struct Totals {
  int64_t real = 0;
  int64_t modelled = 0;
};

// Follows a recording. Zones are known by the bounds of zoneinfo.start.
class RecordedLists {
 public:
  explicit RecordedLists(const Recording& recording)
      : next_refresh_(*recording.start) {
    zones_.reserve(recording.zones.size());
    uint64_t above = 0;  // pages managed in higher zones
    for (auto zone = recording.zones.rbegin(); zone != recording.zones.rend();
         ++zone) {
      // lowmem_reserve_ratio is 256.
      zones_.push_back(
          {.span = zone->span,
           .free = static_cast<int64_t>(zone->free.value()),
           .high = static_cast<int64_t>(zone->high.value() + above / 256),
           .is_short = false,
           .lists = {}});
      above += zone->managed.value();
      const PerCpuLimits limits =
          DefaultPerCpuLimits(KernelVersion::kV6_12, zone->managed, zone->low,
                              static_cast<int>(zone->per_cpu.size()));
      zones_.back().lists.reserve(zone->per_cpu.size());
      for (const RecordedZone::PerCpu& cpu : zone->per_cpu) {
        const auto count = static_cast<int64_t>(cpu.count);
        Lists lists = {.marks = {KernelVersion::kV6_12, limits},
                       .count = {count, count},
                       .is_refilling = false};
        lists.marks.set_high(static_cast<uint32_t>(cpu.high));
        zones_.back().lists.push_back(lists);
      }
    }
  }

  void Follow(const TraceEvent& event) {
    for (; next_refresh_ < event.time; next_refresh_ += kInterval) Refresh();
    ZoneState& zone = ZoneOf(event.pfn);
    const auto pages = static_cast<int64_t>(event.order.pages().value());
    if (event.kind == Kind::kAlloc) NoteShortage(zone);
    if (event.kind == Kind::kZoneAlloc) zone.free -= pages;
    if (!PcpReconstruction::Caches(event.order)) {
      if (event.kind == Kind::kFree) zone.free += pages;
      return;
    }
    Lists& lists = zone.lists[event.cpu];
    // The blocks of a refill have no request between them.
    const bool is_new_refill = !lists.is_refilling;
    lists.is_refilling = event.kind == Kind::kZoneAlloc;
    switch (event.kind) {
      case Kind::kAlloc:
        lists.marks.OnAllocate();
        lists.Add(-pages);
        break;
      case Kind::kZoneAlloc:
        if (is_new_refill) {
          lists.marks.BlocksToRefill(event.order, lists.modelled(),
                                     zone.pressure());
        }
        lists.Add(pages);
        break;
      case Kind::kFree: {
        lists.Add(pages);
        const uint64_t returned = lists.marks.PagesToReturn(
            event.order, lists.modelled(), zone.pressure());
        Return(lists, returned);
        if (returned > 0 && zone.free > zone.high) zone.is_short = false;
        break;
      }
      case Kind::kDrain:
        zone.free += pages;
        lists.count.real -= pages;
        drained_.real += pages;
        break;
    }
  }

  const Totals& drained() const { return drained_; }
  // Summed over all seconds.
  const Totals& counts() const { return counts_; }

 private:
  static constexpr Nanoseconds kInterval = std::chrono::seconds(1);

  struct Lists {
    PerCpuMarks marks;
    Totals count;
    bool is_refilling;

    void Add(int64_t pages) {
      count.real += pages;
      count.modelled += pages;
    }
    uint64_t modelled() const {
      return static_cast<uint64_t>(std::max<int64_t>(count.modelled, 0));
    }
  };
  struct ZoneState {
    PfnRange span;
    int64_t free;
    int64_t high;  // the watermark, and the reserve for requests of any zone
    bool is_short;
    std::vector<Lists> lists;  // by vCPU

    ZonePressure pressure() const {
      return is_short ? ZonePressure::kBelowHigh : ZonePressure::kNone;
    }
  };

  ZoneState& ZoneOf(Pfn pfn) {
    return *std::find_if(zones_.begin(), zones_.end(), [&](const auto& zone) {
      return zone.span.start <= pfn && pfn < zone.span.end;
    });
  }
  // A request looks at the highest zone first.
  void NoteShortage(const ZoneState& of_page) {
    for (ZoneState& zone : zones_) {
      if (zone.free <= zone.high) zone.is_short = true;
      if (&zone == &of_page) return;
    }
  }
  void Return(Lists& lists, uint64_t pages) {
    lists.count.modelled -= static_cast<int64_t>(pages);
    drained_.modelled += static_cast<int64_t>(pages);
  }
  void Refresh() {
    for (ZoneState& zone : zones_) {
      for (Lists& lists : zone.lists) {
        Return(lists, lists.marks.Decay(lists.modelled()));
        counts_.real += lists.count.real;
        counts_.modelled += lists.count.modelled;
      }
    }
  }

  std::vector<ZoneState> zones_;  // the highest first
  Nanoseconds next_refresh_;
  Totals drained_;
  Totals counts_;
};

void ExpectNear(const Totals& totals, double share) {
  const auto real = static_cast<double>(totals.real);
  EXPECT_GT(real, 0);
  EXPECT_NEAR(static_cast<double>(totals.modelled), real, share * real);
}

TEST(RecordedListsTest, TheRulesKeepAndDrainWhatTheKernelDid) {
  const Recording recording = ReadRecording(GUESTMM_DATA "/churn612").value();
  const auto reader = OpenTrace(recording).value();
  RecordedLists lists(recording);
  while (true) {
    const auto event = reader->Next();
    ASSERT_TRUE(event.ok()) << event.status();
    if (!event->has_value()) break;
    lists.Follow(**event);
  }
  ExpectNear(lists.drained(), 0.02);
  ExpectNear(lists.counts(), 0.1);
}

}  // namespace
}  // namespace guestmm::recorded_lists_test
