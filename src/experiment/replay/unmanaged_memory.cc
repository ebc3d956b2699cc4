#include "src/experiment/replay/unmanaged_memory.h"

#include <algorithm>

namespace guestmm {
namespace {

using State = RecordedPages::State;

State StateOf(const RecordedPages& first, Pfn pfn) {
  return pfn.value() < first.states.size() ? first.states[pfn.value()]
                                           : State::kAbsent;
}

// Calls visit(pfn) for the pages of `memory` that are in `span`, from the
// highest down.
template <typename Visit>
void ForEachPageDown(const MemoryMap& memory, PfnRange span,
                     const Visit& visit) {
  for (auto range = memory.end(); range != memory.begin();) {
    --range;
    const Pfn start = std::max(range->start, span.start);
    for (Pfn end = std::min(range->end, span.end); start < end;) {
      end = Pfn(end.value() - 1);
      visit(end);
    }
  }
}

}  // namespace

UnmanagedMemory::UnmanagedMemory(const Recording& recording) {
  if (!recording.first) return;
  const RecordedPages& first = *recording.first;
  const MemoryMap memory = MemoryMap::WholePages(recording.memory);
  if (memory.empty()) return;
  kinds_.assign(memory.back().end.value(), Kind::kNone);
  for (const RecordedZone& zone : recording.zones) {
    FindUninitialized(first, zone, memory);
  }
  ForEachPageDown(memory, {Pfn(0), memory.back().end}, [&](Pfn pfn) {
    Kind& kind = kinds_[pfn.value()];
    switch (StateOf(first, pfn)) {
      case State::kOffline:
        kind = Kind::kOffline;
        bytes_.offline += kPageSize;
        break;
      case State::kAbsent:
        kind = Kind::kNoPage;
        bytes_.no_page += kPageSize;
        break;
      default:
        break;
    }
    if (kind == Kind::kUninitialized) bytes_.uninitialized += kPageSize;
    if (kind != Kind::kNone) pages_ += PageCount(1);
  });
}

void UnmanagedMemory::FindUninitialized(const RecordedPages& first,
                                        const RecordedZone& zone,
                                        const MemoryMap& memory) {
  if (zone.present <= zone.managed) return;
  uint64_t left = (zone.present - zone.managed).value();
  ForEachPageDown(memory, zone.span, [&](Pfn pfn) {
    const State state = StateOf(first, pfn);
    if (state != State::kReserved && state != State::kOffline) return;
    if (left > 0) --left;
  });
  ForEachPageDown(memory, zone.span, [&](Pfn pfn) {
    if (left == 0 || StateOf(first, pfn) != State::kNoFlags) return;
    kinds_[pfn.value()] = Kind::kUninitialized;
    --left;
  });
}

bool UnmanagedMemory::HasAnyOf(PfnRange block) const {
  for (Pfn pfn = block.start; pfn < block.end; pfn += PageCount(1)) {
    if (Has(pfn)) return true;
  }
  return false;
}

bool UnmanagedMemory::HasAllOf(PfnRange block) const {
  for (Pfn pfn = block.start; pfn < block.end; pfn += PageCount(1)) {
    if (!Has(pfn)) return false;
  }
  return true;
}

void UnmanagedMemory::AddOffline(PfnRange block) {
  kinds_.resize(std::max(kinds_.size(), size_t{block.end.value()}),
                Kind::kNone);
  for (Pfn pfn = block.start; pfn < block.end; pfn += PageCount(1)) {
    if (Has(pfn)) continue;
    kinds_[pfn.value()] = Kind::kOffline;
    pages_ += PageCount(1);
  }
}

std::vector<PfnRange> UnmanagedMemory::Forget(PfnRange block) {
  const uint64_t added = bytes_.added;
  std::vector<PfnRange> runs = Remove(block);
  bytes_.added = added;
  return runs;
}

std::vector<PfnRange> UnmanagedMemory::Remove(PfnRange block) {
  return RemoveIf(block, block.pages(), [](Kind) { return true; });
}

std::vector<PfnRange> UnmanagedMemory::RemoveGrown(Pfn pfn) {
  if (!Has(pfn)) return {};
  if (KindOf(pfn) == Kind::kOffline) return Remove(PagesOf(pfn, Order(0)));
  return RemoveIf(PagesOf(pfn.AlignDown(kSectionOrder), kSectionOrder),
                  kSectionOrder.pages(),
                  [](Kind kind) { return kind != Kind::kOffline; });
}

std::vector<PfnRange> UnmanagedMemory::RemoveLowest(PfnRange range,
                                                    PageCount most) {
  std::vector<PfnRange> runs = RemoveIf(
      range, most, [](Kind kind) { return kind == Kind::kUninitialized; });
  if (!runs.empty()) return runs;
  return RemoveIf(range, most, [](Kind) { return true; });
}

template <typename Takes>
std::vector<PfnRange> UnmanagedMemory::RemoveIf(PfnRange range, PageCount most,
                                                const Takes& takes) {
  std::vector<PfnRange> runs;
  uint64_t left = most.value();
  const Pfn end = std::min(range.end, Pfn(kinds_.size()));
  for (Pfn pfn = range.start; pfn < end && left > 0; pfn += PageCount(1)) {
    if (!Has(pfn) || !takes(KindOf(pfn))) continue;
    kinds_[pfn.value()] = Kind::kNone;
    if (runs.empty() || runs.back().end != pfn) runs.push_back({pfn, pfn});
    runs.back().end += PageCount(1);
    --left;
  }
  const PageCount removed(most.value() - left);
  pages_ -= removed;
  bytes_.added += removed.bytes();
  return runs;
}

}  // namespace guestmm
