#ifndef GUESTMM_BUDDY_PAGE_POISON_H_
#define GUESTMM_BUDDY_PAGE_POISON_H_

// What the guest's kernel writes into pages that are free, and looks for when
// they are taken (Linux 5.3, page_poisoning, init_on_free, init_on_alloc):
//
//                  free                       allocated again
//   kPoison        every byte 0xaa            every byte compared with 0xaa
//   kInitOnFree    every byte zero
//   init_on_alloc                             every byte zero
//
//   PagePoison poison(*ram, {.mode = PagePoisonMode::kPoison});
//   auto allocator = PageAllocator::Create({…, .poison = &poison});
//   …
//   for (const PageCorruption& found : poison.corruptions()) {
//     std::cerr << found << "\n";
//   }

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <ostream>
#include <span>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "guestmm/base/lock.h"
#include "guestmm/base/units.h"
#include "guestmm/ram/guest_ram.h"

namespace guestmm {

enum class PagePoisonMode {
  kOff,         // free pages keep what their owner left
  kPoison,      // page_poisoning=1
  kInitOnFree,  // init_on_free=1
};

struct PagePoisonOptions {
  PagePoisonMode mode = PagePoisonMode::kOff;
  // With kInitOnFree memory is zero already, and is not written again. With
  // kPoison it is checked first; Linux has the one or the other there, and lets
  // poisoning win.
  bool init_on_alloc = false;

  bool operator==(const PagePoisonOptions&) const = default;
};

// A page that someone wrote to while it was free.
struct PageCorruption {
  Pfn pfn;
  // Its first wrong byte, and its last, counted from the start of the page.
  uint32_t first = 0;
  uint32_t last = 0;
  // What the first one is.
  uint8_t found = 0;
  // Whether that byte alone is wrong, and that by one bit: rather the
  // memory's fault than the program's.
  bool single_bit = false;

  bool operator==(const PageCorruption&) const = default;
};

std::ostream& operator<<(std::ostream& os, const PageCorruption& corruption);

// Works on the bytes of blocks for the allocator's front door. Safe from any
// thread, each block in one thread's hands at a time.
class PagePoison {
 public:
  // PAGE_POISON.
  static constexpr std::byte kPoison{0xaa};
  // So many corruptions are remembered, the first ones; all are counted.
  static constexpr size_t kMostRemembered = 16;

  // `ram` must outlive this.
  explicit PagePoison(const GuestRam& ram, const PagePoisonOptions& options)
      : ram_(ram), options_(options) {}
  PagePoison(const PagePoison&) = delete;
  PagePoison& operator=(const PagePoison&) = delete;

  const PagePoisonOptions& options() const { return options_; }

  // Makes memory that the allocator is about to be given look like freed
  // memory. InvalidArgument names a page that is not in guest RAM.
  // REQUIRES: the pages are as the host mapped them, or were freed before. They
  // read as zero then with kInitOnFree, so only kPoison writes; what is written
  // to offline memory it overwrites unseen.
  absl::Status FillFresh(PfnRange range);
  // Fills a block that its owner frees, before anyone else can have it.
  // REQUIRES for both: it is in guest RAM (CHECKed), if in several regions.
  void FillFreed(Pfn pfn, Order order);
  // Checks and clears a block, as asked for, before its new owner has it. What
  // is wrong is reported, and stays.
  void PrepareAllocated(Pfn pfn, Order order) ABSL_LOCKS_EXCLUDED(lock_);

  // Pages found corrupted so far. A snapshot.
  uint64_t corrupted_pages() const {
    return corrupted_pages_.load(std::memory_order_relaxed);
  }
  // The first of them, in the order in which they were found.
  std::vector<PageCorruption> corruptions() const ABSL_LOCKS_EXCLUDED(lock_);

 private:
  // Calls visit(pfn, bytes) for the block's pieces, each in one region: mostly
  // it is one. Blocks merge across regions that adjoin.
  template <typename Visitor>
  void ForEachPiece(Pfn pfn, Order order, const Visitor& visit) const;
  // Checks whole pages, of which `pfn` is the first.
  void Check(Pfn pfn, std::span<const std::byte> bytes)
      ABSL_LOCKS_EXCLUDED(lock_);
  void Report(Pfn pfn, std::span<const std::byte> page)
      ABSL_LOCKS_EXCLUDED(lock_);

  const GuestRam& ram_;
  const PagePoisonOptions options_;
  std::atomic<uint64_t> corrupted_pages_{0};
  mutable Mutex lock_;
  std::vector<PageCorruption> corruptions_ ABSL_GUARDED_BY(lock_);
};

}  // namespace guestmm

#endif  // GUESTMM_BUDDY_PAGE_POISON_H_
