#include "guestmm/reporting/v12_policy.h"

#include <utility>

#include "guestmm/base/check.h"

namespace guestmm {

const Fields<V12Options>& V12Fields() {
  static const Fields<V12Options> fields = {
      {"order", &V12Options::order, FieldKind::Orders(),
       "Smallest block that is reported"},
      {"threshold", &V12Options::threshold, FieldKind::Count(1),
       "Marked blocks in a zone that start a pass"},
      {"capacity", &V12Options::capacity,
       FieldKind::Count(1, kMaxReportCapacity), "Most blocks in one report"},
  };
  return fields;
}

V12Policy::V12Policy(const V12Options& options) : options_(options) {
  const absl::Status status = V12Fields().Check(options);
  GUESTMM_CHECK(status.ok()) << status.message();
}

std::vector<std::pair<std::string_view, uint64_t>> V12Policy::parameters()
    const {
  return {{"order", static_cast<uint64_t>(options_.order.value())},
          {"threshold", options_.threshold},
          {"capacity", options_.capacity}};
}

absl::Status V12Policy::Enable(const ReportingEnvironment& environment) {
  for (ReportableZone& zone : environment.zones) {
    PfnRange span = ZoneBitmap::kAllPages;
    if (!options_.hotplug) {
      LockHolder hold(zone.lock());
      span = zone.span();
    }
    zones_.push_back(
        {.zone = &zone,
         .bitmap = std::make_unique<ZoneBitmap>(span, options_.order)});
  }
  return absl::OkStatus();
}

void V12Policy::Disable() {
  zones_.clear();
  requested_.store(false, std::memory_order_relaxed);
  at_zone_ = 0;
  cursor_.reset();
}

bool V12Policy::BlockFreed(ReportableZone& zone, Pfn pfn, Order) {
  ZoneBitmap& bitmap = BitmapOf(zone);
  // Only the head's bit, even if the block spans several bits.
  bitmap.Set(pfn);
  return bitmap.count() >= options_.threshold &&
         !requested_.exchange(true, std::memory_order_relaxed);
}

void V12Policy::MemoryOnline(ReportableZone& zone, PfnRange range) {
  BitmapOf(zone).AddMemory(range);
}

void V12Policy::MemoryOffline(ReportableZone& zone, PfnRange range) {
  LockHolder hold(zone.lock());
  BitmapOf(zone).RemoveMemory(range);
}

bool V12Policy::NextBatch(Scatterlist& list) {
  while (at_zone_ < zones_.size()) {
    TrackedZone& tracked = zones_[at_zone_];
    if (!cursor_ && tracked.bitmap->count() >= options_.threshold) {
      cursor_ = Pfn(0);
    }
    while (cursor_ && !list.full()) {
      cursor_ = tracked.bitmap->FindNext(*cursor_);
      if (!cursor_) break;
      if (std::optional<IsolatedBlock> block = Take(tracked, *cursor_)) {
        list.Add(*std::move(block));
      }
      *cursor_ += options_.order.pages();
    }
    // A zone's last batch is reported before the next zone is visited, even if
    // it is not full.
    if (!cursor_) ++at_zone_;
    if (!list.empty()) return true;
  }
  at_zone_ = 0;
  requested_.store(false, std::memory_order_relaxed);
  return false;
}

std::optional<IsolatedBlock> V12Policy::Take(TrackedZone& tracked, Pfn pfn) {
  ReportableZone& zone = *tracked.zone;
  ZoneLockGuard hold(zone);
  // The memory may have gone offline.
  if (!tracked.bitmap->Test(pfn)) return std::nullopt;
  tracked.bitmap->Clear(pfn);
  const std::optional<Order> order = zone.FreeBlockAt(pfn);
  if (!order || *order < options_.order) return std::nullopt;
  const MigrateType type = zone.pageblock_type(pfn);
  std::optional<IsolatedBlock> block = zone.Isolate(pfn);
  // Isolate makes the block's pageblocks movable; v12 restores the type of the
  // first one only (process_free_page). It is not kIsolate: Isolate refuses
  // that.
  if (block) zone.SetPageblockType(pfn, type);
  return block;
}

void V12Policy::ReturnBatch(Scatterlist& list, bool) {
  // v12 takes the zone's lock once; a batch never spans zones.
  std::vector<IsolatedBlock> blocks = list.TakeAll();
  if (blocks.empty()) return;
  ReportableZone& zone = ZoneOf(blocks.front());
  ZoneLockGuard hold(zone);
  for (IsolatedBlock& block : blocks) zone.Return(std::move(block));
}

absl::Status V12Policy::CheckInvariants() const {
  absl::Status status;
  for (const TrackedZone& tracked : zones_) {
    status.Update(tracked.bitmap->CheckInvariants());
  }
  return status;
}

}  // namespace guestmm
