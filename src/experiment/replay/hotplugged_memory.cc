#include "src/experiment/replay/hotplugged_memory.h"

#include <algorithm>
#include <chrono>
#include <cstddef>

#include "guestmm/base/check.h"

namespace guestmm {
namespace {

constexpr size_t BlockOf(Pfn pfn) {
  return static_cast<size_t>(pfn.value() >> kMaxOrder.value());
}

constexpr PfnRange PagesOfBlock(size_t block) {
  return PagesOf(Pfn(uint64_t{block} << kMaxOrder.value()), kMaxOrder);
}

}  // namespace

HotpluggedMemory::HotpluggedMemory(const Recording& recording,
                                   PageAllocator& allocator)
    : recording_(recording),
      allocator_(allocator),
      hotplug_(allocator),
      absent_(BlockOf(allocator.pages().end())),
      assumed_(absent_.size()) {
  for (const GpaRange& range : recording.arriving) {
    const PfnRange pages = PagesOf(range);
    std::fill(absent_.begin() + static_cast<ptrdiff_t>(BlockOf(pages.start)),
              absent_.begin() + static_cast<ptrdiff_t>(BlockOf(pages.end)),
              true);
  }
  new_ = absent_;
  absent_blocks_ =
      static_cast<size_t>(std::count(absent_.begin(), absent_.end(), true));
}

bool HotpluggedMemory::MayArrive(PfnRange block) const {
  const size_t end =
      std::min(BlockOf(block.end - PageCount(1)) + 1, absent_.size());
  for (size_t at = BlockOf(block.start); at < end; ++at) {
    if (absent_[at]) return true;
  }
  return false;
}

std::vector<PfnRange> HotpluggedMemory::Online(PfnRange range,
                                               Nanoseconds now) {
  std::vector<PfnRange> runs;
  const size_t end =
      std::min(BlockOf(range.end - PageCount(1)) + 1, absent_.size());
  for (size_t at = BlockOf(range.start); at < end; ++at) {
    if (!absent_[at]) continue;
    const PfnRange block = PagesOfBlock(at);
    absl::Status status = hotplug_.Add(block, /*node=*/0);
    status.Update(hotplug_.Online(block, ZoneTypeFor(block)));
    GUESTMM_CHECK(status.ok()) << status.message();
    absent_[at] = false;
    --absent_blocks_;
    new_[at] = false;
    Log(block, now, /*removed=*/false);
    if (runs.empty() || runs.back().end != block.start) {
      runs.push_back(block);
    } else {
      runs.back().end = block.end;
    }
  }
  return runs;
}

PfnRange HotpluggedMemory::LowestNew(PfnRange span) const {
  for (size_t at = BlockOf(span.start); at < absent_.size(); ++at) {
    const PfnRange block = PagesOfBlock(at);
    if (block.end > span.end) break;
    if (new_[at]) return block;
  }
  return {};
}

void HotpluggedMemory::Assume(const std::vector<PfnRange>& runs) {
  for (const PfnRange& run : runs) {
    for (size_t at = BlockOf(run.start); at < BlockOf(run.end); ++at) {
      assumed_[at] = true;
      any_assumed_ = true;
    }
  }
}

bool HotpluggedMemory::IsAssumed(PfnRange block) const {
  const size_t at = BlockOf(block.start);
  return at < assumed_.size() && assumed_[at];
}

absl::Status HotpluggedMemory::Remove(PfnRange block, Nanoseconds now) {
  absl::Status status = hotplug_.Offline(block);
  if (!status.ok()) return status;
  status = hotplug_.Remove(block);
  GUESTMM_CHECK(status.ok()) << status.message();
  absent_[BlockOf(block.start)] = true;
  ++absent_blocks_;
  assumed_[BlockOf(block.start)] = false;
  Log(block, now, /*removed=*/true);
  return absl::OkStatus();
}

bool HotpluggedMemory::IsOnline(PfnRange block) const {
  const PageMap& pages = allocator_.pages();
  for (Pfn pfn = block.start; pfn < block.end; pfn += PageCount(1)) {
    if (pages.IsOffline(pfn)) return false;
  }
  return true;
}

ZoneType HotpluggedMemory::ZoneTypeFor(PfnRange block) const {
  for (const RecordedZone& zone : recording_.zones_at_end) {
    if (zone.name == Name(ZoneType::kMovable) &&
        zone.span.Contains(block.start)) {
      return ZoneType::kMovable;
    }
  }
  return ZoneType::kNormal;
}

void HotpluggedMemory::Log(PfnRange block, Nanoseconds now, bool removed) {
  // Memory blocks of one device arrive within milliseconds.
  constexpr Nanoseconds kTogether = std::chrono::seconds(1);
  const GpaRange range = {ToGpa(block.start), block.pages().bytes()};
  if (!changes_.empty()) {
    MemoryChange& last = changes_.back();
    if (last.removed == removed &&
        last.range.gpa + last.range.bytes == range.gpa &&
        now - last.time < kTogether) {
      last.range.bytes += range.bytes;
      return;
    }
  }
  changes_.push_back({.time = now, .range = range, .removed = removed});
}

}  // namespace guestmm
