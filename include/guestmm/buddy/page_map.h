#ifndef GUESTMM_BUDDY_PAGE_MAP_H_
#define GUESTMM_BUDDY_PAGE_MAP_H_

// The allocator's metadata: 9 bytes per page (Linux's struct page: 64) and 2
// per pageblock.
//
//   states_      [ free|10 | tail | tail | ... | allocated|0 | cached|0 | ... ]
//   entries_     [ links   |      |      | ... | its owner's |          | ...
//                  list heads ]
//   pageblocks_  [ zone, migratetype | ... ]
//
// A state is one byte, at the head of a block with the block's order: a merge
// that tests whether many pages are free, and a vCPU that allocates and frees,
// touch one cache line for 64 pages. The owner of the block writes it:
//
//   offline, tail, free, isolated   the zone, under its lock
//   cached                          a vCPU, under the lock of its lists
//   allocated                       the thread that was given the block
//   pinned                          the page map, under its lock of pins
//
// Only an owner hands a block over, by writing the new owner's state. Others
// may read the byte at any time; to a merge all blocks that are not free look
// alike. The entry of a free block holds the links of its list. That of an
// allocated block has no links: it counts the pins of a pinned block, and has
// 16 bits to spare for a number of the owner's.
//
// The layout is that of the kernel's vmemmap: arrays indexed by pfn, in address
// space that is reserved for the whole span and backed only where it was
// written, so holes cost nothing. Nor does memory that was never used: a state
// never written is a tail's, or that of an untouched block, a free one of
// kMaxOrder whose place on its list follows from its neighbours (Zone).
//
// List heads are entries behind the last pfn, so that taking a block off its
// list needs no branch and need not know the list.

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <ostream>
#include <string_view>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "guestmm/base/export.h"
#include "guestmm/base/lock.h"
#include "guestmm/base/units.h"
#include "guestmm/frame/migratetype.h"
#include "guestmm/frame/no_pfn.h"
#include "guestmm/ram/reserved_array.h"

namespace GUESTMM_EXPORT guestmm {

// Each page is in exactly one state (docs/invariants.md, P1). The head, a
// block's first page, holds the block's state; its other pages are tails and
// share it.
enum class PageState : uint8_t {
  kOffline,    // absent, or not yet added to a zone
  kTail,       // part of a block whose head has a lower pfn
  kFree,       // on a free list of its zone
  kAllocated,  // in use
  kCached,     // on a per-CPU list
  kIsolated,   // off-list, for the host to discard
};

// The end of a free list to insert at. Allocations take from the head.
enum class ListEnd : bool { kHead, kTail };

std::string_view Name(PageState state);
std::ostream& operator<<(std::ostream& os, PageState state);

// A page's state and, at the head of a block, the block's order; else order 0.
struct PageInfo {
  PageState state = PageState::kOffline;
  Order order;

  bool operator==(const PageInfo&) const = default;
};

std::ostream& operator<<(std::ostream& os, PageInfo info);

class PageMap {
 public:
  // Indexes an entry: a pfn, or a list head.
  using Index = uint32_t;

  struct Options {
    // One past the highest page.
    Pfn end;
    Order pageblock_order = kPageblockOrder;
    // The number of lists that MakeLists may make in all.
    size_t list_heads = 0;
  };

  // Makes metadata for the pages [0, end), all offline. InvalidArgument if
  // `end` does not fit 30-bit links, which reach to 4 TiB. ResourceExhausted if
  // the address space cannot be reserved.
  static absl::StatusOr<std::unique_ptr<PageMap>> Create(
      const Options& options);
  PageMap(const PageMap&) = delete;
  PageMap& operator=(const PageMap&) = delete;

  Pfn end() const { return options_.end; }
  Order pageblock_order() const { return options_.pageblock_order; }

  // Pages ------------------------------------------------------------------

  // Thread-safe. Under the zone's lock, kFree and kIsolated cannot change, and
  // no other state can become kFree or kIsolated.
  PageInfo Get(Pfn pfn) const {
    const uint8_t state = StateOf(pfn);
    if (state == kTail) {
      if (!HasZone(pfn)) return {};
      if (pfn.IsAligned(kMaxOrder)) return {PageState::kFree, kMaxOrder};
      return {.state = PageState::kTail, .order = Order(0)};
    }
    const Order order(state & ~kUseMask);
    switch (state & kUseMask) {
      case kCached:
        return {.state = PageState::kCached, .order = order};
      case kFree:
      case kFree | kReported:
        return {.state = PageState::kFree, .order = order};
      case kIsolated:
        return {.state = PageState::kIsolated, .order = order};
      case kOffline:
        return {};
      default:
        return {.state = PageState::kAllocated, .order = order};
    }
  }
  bool IsFree(Pfn pfn, Order order) const {
    return IsFree(StateOf(pfn), order);
  }
  // True if `pfn` is the head of a free block that is marked as reported (Linux
  // 5.7, PageReported). Taking, splitting or merging the block clears the mark;
  // moving it to another list keeps it.
  bool IsReported(Pfn pfn) const {
    return (StateOf(pfn) & kUseMask) == (kFree | kReported);
  }
  // REQUIRES: `pfn` is the head of a free block.
  void SetReported(Pfn pfn) {
    SetState(pfn, static_cast<uint8_t>(StateOf(pfn) | kReported));
  }
  // True if `pfn` is the head of a block that is allocated at `order` and not
  // pinned. Writes made under earlier pins happen before a true result.
  bool IsAllocated(Pfn pfn, Order order) const;
  bool IsOffline(Pfn pfn) const {
    const uint8_t state = StateOf(pfn);
    return state == kOffline || (state == kTail && !HasZone(pfn));
  }
  bool IsTail(Pfn pfn) const {
    return StateOf(pfn) == kTail && !pfn.IsAligned(kMaxOrder) && HasZone(pfn);
  }
  // True if `pfn` is the head of a free block of kMaxOrder that was never used
  // since its memory came: not IsFree yet, but Get says so.
  bool IsUntouched(Pfn pfn) const {
    return StateOf(pfn) == kTail && pfn.IsAligned(kMaxOrder) && HasZone(pfn);
  }
  // The head of the block that contains `pfn`; `pfn` itself if none does.
  Pfn HeadOf(Pfn pfn) const {
    Pfn head = pfn;
    if (!HasZone(pfn)) return head;
    for (int order = 1; StateOf(head) == kTail && order <= kMaxOrder.value();
         ++order) {
      head = pfn.AlignDown(Order(order));
    }
    return head;
  }

  // Needed only beside online pages: all pages of a pageblock without a zone
  // are offline, and their states must be as never written.
  void SetOffline(Pfn pfn) { SetState(pfn, kOffline); }
  // Sets the state of a page never written.
  void SetTail(Pfn pfn) { SetState(pfn, kTail); }
  // Set the state of a block that is off the free lists. `type` is the type of
  // the request, one of the kRequestTypes.
  void SetCached(Pfn pfn, Order order);
  void SetIsolated(Pfn pfn, Order order) {
    SetState(pfn, State(kIsolated, order));
  }
  void SetAllocated(Pfn pfn, Order order, MigrateType type);
  // The type of the request that a block was allocated for. REQUIRES: `pfn` is
  // the head of an allocated block.
  MigrateType AllocatedAs(Pfn pfn) const {
    return static_cast<MigrateType>((StateOf(pfn) & kTypeMask) >> kTypeShift);
  }

  // Pins of allocated blocks; thread-safe, but an owner must not free a block
  // that has no pin while another thread pins it. A block that is freed while
  // pinned stays allocated until its last pin is dropped.

  // False, with no effect, if `pfn` is not the head of an allocated block, or
  // if its owner has freed it.
  bool Pin(Pfn pfn) ABSL_LOCKS_EXCLUDED(pins_lock_);
  enum class Unpinned {
    kStillInUse,
    kLastPinOfFreedBlock,  // the caller must free it
    kNotPinned,            // no effect
  };
  Unpinned Unpin(Pfn pfn) ABSL_LOCKS_EXCLUDED(pins_lock_);
  // Marks a pinned block as freed by its owner. False, with no effect, if it is
  // not, or no longer, pinned, or was freed before.
  bool FreePinned(Pfn pfn, Order order) ABSL_LOCKS_EXCLUDED(pins_lock_);
  uint64_t pins(Pfn pfn) const ABSL_LOCKS_EXCLUDED(pins_lock_);

  // Lists of free blocks -----------------------------------------------------

  // Makes `count` empty lists at adjacent indices; returns the first. REQUIRES:
  // at most `list_heads` in all (CHECKed).
  Index MakeLists(size_t count);
  class Lists;
  Lists lists() const;

  // Pageblocks ---------------------------------------------------------------

  struct Pageblock {
    static constexpr uint8_t kNoZone = 0xff;
    // The index of the zone; a pageblock is in one zone at most.
    uint8_t zone = kNoZone;
    MigrateType type = MigrateType::kMovable;

    bool operator==(const Pageblock&) const = default;
  };
  // Written under the zone's lock; may be read without it.
  Pageblock pageblock(Pfn pfn) const;
  void SetPageblock(Pfn pfn, Pageblock block);

  // What a vCPU needs of the blocks that it allocates and frees. A separate
  // value, as Lists is.
  class Blocks;
  Blocks blocks() const;

  // Returns the metadata of `range` to the host. REQUIRES: all of it is
  // offline; no concurrent access to it.
  void Release(PfnRange range);
  // Host memory that backs the metadata. The error of
  // ReservedArray::ResidentBytes.
  absl::StatusOr<uint64_t> ResidentBytes() const;

  // Bytes of metadata per page.
  static constexpr size_t kBytesPerPage = 9;

 private:
  // Of a free block, or a list head: the links. Of a pinned block: its pins.
  struct Entry {
    uint32_t next;
    uint32_t prev_or_pins;
  };
  static_assert(sizeof(Entry) + sizeof(uint8_t) == kBytesPerPage);

  // A state byte: the use in the upper half; at a head, the block's order in
  // the lower half. A byte never written, 0, means a tail; at a pfn aligned to
  // kMaxOrder, which is no tail, an untouched block; and offline in a pageblock
  // without a zone.
  //
  //   0000 tail            01tt allocated as type tt
  //   0001 cached          10tt the same, pinned
  //   001r free; reported  1100 isolated
  //                        1101 offline, in a pageblock with a zone
  static constexpr int kOrderBits = 4;
  static constexpr int kTypeShift = kOrderBits;
  static constexpr uint8_t kUseMask = 0xf0;
  static constexpr uint8_t kTypeMask = 0x30;  // with kAllocated, kPinned
  static constexpr uint8_t kTail = 0;
  static constexpr uint8_t kCached = 0x10;
  static constexpr uint8_t kFree = 0x20;
  static constexpr uint8_t kReported = 0x10;  // with kFree
  static constexpr uint8_t kAllocated = 0x40;
  static constexpr uint8_t kPinned = 0x80;
  static constexpr uint8_t kIsolated = 0xc0;
  static constexpr uint8_t kOffline = 0xd0;
  static_assert(kRequestTypes <= (kTypeMask >> kTypeShift) + 1);
  static constexpr uint8_t State(uint8_t use, Order order) {
    return static_cast<uint8_t>(use | order.bits());
  }
  static bool IsFree(uint8_t state, Order order) {
    return (state & ~kReported) == State(kFree, order);
  }
  static bool IsPinned(uint8_t state) {
    return (state & kUseMask & ~kTypeMask) == kPinned;
  }

  static constexpr int kLinkBits = 30;

  // The pins of a block, and whether its owner has freed it.
  static constexpr uint32_t kFreed = 1;
  static constexpr uint32_t kOnePin = 2;
  static constexpr uint32_t kMostPins = (1U << 22) - 1;

  PageMap(const Options& options, ReservedArray states, ReservedArray entries,
          ReservedArray pageblocks);

  bool HasZone(Pfn pfn) const {
    return pageblock(pfn).zone != Pageblock::kNoZone;
  }

  // Relaxed atomics, since other threads read pages that a vCPU owns, or that
  // are another zone's.
  uint8_t StateOf(Pfn pfn) const {
    return std::atomic_ref(states_[pfn.value()])
        .load(std::memory_order_relaxed);
  }
  void SetState(Pfn pfn, uint8_t state) {
    std::atomic_ref(states_[pfn.value()])
        .store(state, std::memory_order_relaxed);
  }
  // Written under pins_lock_; relaxed atomics, since a prefetch may take them
  // for the links that they were.
  uint32_t PinsOf(Pfn pfn) const {
    return std::atomic_ref(entries_[pfn.value()].prev_or_pins)
        .load(std::memory_order_relaxed);
  }
  void SetPins(Pfn pfn, uint32_t pins) {
    std::atomic_ref(entries_[pfn.value()].prev_or_pins)
        .store(pins, std::memory_order_relaxed);
  }
  // Publishes what was done under the pins.
  void SetPinned(Pfn pfn, uint8_t state) {
    std::atomic_ref(states_[pfn.value()])
        .store(state, std::memory_order_release);
  }

  const Options options_;
  ReservedArray state_array_;
  ReservedArray entry_array_;
  ReservedArray pageblock_array_;
  uint8_t* const states_;
  Entry* const entries_;
  uint16_t* const pageblocks_;
  size_t lists_made_ = 0;
  // Guards the change between allocated and pinned, and the pins.
  mutable SpinLock pins_lock_;
};

class PageMap::Blocks {
 public:
  Blocks(uint8_t* states, uint16_t* pageblocks, Order pageblock_order)
      : states_(states),
        pageblocks_(pageblocks),
        pageblock_order_(pageblock_order) {}

  // As those of PageMap.
  [[gnu::always_inline]] bool IsAllocated(Pfn pfn, Order order) const {
    const uint8_t state =
        std::atomic_ref(states_[pfn.value()]).load(std::memory_order_acquire);
    return (state & ~kTypeMask) == State(kAllocated, order);
  }
  [[gnu::always_inline]] void SetCached(Pfn pfn, Order order) const {
    SetState(pfn, State(kCached, order));
  }
  [[gnu::always_inline]] void SetAllocated(Pfn pfn, Order order,
                                           MigrateType type) const {
    SetState(pfn,
             static_cast<uint8_t>(State(kAllocated, order) |
                                  static_cast<unsigned>(type) << kTypeShift));
  }

  // A pageblock's zone and type as they were read, and where.
  class PageblockRead {
   public:
    [[gnu::always_inline]] Pageblock value() const {
      return {.zone = static_cast<uint8_t>((packed_ & 0xff) - 1),
              .type = static_cast<MigrateType>(packed_ >> 8)};
    }
    // True if it is the same now.
    [[gnu::always_inline]] bool holds() const { return Load(at_) == packed_; }

   private:
    friend class Blocks;

    explicit PageblockRead(uint16_t& at) : at_(at), packed_(Load(at)) {}
    static uint16_t Load(uint16_t& at) {
      return std::atomic_ref(at).load(std::memory_order_relaxed);
    }

    uint16_t& at_;
    uint16_t packed_;
  };
  [[gnu::always_inline]] PageblockRead pageblock(Pfn pfn) const {
    return PageblockRead(PageblockOf(pfn));
  }
  void SetPageblock(Pfn pfn, Pageblock block) const {
    const auto zone = static_cast<uint8_t>(block.zone + 1);
    std::atomic_ref(PageblockOf(pfn))
        .store(static_cast<uint16_t>(static_cast<int>(block.type) << 8 | zone),
               std::memory_order_relaxed);
  }

 private:
  [[gnu::always_inline]] void SetState(Pfn pfn, uint8_t state) const {
    std::atomic_ref(states_[pfn.value()])
        .store(state, std::memory_order_relaxed);
  }
  [[gnu::always_inline]] uint16_t& PageblockOf(Pfn pfn) const {
    return pageblocks_[pfn.value() >> pageblock_order_.value()];
  }

  uint8_t* states_;
  uint16_t* pageblocks_;
  Order pageblock_order_;
};

[[gnu::always_inline]] inline PageMap::Blocks PageMap::blocks() const {
  return Blocks(states_, pageblocks_, options_.pageblock_order);
}
[[gnu::always_inline]] inline bool PageMap::IsAllocated(Pfn pfn,
                                                        Order order) const {
  return blocks().IsAllocated(pfn, order);
}
inline void PageMap::SetCached(Pfn pfn, Order order) {
  blocks().SetCached(pfn, order);
}
[[gnu::always_inline]] inline void PageMap::SetAllocated(Pfn pfn, Order order,
                                                         MigrateType type) {
  blocks().SetAllocated(pfn, order, type);
}
[[gnu::always_inline]] inline PageMap::Pageblock PageMap::pageblock(
    Pfn pfn) const {
  return blocks().pageblock(pfn).value();
}
inline void PageMap::SetPageblock(Pfn pfn, Pageblock block) {
  blocks().SetPageblock(pfn, block);
}

}  // namespace guestmm

// Defines PageMap::Lists.
#include "guestmm/buddy/page_map_lists.h"  // IWYU pragma: export

#endif  // GUESTMM_BUDDY_PAGE_MAP_H_
