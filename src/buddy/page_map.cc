#include "guestmm/buddy/page_map.h"

#include <algorithm>
#include <cstddef>
#include <utility>

#include "absl/strings/str_format.h"
#include "guestmm/base/check.h"

namespace guestmm {
std::string_view Name(PageState state) {
  switch (state) {
    case PageState::kOffline:
      return "offline";
    case PageState::kTail:
      return "tail";
    case PageState::kFree:
      return "free";
    case PageState::kAllocated:
      return "allocated";
    case PageState::kCached:
      return "cached";
    case PageState::kIsolated:
      return "isolated";
  }
  return "unknown";
}

std::ostream& operator<<(std::ostream& os, PageState state) {
  return os << Name(state);
}

std::ostream& operator<<(std::ostream& os, PageInfo info) {
  return os << info.state << ", " << info.order;
}

absl::StatusOr<std::unique_ptr<PageMap>> PageMap::Create(
    const Options& options) {
  constexpr uint64_t kEntries = uint64_t{1} << kLinkBits;
  const uint64_t most =
      (kEntries - options.list_heads) & ~(kMaxOrder.pages().value() - 1);
  if (options.end == Pfn(0) || options.end > Pfn(most)) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "the end of memory or hotplug_end, pfn 0x%x, must be 0x1 to 0x%x, for "
        "%d-bit page links",
        options.end.value(), most, kLinkBits));
  }
  // Whole blocks, so that the buddy of any page has an entry.
  Options rounded = options;
  rounded.end = options.end.AlignUp(kMaxOrder);
  const uint64_t pages = rounded.end.value();
  auto states = ReservedArray::Create(pages * sizeof(uint8_t));
  auto entries =
      ReservedArray::Create((pages + options.list_heads) * sizeof(Entry));
  auto pageblocks = ReservedArray::Create(
      (pages >> options.pageblock_order.value()) * sizeof(uint16_t));
  for (const auto* array : {&states, &entries, &pageblocks}) {
    if (array->ok()) continue;
    return absl::ResourceExhaustedError(
        absl::StrFormat("no address space for the metadata of %d pages: %s",
                        options.end.value(), array->status().message()));
  }
  return std::unique_ptr<PageMap>(new PageMap(rounded, *std::move(states),
                                              *std::move(entries),
                                              *std::move(pageblocks)));
}

PageMap::PageMap(const Options& options, ReservedArray states,
                 ReservedArray entries, ReservedArray pageblocks)
    : options_(options),
      state_array_(std::move(states)),
      entry_array_(std::move(entries)),
      pageblock_array_(std::move(pageblocks)),
      states_(static_cast<uint8_t*>(state_array_.data())),
      entries_(static_cast<Entry*>(entry_array_.data())),
      pageblocks_(static_cast<uint16_t*>(pageblock_array_.data())) {}

bool PageMap::Pin(Pfn pfn) {
  LockHolder hold(pins_lock_);
  const uint8_t state = StateOf(pfn);
  if ((state & kUseMask & ~kTypeMask) == kAllocated) {
    SetPins(pfn, kOnePin);
    SetPinned(pfn, state ^ (kAllocated | kPinned));
    return true;
  }
  const uint32_t pins = PinsOf(pfn);
  if (!IsPinned(state) || (pins & kFreed) != 0) return false;
  GUESTMM_CHECK(pins / kOnePin < kMostPins)
      << pfn << " has " << pins / kOnePin << " pins already";
  SetPins(pfn, pins + kOnePin);
  return true;
}

PageMap::Unpinned PageMap::Unpin(Pfn pfn) {
  LockHolder hold(pins_lock_);
  const uint8_t state = StateOf(pfn);
  if (!IsPinned(state)) return Unpinned::kNotPinned;
  const uint32_t pins = PinsOf(pfn) - kOnePin;
  SetPins(pfn, pins);
  if (pins >= kOnePin) return Unpinned::kStillInUse;
  // With the last pin gone, the caller frees the block.
  const bool freed = (pins & kFreed) != 0;
  SetPinned(pfn, state ^ (kAllocated | kPinned));
  return freed ? Unpinned::kLastPinOfFreedBlock : Unpinned::kStillInUse;
}

bool PageMap::FreePinned(Pfn pfn, Order order) {
  LockHolder hold(pins_lock_);
  // Whatever its type.
  if ((StateOf(pfn) & ~kTypeMask) != State(kPinned, order)) return false;
  const uint32_t pins = PinsOf(pfn);
  if ((pins & kFreed) != 0) return false;
  SetPins(pfn, pins | kFreed);
  return true;
}

uint64_t PageMap::pins(Pfn pfn) const {
  LockHolder hold(pins_lock_);
  return IsPinned(StateOf(pfn)) ? PinsOf(pfn) / kOnePin : 0;
}

PageMap::Index PageMap::MakeLists(size_t count) {
  GUESTMM_CHECK(lists_made_ + count <= options_.list_heads)
      << "more lists than planned";
  const auto first = static_cast<Index>(end().value() + lists_made_);
  lists_made_ += count;
  for (size_t i = 0; i < count; ++i) {
    const Index list = first + static_cast<Index>(i);
    lists().Link(list, list);
  }
  return first;
}

void PageMap::Lists::RotateToFront(Index list, Pfn first) const {
  const auto at = static_cast<Index>(first.value());
  if (Next(list) == at) return;
  // Takes the list head out of the ring and inserts it before `first`.
  Link(Prev(list), Next(list));
  Link(Prev(at), list);
  Link(list, at);
}

void PageMap::Release(PfnRange range) {
  const auto start = static_cast<size_t>(range.start.value());
  const auto pages = static_cast<size_t>(range.pages().value());
  state_array_.Discard(start * sizeof(*states_), pages * sizeof(*states_));
  entry_array_.Discard(start * sizeof(*entries_), pages * sizeof(*entries_));
}

absl::StatusOr<uint64_t> PageMap::ResidentBytes() const {
  uint64_t sum = 0;
  for (const ReservedArray* array :
       {&state_array_, &entry_array_, &pageblock_array_}) {
    const absl::StatusOr<uint64_t> resident = array->ResidentBytes();
    if (!resident.ok()) return resident;
    sum += *resident;
  }
  return sum;
}

}  // namespace guestmm
