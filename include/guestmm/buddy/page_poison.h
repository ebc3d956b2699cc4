#ifndef GUESTMM_BUDDY_PAGE_POISON_H_
#define GUESTMM_BUDDY_PAGE_POISON_H_

// Page poisoning: what the guest's kernel writes to a page when it is freed,
// and checks or writes when it is allocated (Linux 5.3, page_poisoning,
// init_on_free, init_on_alloc):
//
//                  on free                    on allocation
//   kPoison        fill with 0xaa             compare every byte with 0xaa
//   kInitOnFree    fill with zeroes
//   init_on_alloc                             fill with zeroes
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
#include "guestmm/base/export.h"
#include "guestmm/base/lock.h"
#include "guestmm/base/units.h"
#include "guestmm/ram/guest_ram.h"

namespace GUESTMM_EXPORT guestmm {

enum class PagePoisonMode {
  kOff,         // free pages keep their contents
  kPoison,      // page_poisoning=1
  kInitOnFree,  // init_on_free=1
};

struct PagePoisonOptions {
  PagePoisonMode mode = PagePoisonMode::kOff;
  // Zeroes pages on allocation. No effect with kInitOnFree, as they are zero
  // already. With kPoison pages are checked first; Linux allows only one of the
  // two and prefers poisoning.
  bool init_on_alloc = false;

  bool operator==(const PagePoisonOptions&) const = default;
};

// A page that was written to while it was free.
struct PageCorruption {
  Pfn pfn;
  // The offsets in the page of the first and the last wrong byte.
  uint32_t first = 0;
  uint32_t last = 0;
  // The value of the first wrong byte.
  uint8_t found = 0;
  // True if only one bit is wrong: faulty memory is more likely than a bug.
  bool single_bit = false;

  bool operator==(const PageCorruption&) const = default;
};

std::ostream& operator<<(std::ostream& os, const PageCorruption& corruption);

// Fills and checks the bytes of blocks, for PageAllocator. Thread-safe; each
// block must be used by one thread at a time.
class PagePoison {
 public:
  // PAGE_POISON.
  static constexpr std::byte kPoison{0xaa};
  // The number of corruptions that corruptions() keeps. All are counted.
  static constexpr size_t kMostRemembered = 16;

  // `ram` must outlive this.
  explicit PagePoison(const GuestRam& ram, const PagePoisonOptions& options)
      : ram_(ram), options_(options) {}
  PagePoison(const PagePoison&) = delete;
  PagePoison& operator=(const PagePoison&) = delete;

  const PagePoisonOptions& options() const { return options_; }

  // Fills memory that is about to be added to the allocator as if it had been
  // freed. InvalidArgument, naming the page, if a page is not in guest RAM.
  // REQUIRES: the pages are as the host mapped them, or were freed before; with
  // kInitOnFree they read as zero then, so only kPoison writes. Writes to
  // offline memory are not detected.
  absl::Status FillFresh(PfnRange range);
  // Fills a block that its owner frees, before it can be allocated again.
  // REQUIRES for both: the block is in guest RAM (CHECKed); it may span
  // regions.
  void FillFreed(Pfn pfn, Order order);
  // Checks and zeroes an allocated block as the options say, before its new
  // owner uses it. Records a corruption; does not repair it.
  void PrepareAllocated(Pfn pfn, Order order) ABSL_LOCKS_EXCLUDED(lock_);

  // Pages found corrupted so far. A snapshot.
  uint64_t corrupted_pages() const {
    return corrupted_pages_.load(std::memory_order_relaxed);
  }
  // The first kMostRemembered of them, in the order in which they were found.
  std::vector<PageCorruption> corruptions() const ABSL_LOCKS_EXCLUDED(lock_);

 private:
  // Calls visit(pfn, bytes) for each part of the block that is in one region,
  // usually all of it. Blocks merge across adjacent regions.
  template <typename Visitor>
  void ForEachPiece(Pfn pfn, Order order, const Visitor& visit) const;
  // Checks the pages of `bytes`; `pfn` is the first.
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
