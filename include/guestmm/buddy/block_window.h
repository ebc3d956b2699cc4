#ifndef GUESTMM_BUDDY_BLOCK_WINDOW_H_
#define GUESTMM_BUDDY_BLOCK_WINDOW_H_

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <thread>
#include <utility>

#include "guestmm/base/check.h"
#include "guestmm/base/export.h"
#include "guestmm/base/units.h"

namespace GUESTMM_EXPORT guestmm {

// A double-ended queue of blocks: a window that moves down through an array as
// blocks are pushed at its top and taken from its end, and is then put back to
// the end of the array.
//
//   memory [      |  floor      |  top: newest  ...  oldest  |  end      ]
//
// Push has room down to the floor, which its user sets: a push that any limit
// forbids costs one comparison.
//
// Used under a lock of its user's, except for Read().
class BlockWindow {
 public:
  BlockWindow() = default;
  BlockWindow(const BlockWindow&) = delete;
  BlockWindow& operator=(const BlockWindow&) = delete;

  // Makes place for `most` blocks; the window is then empty, and has no room.
  // Takes memory only where it is written.
  void Reserve(size_t most);

  bool empty() const { return Top() == End(); }
  size_t size() const { return static_cast<size_t>(End() - Top()); }

  // Takes the newest block. REQUIRES: not empty.
  Pfn Pop() {
    Pfn* const top = Top();
    const Pfn pfn = *top;
    top_.store(top + 1, std::memory_order_relaxed);
    return pfn;
  }
  // False if there is no room above the floor, which PushSlow ignores.
  bool HasRoom() const { return Top() > floor_; }
  // REQUIRES: HasRoom().
  void Push(Pfn pfn) {
    Pfn* const top = Top() - 1;
    *top = pfn;
    top_.store(top, std::memory_order_release);
  }
  // REQUIRES: size() is less than `most` of Reserve.
  void PushSlow(Pfn pfn);
  // Lets Push have room for `blocks`, or fewer at the beginning of the array.
  void SetRoom(size_t blocks);
  // Lets it have none, whatever is popped.
  void Close() { floor_ = End(); }

  // Fills an empty window: `take(span)` writes the blocks, newest first, to the
  // beginning of the span, of `blocks`, and returns their number. REQUIRES:
  // blocks <= `most` of Reserve.
  template <typename Take>
  size_t Fill(size_t blocks, Take take) {
    MoveTo(Slots() + slots_ - blocks);
    const size_t taken = take(std::span<Pfn>(Top(), blocks));
    end_.store(Top() + taken, std::memory_order_release);
    return taken;
  }
  // Takes the oldest blocks; the result, newest first, is valid until the next
  // change. REQUIRES: blocks <= size().
  std::span<const Pfn> TakeOldest(size_t blocks) {
    Pfn* const end = End() - blocks;
    end_.store(end, std::memory_order_release);
    return {end, blocks};
  }
  // The blocks, newest first.
  std::span<const Pfn> blocks() const { return {Top(), size()}; }

  // Without the lock: the size, and Pops less Pushes since construction, as
  // they were at one moment.
  struct Snapshot {
    size_t size = 0;
    int64_t popped = 0;
  };
  Snapshot Read() const;

 private:
  Pfn* Top() const { return top_.load(std::memory_order_relaxed); }
  Pfn* End() const { return end_.load(std::memory_order_relaxed); }
  static int64_t Position(const Pfn* slot) {
    return static_cast<int64_t>(reinterpret_cast<uintptr_t>(slot) /
                                sizeof(Pfn));
  }
  Pfn* Slots() const { return reinterpret_cast<Pfn*>(memory_.get()); }
  // Moves the window; it keeps its blocks and loses its room.
  void MoveTo(Pfn* top);

  std::atomic<Pfn*> top_{nullptr};
  std::atomic<Pfn*> end_{nullptr};
  Pfn* floor_ = nullptr;
  // Where top_ would be after as many Pops as Pushes, as Position() has it.
  std::atomic<int64_t> origin_{0};
  // Odd while the window moves.
  std::atomic<uint32_t> moves_{0};
  // Of the blocks: `slots_` of them, not written when it is made.
  std::unique_ptr<std::byte[]> memory_;
  size_t slots_ = 0;
};

inline void BlockWindow::Reserve(size_t most) {
  GUESTMM_CHECK(empty()) << "a window of " << size() << " blocks is replaced";
  // Twice that, so that a window moves through many blocks before it is put
  // back.
  slots_ = 2 * most;
  const auto before = std::exchange(
      memory_,
      std::make_unique_for_overwrite<std::byte[]>(slots_ * sizeof(Pfn)));
  MoveTo(Slots() + slots_);
}

inline void BlockWindow::PushSlow(Pfn pfn) {
  if (Top() == Slots()) MoveTo(Slots() + slots_ - size());
  Push(pfn);
}

inline void BlockWindow::SetRoom(size_t blocks) {
  floor_ = Top() - std::min(blocks, static_cast<size_t>(Top() - Slots()));
}

inline void BlockWindow::MoveTo(Pfn* top) {
  Pfn* const was = Top();
  Pfn* const end = End();
  std::move_backward(was, end, top + (end - was));
  const uint32_t moves = moves_.load(std::memory_order_relaxed);
  moves_.store(moves + 1, std::memory_order_relaxed);
  // Released, so that a reader of any of them sees the odd number.
  top_.store(top, std::memory_order_release);
  end_.store(top + (end - was), std::memory_order_release);
  origin_.store(
      origin_.load(std::memory_order_relaxed) + Position(top) - Position(was),
      std::memory_order_release);
  moves_.store(moves + 2, std::memory_order_release);
  floor_ = top;
}

inline BlockWindow::Snapshot BlockWindow::Read() const {
  for (;; std::this_thread::yield()) {
    const uint32_t before = moves_.load(std::memory_order_acquire);
    // In this order and acquired, so that the number read last is no older.
    const int64_t origin = origin_.load(std::memory_order_acquire);
    const Pfn* const end = end_.load(std::memory_order_acquire);
    const Pfn* const top = top_.load(std::memory_order_acquire);
    // Blocks taken in between would be counted beside those pushed after them.
    const bool same = end_.load(std::memory_order_acquire) == end &&
                      moves_.load(std::memory_order_relaxed) == before;
    if (before % 2 == 0 && same) {
      return {.size = static_cast<size_t>(std::max<ptrdiff_t>(end - top, 0)),
              .popped = Position(top) - origin};
    }
  }
}

}  // namespace guestmm

#endif  // GUESTMM_BUDDY_BLOCK_WINDOW_H_
