#ifndef GUESTMM_BUDDY_PAGE_MAP_H_
#define GUESTMM_BUDDY_PAGE_MAP_H_

// What the allocator knows of each page, in 8 bytes (Linux's struct page: 64),
// and of each pageblock, in 2.
//
//   entries_     [ free|10 | tail | tail | ... | allocated|0 | ... | list heads
//   ] pageblocks_  [ zone, migratetype | ... ]
//
// One entry, which is read and written whole:
//
//    63   62 61    58 57         29 28          0
//   [ state | order  | prev        | next        ]   a free block's head
//   [ state | order  | payload                   ]   anything else
//
// Laid out like the kernel's vmemmap: arrays indexed by pfn, in address space
// that is reserved for the whole span but takes memory only where it was
// written, so holes cost nothing. Of a cache line's eight pages all are buddies
// up to order 2, and a free's merges seldom leave the line.
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
#include "guestmm/buddy/migratetype.h"

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
  // The index of an entry: a pfn, or a list head.
  using Index = uint32_t;

  struct Options {
    // One past the last page that can be described.
    Pfn end;
    Order pageblock_order = kPageblockOrder;
    // How many lists there will be.
    size_t list_heads = 0;
  };

  // Metadata for the pages [0, end), all offline. InvalidArgument where 29-bit
  // links cannot hold `end`: they reach to 2 TiB. ResourceExhausted where the
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
  PageInfo Get(Pfn pfn) const { return Decode(Load(pfn)); }
  bool IsFree(Pfn pfn, Order order) const {
    return Load(pfn) >> kOrderShift == (kFreeTag | order.bits());
  }
  bool IsCached(Pfn pfn, Order order) const {
    return Load(pfn) == Held(order, kCached);
  }
  bool IsIsolated(Pfn pfn, Order order) const {
    return Load(pfn) == Held(order, kIsolated);
  }
  // Allocated at `order`, and by no device pinned. Then what was written under
  // pins that are gone happened before.
  bool IsAllocated(Pfn pfn, Order order) const {
    const uint64_t entry =
        Ref(static_cast<Index>(pfn.value())).load(std::memory_order_acquire);
    return (entry & ~kTypeMask) == Allocated(order);
  }
  bool IsOffline(Pfn pfn) const { return Load(pfn) == kOffline; }
  bool IsTail(Pfn pfn) const { return Load(pfn) == kTail; }

  void SetOffline(Pfn pfn) { Store(pfn, kOffline); }
  void SetTail(Pfn pfn) { Store(pfn, kTail); }
  void SetCached(Pfn pfn, Order order) { Store(pfn, Held(order, kCached)); }
  void SetIsolated(Pfn pfn, Order order) { Store(pfn, Held(order, kIsolated)); }
  // `type` is what it was asked for as.
  void SetAllocated(Pfn pfn, Order order, MigrateType type) {
    Store(pfn, Allocated(order) | static_cast<uint64_t>(type));
  }
  // What an allocated block was asked for as. REQUIRES: it is allocated.
  MigrateType AllocatedAs(Pfn pfn) const {
    return static_cast<MigrateType>(Load(pfn) & kTypeMask);
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
  uint64_t pins(Pfn pfn) const { return PinsIn(Load(pfn)); }

  // Fetches a page's entry ahead of its use.
  void Prefetch(Pfn pfn) const {
    __builtin_prefetch(&entries_[pfn.value()], /*rw=*/1);
  }

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
  static constexpr size_t kBytesPerPage = sizeof(uint64_t);

 private:
  static constexpr int kLinkBits = 29;
  static constexpr uint64_t kLinkMask = (uint64_t{1} << kLinkBits) - 1;
  static constexpr int kOrderShift = 2 * kLinkBits;
  static constexpr int kOrderBits = 4;

  // The two topmost bits; with the order below them, a tag.
  static constexpr uint64_t kNeitherTag = 0 << kOrderBits;  // of these:
  static constexpr uint64_t kFreeTag = 1 << kOrderBits;
  static constexpr uint64_t kAllocatedTag = 2 << kOrderBits;
  static constexpr uint64_t kHeldTag = 3 << kOrderBits;  // cached, isolated
  // Payloads of kNeitherTag. An entry that was never written is offline.
  static constexpr uint64_t kOffline = 0;
  static constexpr uint64_t kTail = 1;
  // Payloads of kHeldTag.
  static constexpr uint64_t kCached = 0;
  static constexpr uint64_t kIsolated = 1;
  // Payload of kAllocatedTag: the type; freed while pinned; the pins.
  static constexpr uint64_t kTypeMask = 7;
  static constexpr uint64_t kFreed = 8;
  static constexpr uint64_t kOnePin = 16;
  static constexpr uint64_t kPayloadMask = (uint64_t{1} << kOrderShift) - 1;

  static constexpr uint64_t Tagged(uint64_t tag, Order order) {
    return (tag | order.bits()) << kOrderShift;
  }
  static constexpr uint64_t Held(Order order, uint64_t payload) {
    return Tagged(kHeldTag, order) | payload;
  }
  static constexpr uint64_t Allocated(Order order) {
    return Tagged(kAllocatedTag, order);
  }
  static constexpr Index NextOf(uint64_t entry) {
    return static_cast<Index>(entry & kLinkMask);
  }
  static constexpr Index PrevOf(uint64_t entry) {
    return static_cast<Index>(entry >> kLinkBits & kLinkMask);
  }

  static PageInfo Decode(uint64_t entry);
  static uint64_t PinsIn(uint64_t entry);

  PageMap(const Options& options, uint64_t* entries, uint16_t* pageblocks)
      : options_(options), entries_(entries), pageblocks_(pageblocks) {}

  size_t entry_bytes() const;
  size_t pageblock_bytes() const;

  // Relaxed atomics, since per-CPU lists change the state of pages of theirs
  // while a zone's merge looks at them as neighbours.
  std::atomic_ref<uint64_t> Ref(Index at) const {
    return std::atomic_ref<uint64_t>(entries_[at]);
  }
  uint64_t LoadAt(Index at) const {
    return Ref(at).load(std::memory_order_relaxed);
  }
  uint64_t Load(Pfn pfn) const {
    return LoadAt(static_cast<Index>(pfn.value()));
  }
  void StoreAt(Index at, uint64_t entry) {
    Ref(at).store(entry, std::memory_order_relaxed);
  }
  void Store(Pfn pfn, uint64_t entry) {
    StoreAt(static_cast<Index>(pfn.value()), entry);
  }
  std::atomic_ref<uint16_t> PageblockRef(Pfn pfn) const {
    return std::atomic_ref<uint16_t>(
        pageblocks_[pfn.value() >> options_.pageblock_order.value()]);
  }

  const Options options_;
  uint64_t* const entries_;
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
  explicit Lists(uint64_t* entries) : entries_(entries) {}

  // Makes `pfn` the head of a free block and puts it on `list`.
  void PushFront(Index list, Pfn pfn, Order order) const {
    Insert(list, Next(list), pfn, order);
  }
  void PushBack(Index list, Pfn pfn, Order order) const {
    Insert(Prev(list), list, pfn, order);
  }
  // Takes a free block off its list; the list if that is now empty, else 0. Its
  // entry is the caller's to write.
  Index Remove(Pfn pfn) const {
    const uint64_t entry = Load(static_cast<Index>(pfn.value()));
    const Index next = NextOf(entry);
    const Index prev = PrevOf(entry);
    SetNext(prev, next);
    SetPrev(next, prev);
    return next == prev ? next : 0;
  }
  // Fetches the entries that Remove(pfn) will change.
  void PrefetchNeighbours(Pfn pfn) const {
    const uint64_t entry = Load(static_cast<Index>(pfn.value()));
    __builtin_prefetch(&entries_[NextOf(entry)], /*rw=*/1);
    __builtin_prefetch(&entries_[PrevOf(entry)], /*rw=*/1);
  }
  bool IsFree(Pfn pfn, Order order) const {
    return Load(static_cast<Index>(pfn.value())) >> kOrderShift ==
           (kFreeTag | order.bits());
  }
  void SetTail(Pfn pfn) const { Store(static_cast<Index>(pfn.value()), kTail); }
  bool Empty(Index list) const { return Next(list) == list; }
  // The list's first element, and the ones after and before `at`; `list` at the
  // end.
  Index First(Index list) const { return Next(list); }
  Index Next(Index at) const { return NextOf(Load(at)); }
  Index Prev(Index at) const { return PrevOf(Load(at)); }
  // Makes `first`, which is on `list`, its first, and what was before it last.
  void RotateToFront(Index list, Pfn first) const;

 private:
  uint64_t Load(Index at) const {
    return std::atomic_ref<uint64_t>(entries_[at])
        .load(std::memory_order_relaxed);
  }
  void Store(Index at, uint64_t entry) const {
    std::atomic_ref<uint64_t>(entries_[at])
        .store(entry, std::memory_order_relaxed);
  }
  void SetNext(Index at, Index next) const {
    Store(at, (Load(at) & ~kLinkMask) | next);
  }
  void SetPrev(Index at, Index prev) const {
    Store(at,
          (Load(at) & ~(kLinkMask << kLinkBits)) | uint64_t{prev} << kLinkBits);
  }
  void Insert(Index prev, Index next, Pfn pfn, Order order) const {
    const auto at = static_cast<Index>(pfn.value());
    Store(at, Tagged(kFreeTag, order) | uint64_t{prev} << kLinkBits | next);
    SetNext(prev, at);
    SetPrev(next, at);
  }

  uint64_t* entries_;
};

inline PageMap::Lists PageMap::lists() const { return Lists(entries_); }

}  // namespace guestmm

#endif  // GUESTMM_BUDDY_PAGE_MAP_H_
