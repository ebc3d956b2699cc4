#include "src/experiment/replay/replay_sampler.h"

#include <algorithm>
#include <cstddef>
#include <string>
#include <utility>
#include <vector>

#include "src/host/accounting/free_memory.h"

namespace guestmm {
namespace {

// Bounds on what is kept of a replay of any length. A frame of a guest of 1 TiB
// is half a megabyte.
constexpr size_t kMaxSamples = 200'000;
constexpr size_t kMaxFrames = 1200;

// Once there are more than `most` (an even number), drops every second one and
// doubles the interval. The first and the last stay, and the times stay evenly
// spaced.
template <typename T>
void KeepAtMost(size_t most, std::vector<T>& all, Nanoseconds& interval) {
  if (all.size() <= most) return;
  for (size_t i = 1; 2 * i < all.size(); ++i) all[i] = std::move(all[2 * i]);
  all.resize((all.size() + 1) / 2);
  interval *= 2;
}

}  // namespace

ReplaySampler::ReplaySampler(const PageAllocator& allocator, ReplayHost& host,
                             const UnmanagedMemory& unmanaged,
                             ReplayResult& result)
    : allocator_(allocator),
      host_(host),
      unmanaged_(unmanaged),
      result_(result),
      sample_interval_(result.options.sample_interval),
      frame_interval_(result.options.frame_interval) {}

void ReplaySampler::SampleDue(Nanoseconds now) {
  Sample(now);
  next_sample_ += sample_interval_;
}

void ReplaySampler::Sample(Nanoseconds now) {
  ReplaySample sample = {.time = now, .resident_bytes = host_.ResidentBytes()};
  for (const auto& zone : allocator_.zones()) {
    sample.free_bytes += zone->free_pages().bytes();
    sample.isolated_bytes += zone->isolated_pages().bytes();
    for (int order = 0; order <= kMaxOrder.value(); ++order) {
      sample.free_blocks[static_cast<size_t>(order)] +=
          zone->free_blocks(Order(order));
    }
  }
  result_.samples.push_back(sample);
  KeepAtMost(kMaxSamples, result_.samples, sample_interval_);
  if (frame_interval_ > Nanoseconds(0) && now >= next_frame_) {
    result_.frames.push_back(Frame(now));
    KeepAtMost(kMaxFrames, result_.frames, frame_interval_);
    next_frame_ = now + frame_interval_;
  }
}

ReplayFrame ReplaySampler::Frame(Nanoseconds now) const {
  const Pfn end = allocator_.pages().end();
  ReplayFrame frame = {.time = now, .blocks = {}};
  for (Pfn pfn(0); pfn < end; pfn += kPageblockOrder.pages()) {
    frame.blocks.push_back(static_cast<char>(StateOf(pfn)));
  }
  return frame;
}

BlockState ReplaySampler::StateOf(Pfn pfn) const {
  const PageMap& pages = allocator_.pages();
  const int index = pages.pageblock(pfn).zone;
  if (index == PageMap::Pageblock::kNoZone) return BlockState::kAbsent;
  const Zone& zone = *allocator_.zones()[static_cast<size_t>(index)];
  LockHolder hold(zone.lock());
  const auto block = zone.FreeBlockAround(pfn);
  if (block && block->order >= kPageblockOrder) {
    return host_.AnyResident(pfn) ? BlockState::kFree : BlockState::kWithHost;
  }
  if (pages.Get(pages.HeadOf(pfn)).state == PageState::kIsolated) {
    return BlockState::kIsolated;
  }
  return unmanaged_.HasAllOf(PagesOf(pfn, kPageblockOrder))
             ? BlockState::kAbsent
             : BlockState::kInUse;
}

FreeAtEnd ReplaySampler::FreeAtEndOf(Order order) const {
  const auto resident = [this](Pfn pfn, Order its) {
    return host_.ledger().ResidentPages(pfn, its);
  };
  const auto left = [](const FreeMemory& memory) {
    return (memory.pages - memory.with_host).bytes();
  };
  const Order granule = result_.options.granule;
  const FreeMemory all = CountFree(allocator_, resident);
  // In blocks of that order and above; a granule that is free as a whole is
  // within one block.
  const uint64_t in_whole =
      left(CountFree(allocator_, resident, std::min(granule, order)));
  const uint64_t of_order = left(CountFree(allocator_, resident, order));
  const uint64_t above_low = left(CountReportable(allocator_, resident, order));
  return {.bytes = all.pages.bytes(),
          .with_host = all.with_host.bytes(),
          .fragmented = left(all) - in_whole,
          .below_order = in_whole - of_order,
          .below_watermark = of_order - above_low,
          .not_due = above_low};
}

void ReplaySampler::AddBuddyInfo(Nanoseconds now) {
  RecordedBuddyInfo info = {.time = now, .zones = {}};
  for (const auto& zone : allocator_.zones()) {
    if (zone->managed_pages() == PageCount(0)) continue;
    RecordedBuddyInfo::Zone& row = info.zones.emplace_back();
    row.node = zone->node();
    row.name = std::string(Name(zone->type()));
    for (int order = 0; order <= kMaxOrder.value(); ++order) {
      row.blocks[static_cast<size_t>(order)] = zone->free_blocks(Order(order));
    }
  }
  result_.buddyinfo.push_back(info);
}

}  // namespace guestmm
