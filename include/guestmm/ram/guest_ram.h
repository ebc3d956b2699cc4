#ifndef GUESTMM_RAM_GUEST_RAM_H_
#define GUESTMM_RAM_GUEST_RAM_H_

// The guest's memory on the real host: one mapping per region of guest-physical
// addresses.
//
//   gpa 0              3 GiB         4 GiB          6 GiB
//       |--- region 0 ---|   (hole)    |-- region 1 --|
//              |                             |
//       |- mapping at hva 0 -|        |- mapping at hva 1 -|
//
// hva and gpa are equal modulo 2 MiB, so that a huge page of the guest can be
// a huge page of the host.
//
// Regions are added and removed while other threads use guest RAM:
//
//   if (std::optional<Translation> block = ram.Translate(range)) {
//     std::memset(block->bytes().data(), 0, block->bytes().size());
//   }                                // from here on it can be removed
//   ram.RemoveRegion({Gpa(4 * kGiB), 128 * kMiB});

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "guestmm/base/export.h"
#include "guestmm/base/lock.h"
#include "guestmm/base/units.h"
#include "guestmm/ram/memory_source.h"

namespace GUESTMM_EXPORT guestmm {

// The host's page size, in bytes.
uint64_t HostPageSize();

// Use of transparent huge pages for guest RAM on the host.
enum class HugePages {
  kHostDefault,  // according to the host's THP setting
  kAdvise,       // madvise(MADV_HUGEPAGE)
  kForbid,       // madvise(MADV_NOHUGEPAGE)
};

// The corresponding madvise() advice; none for kHostDefault.
std::optional<int> HugePageAdvice(HugePages huge_pages);

struct GuestRamOptions {
  // Non-empty, ascending and disjoint, in whole pages of guest and host, or,
  // with kHugetlb, in whole huge pages of 2 MiB.
  std::vector<GpaRange> regions = {};
  // With kHugetlb only kHostDefault: its pages are huge anyway.
  HugePages huge_pages = HugePages::kHostDefault;
  MemorySource source = MemorySource::kAnonymous;
  // With kPrivateFile, and only then: the path of a readable regular file with
  // the initial contents of `regions`, one after the other. Empty otherwise.
  std::string file = {};
};

struct ForeignRamOptions {
  // Also accepts memory that its creator can make shorter: memfds without
  // F_SEAL_SHRINK, and files on tmpfs and hugetlbfs. What lies past its new end
  // is then a SIGBUS in this process, as is a page that a full file system
  // lacks: do not use it without GuardAgainstForeignFaults, with which it
  // costs that guest one region.
  bool allow_unsealed = false;
};

// A region whose contents are those of `fd` from `offset` on.
struct ForeignRegion {
  GpaRange range;
  int fd;
  uint64_t offset;
};

// Notified when regions are added or removed. Used to share guest RAM with
// another process. Called after each change, in order, and no other change can
// start meanwhile: it must not change guest RAM.
class RegionObserver {
 public:
  virtual ~RegionObserver() = default;

  virtual void OnRegionAdded(GpaRange range) = 0;
  // `range` is a region or a part of one.
  virtual void OnRegionRemoved(GpaRange range) = 0;
};

class HostMemory;
class Translation;

// Thread-safe.
class GuestRam {
 public:
  // Maps every region. InvalidArgument names the region or option that breaks a
  // rule of GuestRamOptions; ResourceExhausted names the region that the host
  // refused to map (too few huge pages, for example); Unavailable names any
  // other system call that failed.
  static absl::StatusOr<std::unique_ptr<GuestRam>> Create(
      const GuestRamOptions& options);

  // Guest RAM whose memory another process created: a VMM's view of a guest
  // that runs elsewhere. Initially without regions. Unavailable as for Create.
  static absl::StatusOr<std::unique_ptr<GuestRam>> CreateForeign(
      const ForeignRamOptions& options = {});

  // REQUIRES: no translation is alive (CHECKed).
  ~GuestRam();
  GuestRam(const GuestRam&) = delete;
  GuestRam& operator=(const GuestRam&) = delete;

  // Maps one more region, which reads as zeroes, with the huge page advice
  // given to Create. It stays a separate region even if it is adjacent to
  // another. With kPrivateFile it is anonymous memory: the file has the initial
  // regions only. InvalidArgument if it is empty, not in whole pages (see
  // GuestRamOptions::regions), or runs past the end of the address space;
  // AlreadyExists names the region it overlaps; ResourceExhausted if the host
  // refused to map it.
  absl::Status AddRegion(GpaRange range);

  // Unmaps a region or a part of one; the parts before and after it remain
  // regions. The last region may be removed too. The contents are lost, and a
  // memfd releases its memory. Of foreign memory only the mapping is removed:
  // the contents belong to its creator.
  // InvalidArgument as for AddRegion; NotFound if `range` does not lie within
  // one region; FailedPrecondition, with no effect, gives the number of
  // translations that point into it; ResourceExhausted if the host refused to
  // unmap it (the number of mappings per process is limited), in which case
  // Translate briefly does not find it; Internal if a memfd keeps the memory of
  // the removed region.
  absl::Status RemoveRegion(GpaRange range);

  // Maps the contents of `fd` from `offset` on as one more region, shared with
  // its creator, which is not trusted: no later change of the file can make
  // this process fault there, except for a huge page that the host's pool lacks
  // (see foreign_fault_guard.h) and for what ForeignRamOptions allows. The
  // mapping is left out of core dumps. The caller may close `fd` afterwards.
  // InvalidArgument unless `fd` is a memfd sealed with F_SEAL_SHRINK (see
  // ForeignRamOptions), of small pages or of huge pages of 2 MiB, and of the
  // same kind as those of the other regions; or if range or offset are not in
  // whole pages (or whole huge pages) or exceed the address space or the file.
  // AlreadyExists and ResourceExhausted as for AddRegion; Unavailable names a
  // system call that failed. REQUIRES: foreign(); AddRegion REQUIRES the
  // opposite (CHECKed).
  absl::Status AdoptRegion(GpaRange range, int fd, uint64_t offset);

  // Puts `regions`, in any order, in the place of all regions at once: a
  // translation finds the old ones or the new ones. None removes all. Their
  // kind of pages may differ from the old ones'. Any error has no effect:
  // those of AdoptRegion, also if two of `regions` overlap or differ in kind;
  // FailedPrecondition gives the number of translations that point into old
  // regions. An old mapping that the host refuses to unmap stays until the
  // process ends. REQUIRES: foreign() (CHECKed).
  absl::Status ReplaceRegions(std::span<const ForeignRegion> regions);

  // Sets the observer of region changes; null for none. After it returns, the
  // previous observer is not called any more.
  void SetObserver(RegionObserver* observer);

  // The bytes behind `range`, which cannot be removed while the translation
  // exists. None if it is empty, runs past the end of the address space, or
  // does not lie within one region. Costs a binary search and two uncontended
  // locks, the second when the translation is destroyed.
  std::optional<Translation> Translate(GpaRange range) const;

  // The resident bytes of `range`, as the host's kernel reports them; swapped
  // pages do not count. By source:
  //   kAnonymous    pages exclusive to this process: neither the shared zero
  //                 page nor pages shared with a forked child
  //                 (/proc/self/pagemap)
  //   kPrivateFile  the same: copies of the file's pages, and memory mapped
  //   over
  //                 them. Pages of the file that were only read belong to the
  //                 host's page cache and do not count.
  //   kSharedMemfd  all pages of the memfd, whichever process touched them
  //                 (mincore)
  //   kHugetlb      pages of the memfd that this process has touched; the
  //   kernel
  //                 does not report other processes' pages by range
  //                 (/proc/self/pagemap)
  // InvalidArgument if `range` does not lie within one region or is not in
  // whole host pages; otherwise the error of the read. Region changes wait
  // meanwhile.
  absl::StatusOr<uint64_t> ResidentBytes(GpaRange range) const;
  // The same over all of guest RAM.
  absl::StatusOr<uint64_t> ResidentBytes() const;

  // A snapshot, ascending.
  std::vector<GpaRange> regions() const;
  // The sum of the regions' sizes.
  uint64_t bytes() const;

  // For foreign guest RAM: the source of its regions, initially kSharedMemfd.
  // It changes with ReplaceRegions, and while there are no regions.
  MemorySource source() const;
  // True if created by CreateForeign.
  bool foreign() const;
  HugePages huge_pages() const;
  // The size and alignment of the smallest possible discard, in bytes: the
  // host's page size, or 2 MiB with kHugetlb.
  uint64_t discard_granule() const;
  // The memfd with kSharedMemfd and kHugetlb, for other processes to map. -1
  // with other sources and for foreign guest RAM. Offsets in the memfd are
  // guest-physical addresses; it has a hole where guest RAM has no region. It
  // is sealed against shrinking.
  int memfd() const;

 private:
  friend class Translation;

  // One mapping, or the remaining part of one.
  struct Region {
    GpaRange range;
    std::byte* hva;
  };
  // Ascending. Immutable: every change makes a new map.
  using Map = std::vector<Region>;
  // Tracks the translations of some of the threads.
  struct Shard;

  explicit GuestRam(std::unique_ptr<HostMemory> memory);

  // The region that `range` lies within; null if there is none.
  static const Region* Find(const Map& map, GpaRange range);
  std::span<Shard> shards() const;
  // The calling thread's.
  Shard& OwnShard() const;
  std::shared_ptr<const Map> CurrentMap() const;
  // Makes translations use `map` from its return on.
  void Publish(const std::shared_ptr<const Map>& map)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(changes_);
  // Publishes `map` if no translation points into `ranges`, atomically. Returns
  // the number of such translations.
  uint64_t PublishUnlessPinned(std::shared_ptr<const Map> map,
                               std::span<const GpaRange> ranges)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(changes_);
  // Publishes the map with one more region, which `insert` inserts.
  absl::Status InsertRegion(GpaRange range,
                            absl::FunctionRef<absl::Status(Map&)> insert)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(changes_);
  // Inserts a region of memory that `map_memory` maps, unless it overlaps
  // another.
  static absl::Status MapInto(
      Map& map, GpaRange range,
      absl::FunctionRef<absl::StatusOr<std::byte*>()> map_memory);
  // Checks, maps and inserts a foreign region. `source`, that of the regions in
  // `map`, is set if there are none.
  absl::Status AdoptInto(Map& map, MemorySource& source,
                         const ForeignRegion& region) const;
  // Leaves mapped what the host refuses to unmap.
  void UnmapAll(const Map& map) const;

  const std::unique_ptr<HostMemory> memory_;
  const std::unique_ptr<Shard[]> first_shard_;
  // Serializes changes of the map, and keeps it unchanged while residency is
  // read.
  mutable Mutex changes_;
  std::shared_ptr<const Map> map_ ABSL_GUARDED_BY(changes_);
  RegionObserver* observer_ ABSL_GUARDED_BY(changes_) = nullptr;
};

// A range of guest RAM at its address in host memory. Pins the range: it cannot
// be removed until this is destroyed, on whichever thread. Not thread-safe; the
// bytes may be used by several threads.
class Translation {
 public:
  Translation(Translation&& other) noexcept
      : shard_(std::exchange(other.shard_, nullptr)),
        pin_(other.pin_),
        bytes_(std::exchange(other.bytes_, {})) {}
  // By value: the old pin ends here, not with `other`.
  Translation& operator=(Translation other) noexcept {
    std::swap(shard_, other.shard_);
    std::swap(pin_, other.pin_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  ~Translation() {
    if (shard_ != nullptr) Unpin();
  }

  // Valid until this is destroyed. Empty after a move.
  std::span<std::byte> bytes() const { return bytes_; }

 private:
  friend class GuestRam;

  Translation(GuestRam::Shard& shard, uint32_t pin, std::span<std::byte> bytes)
      : shard_(&shard), pin_(pin), bytes_(bytes) {}

  void Unpin();

  GuestRam::Shard* shard_;
  uint32_t pin_;
  std::span<std::byte> bytes_;
};

}  // namespace guestmm

#endif  // GUESTMM_RAM_GUEST_RAM_H_
