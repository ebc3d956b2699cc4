#ifndef GUESTMM_REPORTING_ZONE_BITMAP_H_
#define GUESTMM_REPORTING_ZONE_BITMAP_H_

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <optional>

#include "absl/status/status.h"
#include "guestmm/base/counter.h"
#include "guestmm/base/export.h"
#include "guestmm/base/units.h"

namespace GUESTMM_EXPORT guestmm {

// A bit for each aligned block of order `granularity` in a range of pages, and
// the number of set bits (v12 patch 1/2, struct zone: bitmap, base_pfn, nbits,
// free_pages). Bits and pfns agree even if the range starts in mid-block.
//
// Only sections of 128 MiB that have, or had, memory have bits, so holes cost
// nothing:
//
//   root_      [ . | * | . ... ]         16 GiB each, to 4 TiB
//   Directory      [ * | * | . ... ]     a section each
//   words              [ bits ]          of order 9: 64
//
// Bits are changed under the zone's lock. They may be searched without it, even
// while memory is added and removed: nothing is removed from the table.
class ZoneBitmap {
 public:
  // All pages that a bitmap can have bits for: those that a PageMap describes.
  static constexpr PfnRange kAllPages = {
      .start = Pfn(0), .end = Pfn(uint64_t{1} << (42 - kPageShift))};

  // Starts without bits. Blocks that have no page in `span` never get one.
  // REQUIRES: granularity <= kMaxOrder.
  ZoneBitmap(PfnRange span, Order granularity);
  ~ZoneBitmap();
  ZoneBitmap(const ZoneBitmap&) = delete;
  ZoneBitmap& operator=(const ZoneBitmap&) = delete;

  // Adds bits for the part of `range` that is in the span. Calls must not run
  // concurrently.
  void AddMemory(PfnRange range);
  // Clears the bits of the blocks that start in `range`. REQUIRES: as Clear.
  void RemoveMemory(PfnRange range);

  // Sets the bit of the block that holds `pfn`. No effect if it has no bit.
  // REQUIRES: the zone's lock.
  void Set(Pfn pfn);
  // Clears the bit of the block that starts at `pfn`. REQUIRES: the zone's
  // lock; the bit is set (CHECKed).
  void Clear(Pfn pfn);
  bool Test(Pfn pfn) const;

  // The start of the first block at or after `from` whose bit is set.
  std::optional<Pfn> FindNext(Pfn from) const;

  // The number of set bits (v12's free_pages, which counts bits, not pages).
  uint64_t count() const { return count_.Get(); }

  // The memory that it uses, in bytes, itself included.
  size_t MemoryBytes() const;

  // R1 of docs/invariants.md: the counter equals the set bits.
  absl::Status CheckInvariants() const;

 private:
  using Word = std::atomic<uint64_t>;
  static constexpr int kBitsPerWord = 64;
  static constexpr size_t kFanout = 128;
  // Covers the pages of one directory.
  static constexpr Order kDirectoryOrder{kSectionOrder.value() + 7};
  static_assert(kFanout << kSectionOrder.value() ==
                kDirectoryOrder.pages().value());
  static constexpr size_t kDirectories = 256;
  static_assert(kDirectories * kDirectoryOrder.pages().value() ==
                kAllPages.end.value());
  static_assert(kMaxOrder < kSectionOrder);

  using Directory = std::array<std::atomic<Word*>, kFanout>;

  // The position of a block's bit; `word` is null if it has none.
  struct Bit {
    Word* word = nullptr;
    uint64_t mask = 0;
  };
  Bit BitOf(Pfn pfn) const;
  // The directory and the words for `pfn`, or null.
  // REQUIRES: kAllPages.Contains(pfn).
  Directory* DirectoryOf(Pfn pfn) const;
  static Word* WordsOf(const Directory& directory, Pfn pfn);
  // The index of a block's bit in its section.
  uint64_t IndexOf(Pfn pfn) const;
  // Calls `visit(words)` for each section that has bits.
  template <typename Visitor>
  void ForEachSection(Visitor visit) const;

  const Order granularity_;
  const PfnRange span_;  // in whole blocks
  const size_t words_per_section_;
  Counter count_;
  // Owned, as are the words. Each pointer is written once, with release order,
  // so a reader of the pointer reads zeroed memory behind it.
  std::array<std::atomic<Directory*>, kDirectories> root_{};
};

}  // namespace guestmm

#endif  // GUESTMM_REPORTING_ZONE_BITMAP_H_
