#ifndef GUESTMM_BUDDY_PAGE_MAP_H_
#define GUESTMM_BUDDY_PAGE_MAP_H_

// What the allocator knows of each page: one state byte and two 32-bit links,
// 9 bytes (Linux's struct page: 64).
//
// Laid out like the kernel's vmemmap: two arrays indexed by pfn, in address
// space that is reserved for the whole span but takes memory only where a page
// of it was written, so holes cost nothing.
//
//   states_  [ free|10 | tail | tail | ... | allocated|0 | offline ... ]
//   links_   [ {next, prev} of the heads of free blocks ... | list heads ]
//
// List heads are links too, behind the last pfn, so that taking a block off its
// list needs no branch and need not know the list.

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <ostream>
#include <string_view>

#include "absl/status/statusor.h"
#include "guestmm/base/units.h"

namespace guestmm {

// Each page is in exactly one state (docs/invariants.md, P1). A block's state
// stands in its first page, the head; its other pages are tails, and share it.
enum class PageState : uint8_t {
  kOffline,    // no such page, or not given to the allocator
  kTail,       // part of the block whose head comes before
  kFree,       // on a free list of its zone
  kAllocated,  // in use
  kCached,     // on a per-CPU list
  kIsolated,   // off the free lists, on its way to the host and back
};

std::string_view Name(PageState state);
std::ostream& operator<<(std::ostream& os, PageState state);

// A page's state and, at the head of a block, the block's order.
struct PageInfo {
  PageState state = PageState::kOffline;
  Order order;

  bool operator==(const PageInfo&) const = default;
};

std::ostream& operator<<(std::ostream& os, PageInfo info);

// "No page" among the allocator's own calls; its users see std::optional. That
// one comes back in memory from behind a call, written in two pieces and read
// in one, and the stall costs more than the rest of an allocation (gcc 12).
inline constexpr Pfn kNoPfn{~uint64_t{0}};

// Written so that, inlined, it stays in registers: one object, returned by
// name.
inline std::optional<Pfn> ToOptional(Pfn pfn) {
  std::optional<Pfn> result(pfn);
  if (pfn == kNoPfn) result.reset();
  return result;
}

class PageMap {
 public:
  // The index of a link: a pfn, or a list head.
  using Index = uint32_t;

  // Metadata for the pages [0, end), all offline, and room for `list_heads`
  // lists. InvalidArgument where 32-bit links cannot hold `end`;
  // ResourceExhausted where the address space cannot be had.
  static absl::StatusOr<std::unique_ptr<PageMap>> Create(Pfn end,
                                                         size_t list_heads);
  ~PageMap();
  PageMap(const PageMap&) = delete;
  PageMap& operator=(const PageMap&) = delete;

  // One past the last page that can be described.
  Pfn end() const { return end_; }

  // A page's state may be read from any thread; under its zone's lock the
  // answer kFree or kIsolated stays true, and any other stays different.
  PageInfo Get(Pfn pfn) const {
    const uint8_t byte = StateRef(pfn).load(std::memory_order_relaxed);
    return {.state = static_cast<PageState>(byte >> kOrderBits),
            .order = Order(byte & kOrderMask)};
  }
  void Set(Pfn pfn, PageState state, Order order = Order(0)) {
    StateRef(pfn).store(Encode(state, order), std::memory_order_relaxed);
  }
  bool Is(Pfn pfn, PageState state, Order order) const {
    return StateRef(pfn).load(std::memory_order_relaxed) ==
           Encode(state, order);
  }
  // Fetches a page's state and links ahead of their use.
  void Prefetch(Pfn pfn) const {
    __builtin_prefetch(&states_[pfn.value()]);
    __builtin_prefetch(&links_[pfn.value()]);
  }

  // An empty list. REQUIRES: fewer than `list_heads` lists were made.
  Index MakeList();
  // REQUIRES for all below: the lock of the zone that owns the list.
  void PushFront(Index list, Pfn pfn) { Insert(list, links_[list].next, pfn); }
  void PushBack(Index list, Pfn pfn) { Insert(links_[list].prev, list, pfn); }
  void Remove(Pfn pfn) {
    const Link link = links_[pfn.value()];
    links_[link.prev].next = link.next;
    links_[link.next].prev = link.prev;
  }
  // Fetches the links that Remove(pfn) will change.
  void PrefetchNeighbours(Pfn pfn) const {
    const Link link = links_[pfn.value()];
    __builtin_prefetch(&links_[link.prev]);
    __builtin_prefetch(&links_[link.next]);
  }
  bool Empty(Index list) const { return links_[list].next == list; }
  // The list's first element, and the one after `at`; `list` at the end.
  Index First(Index list) const { return links_[list].next; }
  Index Next(Index at) const { return links_[at].next; }

  // Memory for one page's metadata, in bytes.
  static constexpr size_t kBytesPerPage = 9;

 private:
  struct Link {
    Index next;
    Index prev;
  };
  static_assert(sizeof(Link) + sizeof(uint8_t) == kBytesPerPage);

  static constexpr int kOrderBits = 4;
  static constexpr uint8_t kOrderMask = (1 << kOrderBits) - 1;

  static constexpr uint8_t Encode(PageState state, Order order) {
    return static_cast<uint8_t>((static_cast<int>(state) << kOrderBits) |
                                order.value());
  }

  PageMap(Pfn end, uint8_t* states, Link* links, size_t list_heads)
      : end_(end), states_(states), links_(links), list_heads_(list_heads) {}

  // Relaxed atomics, since per-CPU lists change the state of pages of theirs
  // while a zone's merge looks at them as neighbours.
  std::atomic_ref<uint8_t> StateRef(Pfn pfn) const {
    return std::atomic_ref<uint8_t>(states_[pfn.value()]);
  }
  void Insert(Index prev, Index next, Pfn pfn) {
    const auto at = static_cast<Index>(pfn.value());
    links_[at] = {.next = next, .prev = prev};
    links_[prev].next = at;
    links_[next].prev = at;
  }

  const Pfn end_;
  uint8_t* const states_;
  Link* const links_;
  const size_t list_heads_;
  size_t lists_made_ = 0;
};

}  // namespace guestmm

#endif  // GUESTMM_BUDDY_PAGE_MAP_H_
