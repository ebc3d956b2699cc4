#include "src/virtio/device/ballooned_pages.h"

#include <algorithm>

namespace guestmm {
namespace {

// The position of a page's bit in its chunk.
uint64_t WordOf(uint64_t page) { return page / 64; }
uint64_t BitOf(uint64_t page) { return uint64_t{1} << page % 64; }

}  // namespace

bool BalloonedPages::Insert(Pfn pfn) {
  const uint64_t page = pfn.value() % kChunkPages;
  uint64_t& word = chunks_[pfn.value() / kChunkPages][WordOf(page)];
  if ((word & BitOf(page)) != 0) return false;
  word |= BitOf(page);
  return true;
}

bool BalloonedPages::Erase(Pfn pfn) {
  const auto found = chunks_.find(pfn.value() / kChunkPages);
  if (found == chunks_.end()) return false;
  Chunk& chunk = found->second;
  const uint64_t page = pfn.value() % kChunkPages;
  if ((chunk[WordOf(page)] & BitOf(page)) == 0) return false;
  chunk[WordOf(page)] &= ~BitOf(page);
  if (chunk == Chunk{}) chunks_.erase(found);
  return true;
}

void BalloonedPages::Clear() { chunks_.clear(); }

GpaRange BalloonedPages::WholeRange(Pfn pfn, uint64_t granule_pages) const {
  const auto found = chunks_.find(pfn.value() / kChunkPages);
  if (found == chunks_.end()) return {};
  const uint64_t first = pfn.value() % kChunkPages & ~(granule_pages - 1);
  const uint64_t in_word = std::min<uint64_t>(granule_pages, 64);
  const uint64_t mask = ~uint64_t{0} >> (64 - in_word) << first % 64;
  for (uint64_t page = first; page < first + granule_pages; page += 64) {
    if ((found->second[WordOf(page)] & mask) != mask) return {};
  }
  const uint64_t start = pfn.value() & ~(granule_pages - 1);
  return {ToGpa(Pfn(start)), granule_pages * kPageSize};
}

}  // namespace guestmm
