#include "guestmm/reporting/unreported_memory.h"

#include <algorithm>
#include <bit>
#include <utility>

#include "guestmm/base/check.h"

namespace guestmm {
UnreportedMemory::UnreportedMemory(Order region, Order granule, Order unit)
    : region_order_(region), granule_(granule), unit_(unit) {
  GUESTMM_CHECK(unit <= region && region <= kMaxOrder);
  GUESTMM_CHECK(unit <= granule && granule <= kSectionOrder);
}

UnreportedMemory::~UnreportedMemory() = default;
UnreportedMemory::UnreportedMemory(UnreportedMemory&&) noexcept = default;

template <typename Words, typename Visitor>
inline void UnreportedMemory::ForEachWord(Words& words, size_t first,
                                          size_t end, Visitor visit) {
  while (first < end) {
    const size_t in_word = first % kBitsPerWord;
    const size_t count = std::min(end - first, kBitsPerWord - in_word);
    const uint64_t mask = kAll >> (kBitsPerWord - count) << in_word;
    if (!visit(words[first / kBitsPerWord], mask)) return;
    first += count;
  }
}

template <typename Visitor>
inline void UnreportedMemory::ForEachWordOf(PfnRange range, Visitor visit) {
  for (Pfn at = range.start; at < range.end;) {
    const Pfn end = std::min(
        range.end, at.AlignDown(kSectionOrder) + kSectionOrder.pages());
    ForEachWord(sections_[SectionOf(at)]->units, IndexOf(at, unit_),
                IndexOf(end - PageCount(1), unit_) + 1,
                [&](uint64_t& word, uint64_t mask) {
                  visit(word, mask);
                  return true;
                });
    at = end;
  }
}

void UnreportedMemory::AddMemory(PfnRange range) {
  for (Pfn at = range.start.AlignDown(kSectionOrder); at < range.end;
       at += kSectionOrder.pages()) {
    const size_t section = SectionOf(at);
    if (section >= sections_.size()) sections_.resize(section + 1);
    if (sections_[section] != nullptr) continue;
    const uint64_t pages = kSectionOrder.pages().value();
    sections_[section] = std::make_unique<Section>();
    sections_[section]->units.resize(
        std::max<size_t>(1, (pages >> unit_.value()) / kBitsPerWord));
    if (unit_ < granule_) {
      sections_[section]->split.resize(
          static_cast<size_t>(pages >> granule_.value()));
    }
    sections_[section]->regions.resize(
        static_cast<size_t>(pages >> region_order_.value()));
  }
  ForEachWordOf(range, [](uint64_t& word, uint64_t mask) { word |= mask; });
}

void UnreportedMemory::RemoveMemory(PfnRange range) {
  for (Pfn at = range.start.AlignDown(region_order_); at < range.end;
       at += region_order_.pages()) {
    Dequeue(at);
    region(at) = Region();
  }
  // AddMemory marks it again if it is added later.
  Clear(range);
}

uint64_t UnreportedMemory::Mark(PfnRange pages) {
  const size_t first = IndexOf(pages.start, unit_);
  const size_t end = IndexOf(pages.end - PageCount(1), unit_) + 1;
  uint64_t marked = 0;
  ForEachWord(sections_[SectionOf(pages.start)]->units, first, end,
              [&](uint64_t& word, uint64_t mask) {
                marked += static_cast<uint64_t>(std::popcount(mask & ~word));
                word |= mask;
                return true;
              });
  return marked;
}

PfnRange UnreportedMemory::MappedWith(PfnRange pages) const {
  if (unit_ == granule_) return pages;
  const auto maps_all = [&](Pfn pfn) {
    return !IsSplit(pfn) && !FindRun(GranuleOf(pfn));
  };
  const Pfn last = pages.end - PageCount(1);
  return {.start = maps_all(pages.start) ? GranuleOf(pages.start).start
                                         : pages.start,
          .end = maps_all(last) ? GranuleOf(last).end : pages.end};
}

void UnreportedMemory::Clear(PfnRange range) {
  ForEachWordOf(
      {.start = range.start.AlignUp(unit_), .end = range.end.AlignDown(unit_)},
      [](uint64_t& word, uint64_t mask) { word &= ~mask; });
  if (unit_ == granule_) return;
  for (Pfn at = range.start; at < range.end; at = GranuleOf(at).end) {
    const PfnRange granule = GranuleOf(at);
    const bool whole = range.start <= granule.start && granule.end <= range.end;
    // A granule without a page table of its own is whole once it is not mapped.
    SetSplit(at, !whole && (granule_ >= kPageblockOrder || FindRun(granule)));
  }
}

void UnreportedMemory::MarkSplitGranules(PfnRange range) {
  for (Pfn at = range.start.AlignUp(granule_);
       at + granule_.pages() <= range.end; at += granule_.pages()) {
    if (IsSplit(at) && FindRun(GranuleOf(at))) Mark(GranuleOf(at));
  }
}

std::optional<PfnRange> UnreportedMemory::FindRun(PfnRange range) const {
  // In units of the section: `range` is in one block, so in one section.
  const Pfn section = range.start.AlignDown(kSectionOrder);
  const size_t end = IndexOf(range.end - PageCount(1), unit_) + 1;
  const std::vector<uint64_t>& words = sections_[SectionOf(range.start)]->units;
  size_t first = end;
  size_t last = end;
  ForEachWord(words, IndexOf(range.start, unit_), end,
              [&, at = IndexOf(range.start, unit_)](uint64_t word,
                                                    uint64_t mask) mutable {
                const size_t base = at / kBitsPerWord * kBitsPerWord;
                at = base + kBitsPerWord;
                if (first == end) {
                  if ((word & mask) == 0) return true;
                  first =
                      base + static_cast<size_t>(std::countr_zero(word & mask));
                  // Counts the bits before the run as set, i.e. not its end.
                  word |= (uint64_t{1} << first % kBitsPerWord) - 1;
                }
                const uint64_t clear = ~word & mask;
                if (clear == 0) return true;
                last = base + static_cast<size_t>(std::countr_zero(clear));
                return false;
              });
  if (first == end) return std::nullopt;
  const auto page = [&](size_t unit) { return section + unit_.pages() * unit; };
  return PfnRange{.start = std::max(range.start, page(first)),
                  .end = std::min(range.end, page(last))};
}

std::optional<Pfn> UnreportedMemory::Head(Queue queue) const {
  if (list(queue).first == kNone) return std::nullopt;
  return FirstPage(list(queue).first);
}

void UnreportedMemory::Enqueue(Pfn pfn, Queue queue, Time now) {
  Dequeue(pfn);
  List& to = list(queue);
  const uint32_t number = NumberOf(pfn);
  Region& added = region(pfn);
  added.queue = queue;
  added.queued = now;
  added.previous_ = to.last;
  added.next_ = kNone;
  (to.last == kNone ? to.first : RegionOf(to.last).next_) = number;
  to.last = number;
  ++to.size;
}

void UnreportedMemory::Dequeue(Pfn pfn) {
  Region& removed = region(pfn);
  if (removed.queue == Queue::kNone) return;
  List& from = list(removed.queue);
  (removed.previous_ == kNone ? from.first
                              : RegionOf(removed.previous_).next_) =
      removed.next_;
  (removed.next_ == kNone ? from.last : RegionOf(removed.next_).previous_) =
      removed.previous_;
  --from.size;
  removed.queue = Queue::kNone;
}

size_t UnreportedMemory::MemoryBytes() const {
  size_t bytes = sizeof(*this) + sections_.size() * sizeof(sections_[0]);
  for (const std::unique_ptr<Section>& section : sections_) {
    if (section == nullptr) continue;
    bytes += sizeof(Section) + section->units.size() * sizeof(uint64_t) +
             section->split.capacity() / 8 +
             section->regions.size() * sizeof(Region);
  }
  return bytes;
}

}  // namespace guestmm
