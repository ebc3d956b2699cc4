#ifndef GUESTMM_SRC_VIRTIO_DEVICE_BALLOONED_PAGES_H_
#define GUESTMM_SRC_VIRTIO_DEVICE_BALLOONED_PAGES_H_

#include <array>
#include <cstddef>
#include <cstdint>

#include "absl/container/flat_hash_map.h"
#include "guestmm/base/units.h"

namespace guestmm {

// The set of pages that a guest has put into its balloon, according to its
// requests. If the host discards in granules larger than a page, it can do so
// once all pages of a granule are in the set.
//
// Takes about 64 bytes for each 2 MiB with a page in the set.
class BalloonedPages {
 public:
  // Adds a page. False if it is in the set already.
  bool Insert(Pfn pfn);
  // Removes a page. False if it is not in the set.
  bool Erase(Pfn pfn);
  void Clear();

  // The granule of `granule_pages` that contains `pfn`, if all its pages are in
  // the set; else an empty range. REQUIRES: granule_pages is a power of 2 up to
  // kChunkPages.
  GpaRange WholeRange(Pfn pfn, uint64_t granule_pages) const;

  static constexpr uint64_t kChunkPages = 512;

  // The chunks with a page in the set.
  size_t chunks() const { return chunks_.size(); }

 private:
  // One bit for each page of a chunk.
  using Chunk = std::array<uint64_t, kChunkPages / 64>;

  // By pfn / kChunkPages. Empty chunks are removed.
  absl::flat_hash_map<uint64_t, Chunk> chunks_;
};

}  // namespace guestmm

#endif  // GUESTMM_SRC_VIRTIO_DEVICE_BALLOONED_PAGES_H_
