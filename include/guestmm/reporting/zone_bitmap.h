#ifndef GUESTMM_REPORTING_ZONE_BITMAP_H_
#define GUESTMM_REPORTING_ZONE_BITMAP_H_

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <optional>

#include "absl/status/status.h"
#include "guestmm/base/counter.h"
#include "guestmm/base/units.h"

namespace guestmm {

// One bit for each aligned block of `granularity` in a run of pages, and how
// many are set (v12 patch 1/2, struct zone: bitmap, base_pfn, nbits,
// free_pages). A block's bit and the pfn it stands for agree, wherever the run
// begins.
//
// There are bits only for sections of 128 MiB that have, or had, memory, so
// that holes cost nothing:
//
//   root_      [ . | * | . ... ]         16 GiB each, to 4 TiB
//   Directory      [ * | * | . ... ]     a section each
//   words              [ bits ]          of order 9: 64
//
// Bits change under the zone's lock. They may be searched without it, also
// while memory comes and goes: what is in the table stays there.
class ZoneBitmap {
 public:
  // Everything that a bitmap can have bits for: all that a PageMap describes.
  static constexpr PfnRange kAllPages = {
      .start = Pfn(0), .end = Pfn(uint64_t{1} << (42 - kPageShift))};

  // Without bits. Those of blocks that have no page in `span` there will never
  // be. REQUIRES: granularity <= kMaxOrder.
  ZoneBitmap(PfnRange span, Order granularity);
  ~ZoneBitmap();
  ZoneBitmap(const ZoneBitmap&) = delete;
  ZoneBitmap& operator=(const ZoneBitmap&) = delete;

  // Makes bits for `range`, as far as it is in the span. One call at a time.
  void AddMemory(PfnRange range);
  // Clears the bits of the blocks that start in `range`. REQUIRES: as Clear.
  void RemoveMemory(PfnRange range);

  // Sets the bit of the block that holds `pfn`. No effect where there is none.
  // REQUIRES: the zone's lock.
  void Set(Pfn pfn);
  // Clears the bit of the block that starts at `pfn`. REQUIRES: the zone's
  // lock; it is set (CHECKed).
  void Clear(Pfn pfn);
  bool Test(Pfn pfn) const;

  // The start of the first block at or after `from` whose bit is set.
  std::optional<Pfn> FindNext(Pfn from) const;

  // Set bits (v12's free_pages, which counts bits and not pages).
  uint64_t count() const { return count_.Get(); }

  // What it takes, itself included.
  size_t MemoryBytes() const;

  // R1 of docs/invariants.md: the counter equals the set bits.
  absl::Status CheckInvariants() const;

 private:
  using Word = std::atomic<uint64_t>;
  static constexpr int kBitsPerWord = 64;
  static constexpr size_t kFanout = 128;
  // The pages of a whole directory.
  static constexpr Order kDirectoryOrder{kSectionOrder.value() + 7};
  static_assert(kFanout << kSectionOrder.value() ==
                kDirectoryOrder.pages().value());
  static constexpr size_t kDirectories = 256;
  static_assert(kDirectories * kDirectoryOrder.pages().value() ==
                kAllPages.end.value());
  static_assert(kMaxOrder < kSectionOrder);

  using Directory = std::array<std::atomic<Word*>, kFanout>;

  // Where a block's bit is; no word where there is none.
  struct Bit {
    Word* word = nullptr;
    uint64_t mask = 0;
  };
  Bit BitOf(Pfn pfn) const;
  // The directory and the words that are there for `pfn`, or null.
  // REQUIRES: kAllPages.Contains(pfn).
  Directory* DirectoryOf(Pfn pfn) const;
  static Word* WordsOf(const Directory& directory, Pfn pfn);
  // The place of a block's bit among those of its section.
  uint64_t IndexOf(Pfn pfn) const;
  // Calls `visit(words)` for each section that there is.
  template <typename Visitor>
  void ForEachSection(Visitor visit) const;

  const Order granularity_;
  const PfnRange span_;  // in whole blocks
  const size_t words_per_section_;
  Counter count_;
  // Owned, as are the words; written once each, and published so that whoever
  // reads a pointer reads zeroes behind it.
  std::array<std::atomic<Directory*>, kDirectories> root_{};
};

}  // namespace guestmm

#endif  // GUESTMM_REPORTING_ZONE_BITMAP_H_
