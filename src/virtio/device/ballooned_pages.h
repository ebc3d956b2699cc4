#ifndef GUESTMM_SRC_VIRTIO_DEVICE_BALLOONED_PAGES_H_
#define GUESTMM_SRC_VIRTIO_DEVICE_BALLOONED_PAGES_H_

#include <array>
#include <cstdint>

#include "absl/container/flat_hash_map.h"
#include "guestmm/base/units.h"

namespace guestmm {

// Which pages a guest has put into its balloon, as the device was told. A host
// that takes memory back in more than a page at a time can do so when all of
// those pages are there.
//
// Takes 64 bytes, and a little, for each 2 MiB of which a page is in.
class BalloonedPages {
 public:
  // A page goes in. False if it was in already.
  bool Insert(Pfn pfn);
  // A page comes out. False if it was not in.
  bool Erase(Pfn pfn);
  void Clear();

  // The `granule_pages` around `pfn`, if all of them are in; else empty.
  // REQUIRES: granule_pages is a power of 2 up to kChunkPages.
  GpaRange WholeRange(Pfn pfn, uint64_t granule_pages) const;

  static constexpr uint64_t kChunkPages = 512;

 private:
  // A bit a page of a chunk.
  using Chunk = std::array<uint64_t, kChunkPages / 64>;

  // By pfn / kChunkPages; none is empty.
  absl::flat_hash_map<uint64_t, Chunk> chunks_;
};

}  // namespace guestmm

#endif  // GUESTMM_SRC_VIRTIO_DEVICE_BALLOONED_PAGES_H_
