#ifndef GUESTMM_SRC_EXPERIMENT_REPLAY_UNMANAGED_MEMORY_H_
#define GUESTMM_SRC_EXPERIMENT_REPLAY_UNMANAGED_MEMORY_H_

#include <cstdint>
#include <vector>

#include "guestmm/base/memory_map.h"
#include "guestmm/base/units.h"
#include "guestmm/experiment/replay/replay.h"
#include "guestmm/trace/recording.h"

namespace guestmm {

// The RAM of a recording's memory map that its guest's page allocator did not
// manage when the recording began: the guest could not use it, so it is neither
// in use nor resident. A page leaves this set when the guest turns out to have
// it.
//
// Three kinds, by /proc/kpageflags:
//
//   offline        KPF_OFFLINE: in the balloon, or unplugged by virtio-mem.
//   no page        KPF_NOPAGE, or past the end of the file: no struct page.
//   uninitialized  No flag: struct pages that the kernel initializes when the
//                  zone runs low (CONFIG_DEFERRED_STRUCT_PAGE_INIT).
//
// The kernel's own pages have no flag either. /proc/zoneinfo says how many are
// not managed: present - managed, less those reserved or offline. Deferred
// initialization works upwards through a zone, so these are the highest pages
// without a flag. For example, of a zone with
//
//   present 5505024, managed 983040, 512 pages KPF_RESERVED
//
// the highest 5505024 - 983040 - 512 pages without a flag are uninitialized,
// and every other page without a flag is in use. Reserved pages (the kernel's
// image, its memory map) are not managed, but in use.
class UnmanagedMemory {
 public:
  // Empty without kpageflags.start; no page is uninitialized without
  // zoneinfo.start or its `present`.
  explicit UnmanagedMemory(const Recording& recording);

  bool empty() const { return pages_ == PageCount(0); }
  bool Has(Pfn pfn) const { return KindOf(pfn) != Kind::kNone; }
  // True if `block` has a page of this set.
  bool HasAnyOf(PfnRange block) const;
  bool HasAllOf(PfnRange block) const;

  // Adds pages that arrived offline, such as those of a memory block that
  // virtio-mem has not plugged.
  void AddOffline(PfnRange block);
  // Removes the pages of `block`, which leave with their memory; returns them
  // as ascending runs. They do not count as added.
  std::vector<PfnRange> Forget(PfnRange block);

  // These remove pages that the guest gets and return them as ascending runs,
  // empty if there are none.
  //
  // The pages of `block`.
  std::vector<PfnRange> Remove(PfnRange block);
  // The pages the guest is known to have once it allocates `pfn`: the page
  // alone if it was offline; otherwise those of its section (128 MiB) that were
  // not offline, since struct pages are made and initialized by the section
  // (add_memory, deferred_grow_zone). None if !Has(pfn).
  std::vector<PfnRange> RemoveGrown(Pfn pfn);
  // The lowest `most` pages of `range`: the uninitialized ones, or others if it
  // has no uninitialized one.
  std::vector<PfnRange> RemoveLowest(PfnRange range, PageCount most);

  // The kinds at the start, and the bytes removed since.
  const UnmanagedBytes& bytes() const { return bytes_; }

 private:
  enum class Kind : uint8_t { kNone, kUninitialized, kOffline, kNoPage };

  Kind KindOf(Pfn pfn) const {
    return pfn.value() < kinds_.size() ? kinds_[pfn.value()] : Kind::kNone;
  }
  // Removes the pages of `range` that `takes(kind)` accepts, `most` at most.
  template <typename Takes>
  std::vector<PfnRange> RemoveIf(PfnRange range, PageCount most,
                                 const Takes& takes);
  void FindUninitialized(const RecordedPages& first, const RecordedZone& zone,
                         const MemoryMap& memory);

  std::vector<Kind> kinds_;  // by pfn; empty if all are kNone
  PageCount pages_;
  UnmanagedBytes bytes_;
};

}  // namespace guestmm

#endif  // GUESTMM_SRC_EXPERIMENT_REPLAY_UNMANAGED_MEMORY_H_
