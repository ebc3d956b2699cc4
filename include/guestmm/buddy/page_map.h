#ifndef GUESTMM_BUDDY_PAGE_MAP_H_
#define GUESTMM_BUDDY_PAGE_MAP_H_

// What the allocator knows of each page, in 9 bytes (Linux's struct page: 64),
// and of each pageblock, in 2.
//
//   states_      [ free|10 | tail | tail | ... | out|0 | ... ]
//   entries_     [ links   |      |      | ... | use   | ... | list heads ]
//   pageblocks_  [ zone, migratetype | ... ]
//
// A state is one byte, written under the zone's lock, so that a merge, which
// asks many pages whether they are free, reads a cache line for 64 of them. A
// block that is out of the free lists is its holder's: what it is used for
// stands in its entry, where its links were, and a vCPU that allocates and
// frees writes there alone, eight pages to a cache line.
//
// Laid out like the kernel's vmemmap: arrays indexed by pfn, in address space
// that is reserved for the whole span but takes memory only where it was
// written, so holes cost nothing.
//
// List heads are entries too, behind the last pfn, so that taking a block off
// its list needs no branch and need not know the list.

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <ostream>
#include <string_view>

#include "absl/status/statusor.h"
#include "guestmm/base/units.h"
#include "guestmm/frame/migratetype.h"
#include "guestmm/frame/no_pfn.h"

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

// Where a free block goes on its list; taken is the one at the head.
enum class ListEnd : bool { kHead, kTail };

std::string_view Name(PageState state);
std::ostream& operator<<(std::ostream& os, PageState state);

// A page's state and, at the head of a block, the block's order.
struct PageInfo {
  PageState state = PageState::kOffline;
  Order order;

  bool operator==(const PageInfo&) const = default;
};

std::ostream& operator<<(std::ostream& os, PageInfo info);

class PageMap {
 public:
  // The index of an entry: a pfn, or a list head.
  using Index = uint32_t;

  struct Options {
    // One past the last page that can be described.
    Pfn end;
    Order pageblock_order = kPageblockOrder;
    // How many lists there will be.
    size_t list_heads = 0;
  };

  // Metadata for the pages [0, end), all offline. InvalidArgument where 30-bit
  // links cannot hold `end`: they reach to 4 TiB. ResourceExhausted where the
  // address space cannot be had.
  static absl::StatusOr<std::unique_ptr<PageMap>> Create(
      const Options& options);
  ~PageMap();
  PageMap(const PageMap&) = delete;
  PageMap& operator=(const PageMap&) = delete;

  Pfn end() const { return options_.end; }
  Order pageblock_order() const { return options_.pageblock_order; }

  // Pages ------------------------------------------------------------------

  // A page's state may be read from any thread; under its zone's lock the
  // answer kFree or kIsolated stays true, and any other stays different.
  PageInfo Get(Pfn pfn) const;
  bool IsFree(Pfn pfn, Order order) const {
    return (StateOf(pfn) & ~kReported) == State(kFree, order);
  }
  // A free block's mark (Linux 5.7's PageReported). It is gone as soon as the
  // block is, taken, split or merged; a move to another list leaves it.
  bool IsReported(Pfn pfn) const { return (StateOf(pfn) & kReported) != 0; }
  // REQUIRES: `pfn` is the head of a free block.
  void SetReported(Pfn pfn) {
    SetState(pfn, static_cast<uint8_t>(StateOf(pfn) | kReported));
  }
  // Allocated at `order`, and by no device pinned. Then what was written under
  // pins that are gone happened before.
  bool IsAllocated(Pfn pfn, Order order) const {
    return (UseRef(pfn).load(std::memory_order_acquire) & ~kTypeMask) ==
           Allocated(order);
  }
  // Whether someone allocated it, by its entry alone: never, unless it is the
  // head of a block that is out.
  bool IsInUse(Pfn pfn) const { return IsAllocation(Use(pfn)); }
  bool IsOffline(Pfn pfn) const { return StateOf(pfn) == kOffline; }
  bool IsTail(Pfn pfn) const { return StateOf(pfn) == kTail; }
  // The first page of the block that `pfn` is in; itself if it is in none.
  Pfn HeadOf(Pfn pfn) const {
    Pfn head = pfn;
    for (int order = 1; IsTail(head) && order <= kMaxOrder.value(); ++order) {
      head = pfn.AlignDown(Order(order));
    }
    return head;
  }

  void SetOffline(Pfn pfn) { SetState(pfn, kOffline); }
  void SetTail(Pfn pfn) { SetState(pfn, kTail); }
  // A block that was taken off its list, or split from one that was, is out:
  // cached, until it is said to be something else.
  void SetOut(Pfn pfn, Order order) { SetState(pfn, State(kOut, order)); }
  // What a block that is out is used for; `type` is what it was asked for as.
  void SetCached(Pfn pfn) { SetUse(pfn, kCached); }
  void SetIsolated(Pfn pfn) { SetUse(pfn, kIsolated); }
  void SetAllocated(Pfn pfn, Order order, MigrateType type) {
    SetUse(pfn, Allocated(order) | static_cast<uint32_t>(type));
  }
  // What an allocated block was asked for as. REQUIRES: it is allocated.
  MigrateType AllocatedAs(Pfn pfn) const {
    return static_cast<MigrateType>(Use(pfn) & kTypeMask);
  }

  // Pins (of allocated blocks; any thread): a block that is freed while it is
  // pinned stays allocated until its last pin goes.

  // False if `pfn` is not the head of an allocated block, or is freed already.
  bool Pin(Pfn pfn);
  enum class Unpinned {
    kStillInUse,
    kLastPinOfFreedBlock,  // the caller frees it now
    kNotPinned,            // no effect
  };
  Unpinned Unpin(Pfn pfn);
  // Marks a pinned block as freed by its owner. False if it is not pinned (any
  // more), or was freed before.
  bool FreePinned(Pfn pfn, Order order);
  uint64_t pins(Pfn pfn) const { return PinsIn(Use(pfn)); }

  // Lists of free blocks -----------------------------------------------------

  // `count` empty lists, side by side; returns the first. REQUIRES: no more
  // than `list_heads` in all.
  Index MakeLists(size_t count);
  // The operations on lists.
  class Lists;
  Lists lists() const;

  // Pageblocks ---------------------------------------------------------------

  struct Pageblock {
    static constexpr uint8_t kNoZone = 0xff;
    // The index of its zone: a pageblock has one at most.
    uint8_t zone = kNoZone;
    MigrateType type = MigrateType::kMovable;
  };
  // Written under the zone's lock, readable without.
  Pageblock pageblock(Pfn pfn) const {
    const uint16_t bits = PageblockRef(pfn).load(std::memory_order_relaxed);
    return {.zone = static_cast<uint8_t>((bits & 0xff) - 1),
            .type = static_cast<MigrateType>(bits >> 8)};
  }
  void SetPageblock(Pfn pfn, Pageblock block) {
    const auto zone = static_cast<uint8_t>(block.zone + 1);
    PageblockRef(pfn).store(
        static_cast<uint16_t>(static_cast<int>(block.type) << 8 | zone),
        std::memory_order_relaxed);
  }

  // Gives the host what the metadata of `range` took. REQUIRES: all of it is
  // offline, and no one looks.
  void Release(PfnRange range);
  // The host memory that the metadata takes, as the kernel tells it.
  // Unavailable if it does not.
  absl::StatusOr<uint64_t> ResidentBytes() const;

  // Memory for one page's metadata, in bytes.
  static constexpr size_t kBytesPerPage = 9;

 private:
  struct Entry {
    uint32_t next;
    uint32_t prev_or_use;
  };
  static_assert(sizeof(Entry) + sizeof(uint8_t) == kBytesPerPage);

  // A state byte: what the zone knows; at a head, the order below it. A byte
  // that was never written is offline.
  static constexpr int kOrderBits = 4;
  static constexpr uint8_t kOffline = 0;
  static constexpr uint8_t kTail = 1;
  static constexpr uint8_t kFree = 1 << kOrderBits;
  static constexpr uint8_t kOut = 2 << kOrderBits;
  static constexpr uint8_t kReported = 4 << kOrderBits;  // with kFree
  static constexpr uint8_t State(uint8_t state, Order order) {
    return static_cast<uint8_t>(state | order.bits());
  }

  // The use of a block that is out. Its tag is what a link does not reach, so
  // that what is left of a link means cached.
  //
  //    31 30 29   26 25       4  3     2    0
  //   [ tag | order | pins    | freed | type ]   allocated
  static constexpr int kLinkBits = 30;
  static constexpr uint32_t kCached = 0;
  static constexpr uint32_t kIsolated = 1U << kLinkBits;
  static constexpr uint32_t kAllocated = 2U << kLinkBits;
  static constexpr uint32_t kTagMask = 3U << kLinkBits;
  static constexpr int kUseOrderShift = 26;
  static constexpr uint32_t kTypeMask = 7;
  static constexpr uint32_t kFreed = 8;  // while pinned
  static constexpr uint32_t kOnePin = 16;
  static constexpr uint32_t kPinsMask = (1U << kUseOrderShift) - kOnePin;
  static constexpr uint32_t Allocated(Order order) {
    return kAllocated | order.bits() << kUseOrderShift;
  }
  static bool IsAllocation(uint32_t use) {
    return (use & kTagMask) == kAllocated;
  }
  static uint64_t PinsIn(uint32_t use) {
    return IsAllocation(use) ? (use & kPinsMask) / kOnePin : 0;
  }

  // Null where there was no room.
  explicit PageMap(const Options& options);

  size_t state_bytes() const;
  size_t entry_bytes() const;
  size_t pageblock_bytes() const;

  // Relaxed atomics, since others look at pages that are in a vCPU's hands, or
  // another zone's.
  uint8_t StateOf(Pfn pfn) const {
    return std::atomic_ref(states_[pfn.value()])
        .load(std::memory_order_relaxed);
  }
  void SetState(Pfn pfn, uint8_t state) {
    std::atomic_ref(states_[pfn.value()])
        .store(state, std::memory_order_relaxed);
  }
  std::atomic_ref<uint32_t> UseRef(Pfn pfn) const {
    return std::atomic_ref(entries_[pfn.value()].prev_or_use);
  }
  uint32_t Use(Pfn pfn) const {
    return UseRef(pfn).load(std::memory_order_relaxed);
  }
  void SetUse(Pfn pfn, uint32_t use) {
    UseRef(pfn).store(use, std::memory_order_relaxed);
  }
  std::atomic_ref<uint16_t> PageblockRef(Pfn pfn) const {
    return std::atomic_ref<uint16_t>(
        pageblocks_[pfn.value() >> options_.pageblock_order.value()]);
  }

  const Options options_;
  uint8_t* const states_;
  Entry* const entries_;
  uint16_t* const pageblocks_;
  size_t lists_made_ = 0;
};

// The lists of a page map. A value of its own, to be kept in a local variable:
// the compiler takes it that any store to an entry may change a member that the
// entries are found by.
//
// REQUIRES for all: the lock of the zone that owns the list.
class PageMap::Lists {
 public:
  Lists(uint8_t* states, Entry* entries) : states_(states), entries_(entries) {}

  // Makes `pfn` the head of a free block and puts it on `list`. Which end may
  // be hard to foresee: written to need no branch.
  void Push(Index list, Pfn pfn, Order order, ListEnd end) const {
    const Index first = Next(list);
    const Index last = Prev(list);
    const Index tail = end == ListEnd::kTail ? ~Index{0} : 0;
    const auto at = static_cast<Index>(pfn.value());
    std::atomic_ref(states_[at])
        .store(State(kFree, order), std::memory_order_relaxed);
    Link(list ^ ((list ^ last) & tail), at);
    Link(at, first ^ ((first ^ list) & tail));
  }
  // Takes a free block off its list; the list if that is now empty, else 0. Its
  // state is the caller's to write.
  Index Remove(Pfn pfn) const {
    const auto at = static_cast<Index>(pfn.value());
    const Index next = Next(at);
    const Index prev = Prev(at);
    Link(prev, next);
    return next == prev ? next : 0;
  }
  // Fetches what Remove(pfn) will change.
  void PrefetchNeighbours(Pfn pfn) const {
    const auto at = static_cast<Index>(pfn.value());
    __builtin_prefetch(&entries_[Next(at)], /*rw=*/1);
    __builtin_prefetch(&entries_[Prev(at)], /*rw=*/1);
  }
  bool IsFree(Pfn pfn, Order order) const {
    return (std::atomic_ref(states_[pfn.value()])
                .load(std::memory_order_relaxed) &
            ~kReported) == State(kFree, order);
  }
  void SetTail(Pfn pfn) const {
    std::atomic_ref(states_[pfn.value()])
        .store(kTail, std::memory_order_relaxed);
  }
  bool Empty(Index list) const { return Next(list) == list; }
  // The list's first element, and the ones after and before `at`; `list` at the
  // end.
  Index First(Index list) const { return Next(list); }
  Index Next(Index at) const {
    return std::atomic_ref(entries_[at].next).load(std::memory_order_relaxed);
  }
  Index Prev(Index at) const {
    return std::atomic_ref(entries_[at].prev_or_use)
        .load(std::memory_order_relaxed);
  }
  // Makes `first`, which is on `list`, its first, and what was before it last.
  void RotateToFront(Index list, Pfn first) const;

 private:
  friend class PageMap;

  void Link(Index prev, Index next) const {
    std::atomic_ref(entries_[prev].next).store(next, std::memory_order_relaxed);
    std::atomic_ref(entries_[next].prev_or_use)
        .store(prev, std::memory_order_relaxed);
  }

  uint8_t* states_;
  Entry* entries_;
};

inline PageMap::Lists PageMap::lists() const {
  return Lists(states_, entries_);
}

}  // namespace guestmm

#endif  // GUESTMM_BUDDY_PAGE_MAP_H_
