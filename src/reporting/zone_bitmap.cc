#include "guestmm/reporting/zone_bitmap.h"

#include <algorithm>
#include <bit>

#include "absl/strings/str_format.h"
#include "guestmm/base/check.h"

namespace guestmm {
namespace {

constexpr uint64_t Mask(uint64_t bit) { return uint64_t{1} << (bit % 64); }

// The first multiple of a block of `order` behind `pfn`.
constexpr Pfn NextAfter(Pfn pfn, Order order) {
  return (pfn + PageCount(1)).AlignUp(order);
}

// `span` extended to whole blocks, and clipped to kAllPages.
PfnRange Clamp(PfnRange span, Order granularity) {
  const Pfn end = ZoneBitmap::kAllPages.end;
  return {.start = std::min(span.start, end).AlignDown(granularity),
          .end = std::min(span.end, end).AlignUp(granularity)};
}

}  // namespace

ZoneBitmap::ZoneBitmap(PfnRange span, Order granularity)
    : granularity_(granularity),
      span_(Clamp(span, granularity)),
      words_per_section_(std::max<size_t>(
          (kSectionOrder.pages().value() >> granularity.value()) / kBitsPerWord,
          1)) {
  GUESTMM_CHECK(granularity <= kMaxOrder);
}

ZoneBitmap::~ZoneBitmap() {
  ForEachSection([](Word* words) { delete[] words; });
  for (const std::atomic<Directory*>& directory : root_) {
    delete directory.load(std::memory_order_relaxed);
  }
}

inline ZoneBitmap::Directory* ZoneBitmap::DirectoryOf(Pfn pfn) const {
  return root_[pfn.value() >> kDirectoryOrder.value()].load(
      std::memory_order_acquire);
}

inline ZoneBitmap::Word* ZoneBitmap::WordsOf(const Directory& directory,
                                             Pfn pfn) {
  return directory[(pfn.value() >> kSectionOrder.value()) % kFanout].load(
      std::memory_order_acquire);
}

inline uint64_t ZoneBitmap::IndexOf(Pfn pfn) const {
  return (pfn - pfn.AlignDown(kSectionOrder)).value() >> granularity_.value();
}

inline ZoneBitmap::Bit ZoneBitmap::BitOf(Pfn pfn) const {
  if (!span_.Contains(pfn)) return {};
  const Directory* const directory = DirectoryOf(pfn);
  if (directory == nullptr) return {};
  Word* const words = WordsOf(*directory, pfn);
  if (words == nullptr) return {};
  const uint64_t index = IndexOf(pfn);
  return {.word = &words[index / kBitsPerWord], .mask = Mask(index)};
}

template <typename Visitor>
void ZoneBitmap::ForEachSection(Visitor visit) const {
  for (const std::atomic<Directory*>& at : root_) {
    const Directory* const directory = at.load(std::memory_order_acquire);
    if (directory == nullptr) continue;
    for (const std::atomic<Word*>& section : *directory) {
      Word* const words = section.load(std::memory_order_acquire);
      if (words != nullptr) visit(words);
    }
  }
}

void ZoneBitmap::AddMemory(PfnRange range) {
  const Pfn end = std::min(range.end, span_.end);
  for (Pfn pfn = std::max(range.start.AlignDown(granularity_), span_.start);
       pfn < end; pfn = NextAfter(pfn, kSectionOrder)) {
    Directory* directory = DirectoryOf(pfn);
    if (directory == nullptr) {
      directory = new Directory{};
      root_[pfn.value() >> kDirectoryOrder.value()].store(
          directory, std::memory_order_release);
    }
    if (WordsOf(*directory, pfn) != nullptr) continue;
    (*directory)[(pfn.value() >> kSectionOrder.value()) % kFanout].store(
        new Word[words_per_section_]{}, std::memory_order_release);
  }
}

void ZoneBitmap::RemoveMemory(PfnRange range) {
  for (std::optional<Pfn> pfn = FindNext(range.start); pfn && *pfn < range.end;
       pfn = FindNext(*pfn)) {
    Clear(*pfn);
  }
}

void ZoneBitmap::Set(Pfn pfn) {
  const Bit bit = BitOf(pfn);
  if (bit.word == nullptr) return;
  const uint64_t word = bit.word->load(std::memory_order_relaxed);
  if ((word & bit.mask) != 0) return;
  bit.word->store(word | bit.mask, std::memory_order_relaxed);
  count_.Add(1);
}

void ZoneBitmap::Clear(Pfn pfn) {
  const Bit bit = BitOf(pfn);
  const uint64_t word =
      bit.word != nullptr ? bit.word->load(std::memory_order_relaxed) : 0;
  GUESTMM_CHECK((word & bit.mask) != 0)
      << "the bit of " << pfn << " is not set";
  bit.word->store(word & ~bit.mask, std::memory_order_relaxed);
  count_.Subtract(1);
}

bool ZoneBitmap::Test(Pfn pfn) const {
  const Bit bit = BitOf(pfn);
  return bit.word != nullptr &&
         (bit.word->load(std::memory_order_relaxed) & bit.mask) != 0;
}

std::optional<Pfn> ZoneBitmap::FindNext(Pfn from) const {
  Pfn at = std::max(from.AlignUp(granularity_), span_.start);
  while (at < span_.end) {
    const Directory* const directory = DirectoryOf(at);
    if (directory == nullptr) {
      at = NextAfter(at, kDirectoryOrder);
      continue;
    }
    if (const Word* const words = WordsOf(*directory, at)) {
      const uint64_t first = IndexOf(at);
      // Skips the bits below `from`.
      uint64_t mask = ~(Mask(first) - 1);
      for (size_t i = first / kBitsPerWord; i < words_per_section_; ++i) {
        const uint64_t word = words[i].load(std::memory_order_relaxed) & mask;
        mask = ~uint64_t{0};
        if (word == 0) continue;
        const uint64_t index =
            i * kBitsPerWord + static_cast<uint64_t>(std::countr_zero(word));
        return at.AlignDown(kSectionOrder) + granularity_.pages() * index;
      }
    }
    at = NextAfter(at, kSectionOrder);
  }
  return std::nullopt;
}

size_t ZoneBitmap::MemoryBytes() const {
  size_t bytes = sizeof(*this);
  for (const std::atomic<Directory*>& directory : root_) {
    if (directory.load(std::memory_order_relaxed) != nullptr) {
      bytes += sizeof(Directory);
    }
  }
  ForEachSection(
      [&](const Word*) { bytes += words_per_section_ * sizeof(Word); });
  return bytes;
}

absl::Status ZoneBitmap::CheckInvariants() const {
  uint64_t set = 0;
  ForEachSection([&](const Word* words) {
    for (size_t i = 0; i < words_per_section_; ++i) {
      set += static_cast<uint64_t>(
          std::popcount(words[i].load(std::memory_order_relaxed)));
    }
  });
  if (set == count()) return absl::OkStatus();
  return absl::InternalError(
      absl::StrFormat("R1: %d bits set, %d counted", set, count()));
}

}  // namespace guestmm
