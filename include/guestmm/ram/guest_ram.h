#ifndef GUESTMM_RAM_GUEST_RAM_H_
#define GUESTMM_RAM_GUEST_RAM_H_

// The guest's memory on the real host: one mapping for each region of
// guest-physical addresses.
//
//   gpa 0              3 GiB         4 GiB          6 GiB
//       |--- region 0 ---|   (hole)    |-- region 1 --|
//              |                             |
//       |- mapping at hva 0 -|        |- mapping at hva 1 -|
//
// hva and gpa are equal modulo 2 MiB, so that a huge page of the guest can be
// a huge page of the host.
//
// Regions come and go while others use guest RAM:
//
//   if (std::optional<Translation> block = ram.Translate(range)) {
//     std::memset(block->bytes().data(), 0, block->bytes().size());
//   }                                // from here on it may be removed
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
#include "guestmm/base/lock.h"
#include "guestmm/base/units.h"
#include "guestmm/ram/memory_source.h"

namespace guestmm {

// The page size of the machine this runs on, in bytes.
uint64_t HostPageSize();

// Whether the host may back guest RAM with transparent huge pages.
enum class HugePages {
  kHostDefault,  // as the host's THP setting says
  kAdvise,       // madvise(MADV_HUGEPAGE)
  kForbid,       // madvise(MADV_NOHUGEPAGE)
};

// The advice that madvise() wants for it; none for kHostDefault.
std::optional<int> HugePageAdvice(HugePages huge_pages);

struct GuestRamOptions {
  // Non-empty, ascending, disjoint, in whole pages of guest and host, or, with
  // kHugetlb, in whole huge pages of 2 MiB.
  std::vector<GpaRange> regions = {};
  // With kHugetlb nothing but kHostDefault: its pages are huge already.
  HugePages huge_pages = HugePages::kHostDefault;
  MemorySource source = MemorySource::kAnonymous;
  // With kPrivateFile, and only then: the path of a regular file that this may
  // read, which holds what is in `regions` at first, one after the other.
  std::string file = {};
};

// Told of the regions that come and go, such as one that shares guest RAM with
// another process. Called in the order of the changes, after each, while no
// other can begin: must not change guest RAM.
class RegionObserver {
 public:
  virtual ~RegionObserver() = default;

  virtual void OnRegionAdded(GpaRange range) = 0;
  // A region or a part of one.
  virtual void OnRegionRemoved(GpaRange range) = 0;
};

class HostMemory;
class Translation;

// Safe from any thread.
class GuestRam {
 public:
  // Maps every region. InvalidArgument names the region, or what else, breaks a
  // rule of GuestRamOptions; ResourceExhausted names the region the host would
  // not map (of huge pages: has not enough of); Unavailable, what else it
  // refused.
  static absl::StatusOr<std::unique_ptr<GuestRam>> Create(
      const GuestRamOptions& options);

  // Guest RAM of which another process made the memory, such as a VMM's, whose
  // guest runs elsewhere: without any region at first. Unavailable as Create.
  static absl::StatusOr<std::unique_ptr<GuestRam>> CreateForeign();

  // REQUIRES: no translation is alive (CHECKed).
  ~GuestRam();
  GuestRam(const GuestRam&) = delete;
  GuestRam& operator=(const GuestRam&) = delete;

  // Maps one more region, which reads as zeroes, with the advice on huge pages
  // that was given to Create. Beside another it is a region of its own still.
  // With kPrivateFile it is anonymous memory: the file holds what there was at
  // first. InvalidArgument if it is empty, not in whole pages as
  // GuestRamOptions::regions, or runs past the end of the address space;
  // AlreadyExists names the region it overlaps; ResourceExhausted if the host
  // would not map it.
  absl::Status AddRegion(GpaRange range);

  // Unmaps a region or a part of one, which leaves what lies before and after
  // it as regions. The last one may go too. Its contents are lost, and a memfd
  // gives its memory back.
  // InvalidArgument as AddRegion; NotFound if it does not lie within one
  // region; FailedPrecondition, with no effect, says how many translations
  // point into it; ResourceExhausted if the host would not unmap it (a process
  // has a limit of mappings), which hides it from Translate for that moment;
  // Internal if a memfd keeps the memory of what is no region any more.
  // Of foreign memory only the mapping goes: the contents stay with its maker.
  absl::Status RemoveRegion(GpaRange range);

  // Maps what `fd` has from `offset` on as one more region, shared with whoever
  // made it, who is not trusted: nothing that is done to the file later can
  // make this process fault there, but for a huge page that the host's pool
  // does not have (see foreign_fault_guard.h). `fd` may be closed afterwards.
  // InvalidArgument unless it is a memfd, of small pages or of huge ones of 2
  // MiB, like those that other regions came from, sealed with F_SEAL_SHRINK; or
  // if range or offset are not in whole pages (with huge ones: whole huge
  // pages) or do not lie within the address space and the file. AlreadyExists
  // and ResourceExhausted as AddRegion; Unavailable names a system call that
  // failed. REQUIRES: foreign(), which in turn has no AddRegion (CHECKed).
  absl::Status AdoptRegion(GpaRange range, int fd, uint64_t offset);

  // Who is told of regions from here on; null: no one. It is told of nothing
  // any more when this has returned.
  void SetObserver(RegionObserver* observer);

  // The bytes behind `range`, which stay where they are while the translation
  // lives. None if it is empty, runs past the end of the address space, or does
  // not lie within one region. Costs two uncontended locks, the second when the
  // translation ends, and a binary search.
  std::optional<Translation> Translate(GpaRange range) const;

  // How much of `range` the host holds in memory, in bytes, as its kernel
  // reports it; swapped pages do not count. By source:
  //   kAnonymous    pages that are this process's alone: neither the shared
  //                 zero page, nor, while it lives, what a forked child shares
  //                 (/proc/self/pagemap)
  //   kPrivateFile  the same: copies of the file's pages, and what was mapped
  //                 in their place. Pages of the file that were only read are
  //                 the host's cache, not the guest's, and do not count.
  //   kSharedMemfd  what the memfd has, whoever touched it (mincore)
  //   kHugetlb      what the memfd has and this process has touched: of other
  //                 processes' pages the kernel says nothing by range
  //                 (/proc/self/pagemap)
  // InvalidArgument if `range` does not lie within one region or is not in
  // whole host pages; else the error of the read. No region comes or goes
  // meanwhile: those who ask for it wait.
  absl::StatusOr<uint64_t> ResidentBytes(GpaRange range) const;
  // The same over all of guest RAM.
  absl::StatusOr<uint64_t> ResidentBytes() const;

  // As they are now, ascending.
  std::vector<GpaRange> regions() const;
  // The sum of their sizes.
  uint64_t bytes() const;

  // Of foreign guest RAM: that of its regions. It may change while there is
  // none, and is kSharedMemfd at first.
  MemorySource source() const;
  // Whether it was made by CreateForeign.
  bool foreign() const;
  HugePages huge_pages() const;
  // The host takes memory back in multiples of this, at multiples of it, in
  // bytes: its page size, or with kHugetlb 2 MiB.
  uint64_t discard_granule() const;
  // With kSharedMemfd and kHugetlb the memfd, to be mapped by others too; -1
  // with the rest. What guest RAM has at an address, the memfd has at the
  // offset of the same number; where guest RAM has no region it has a hole. It
  // is sealed so that it never gets shorter. Of foreign guest RAM -1.
  int memfd() const;

 private:
  friend class Translation;

  // One mapping, or what is left of one.
  struct Region {
    GpaRange range;
    std::byte* hva;
  };
  // Ascending. Never changes: a change is another map.
  using Map = std::vector<Region>;
  // Where the translations of some threads are counted.
  struct Shard;

  explicit GuestRam(std::unique_ptr<HostMemory> memory);

  // The region that `range` lies within; null if there is none.
  static const Region* Find(const Map& map, GpaRange range);
  std::span<Shard> shards() const;
  // The calling thread's.
  Shard& OwnShard() const;
  std::shared_ptr<const Map> CurrentMap() const;
  // From its return on translations go by `map`.
  void Publish(const std::shared_ptr<const Map>& map)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(changes_);
  // Publishes `map` if no translation points into `range`, at one instant.
  // Returns how many do.
  uint64_t PublishUnlessPinned(std::shared_ptr<const Map> map, GpaRange range)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(changes_);
  // Makes a region of what `map_memory` maps for it, unless it overlaps one.
  absl::Status InsertRegion(
      GpaRange range,
      absl::FunctionRef<absl::StatusOr<std::byte*>()> map_memory)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(changes_);

  const std::unique_ptr<HostMemory> memory_;
  const std::unique_ptr<Shard[]> first_shard_;
  // The map's lock: one change at a time, and none while residency is read.
  mutable Mutex changes_;
  std::shared_ptr<const Map> map_ ABSL_GUARDED_BY(changes_);
  RegionObserver* observer_ ABSL_GUARDED_BY(changes_) = nullptr;
};

// A range of guest RAM at its place in host memory. Pins it: until this is
// destroyed, on whichever thread, the range cannot be removed. Not for two
// threads at a time; the bytes are.
class Translation {
 public:
  Translation(Translation&& other) noexcept
      : shard_(std::exchange(other.shard_, nullptr)),
        pin_(other.pin_),
        bytes_(std::exchange(other.bytes_, {})) {}
  // By value: what this pinned ends here, not with `other`.
  Translation& operator=(Translation other) noexcept {
    std::swap(shard_, other.shard_);
    std::swap(pin_, other.pin_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  ~Translation() {
    if (shard_ != nullptr) Unpin();
  }

  // Not to be used after this is destroyed. Empty once it was moved from.
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
