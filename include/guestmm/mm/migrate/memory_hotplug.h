#ifndef GUESTMM_MM_MIGRATE_MEMORY_HOTPLUG_H_
#define GUESTMM_MM_MIGRATE_MEMORY_HOTPLUG_H_

// Memory hotplug: adds memory to and removes it from a running guest, in memory
// blocks of one section, 128 MiB (Linux 5.3, mm/memory_hotplug.c):
//
//             Add            Online
//   absent ────────▶ offline ────────▶ online
//          ◀────────         ◀────────
//            Remove           Offline
//
// Memory present at boot is online.

#include <map>
#include <optional>
#include <string_view>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "guestmm/base/export.h"
#include "guestmm/base/lock.h"
#include "guestmm/base/units.h"
#include "guestmm/base/workqueue.h"
#include "guestmm/buddy/page_allocator.h"
#include "guestmm/ram/guest_ram.h"

namespace GUESTMM_EXPORT guestmm {

class MemoryHotplug {
 public:
  // All must outlive this. `ram`: maps and unmaps the memory; null for a guest
  // that is metadata only. `reporting`: the reporter's queue, on which Offline
  // waits for blocks in flight; null if there is no reporter. With null, and in
  // a work of that queue, blocks in flight make Offline fail.
  explicit MemoryHotplug(PageAllocator& allocator, GuestRam* ram = nullptr,
                         Workqueue* reporting = nullptr)
      : allocator_(allocator), ram_(ram), reporting_(reporting) {}
  MemoryHotplug(const MemoryHotplug&) = delete;
  MemoryHotplug& operator=(const MemoryHotplug&) = delete;

  // Operations on one or more whole memory blocks. Each applies to all of them
  // or has no effect. They may be called while vCPUs and the reporter run.
  // InvalidArgument if `range` is not whole memory blocks, or ends beyond
  // PageAllocatorOptions::hotplug_end; Unavailable while another operation is
  // in progress.

  // Adds memory to `node`, offline. AlreadyExists if some of it is present;
  // else the error of GuestRam.
  absl::Status Add(PfnRange range, int node) ABSL_LOCKS_EXCLUDED(lock_);

  // Adds offline memory to its node's ZONE_MOVABLE, or, for kNormal, to the
  // kernel zone whose span contains it, else to ZONE_NORMAL
  // (default_kernel_zone_for_pfn). Notifies the observer as of freed memory.
  // FailedPrecondition, naming the block, if one is not offline.
  absl::Status Online(PfnRange range, ZoneType type) ABSL_LOCKS_EXCLUDED(lock_);

  // Removes memory from its zone: isolates its pageblocks, drains per-CPU
  // lists, waits for blocks in flight. Does not migrate pages:
  // FailedPrecondition, naming the page, if one is in use, absent, or in
  // another zone.
  absl::Status Offline(PfnRange range) ABSL_LOCKS_EXCLUDED(lock_);

  // Removes offline memory and unmaps it. FailedPrecondition, naming the block,
  // if one is not offline; else the error of GuestRam.
  absl::Status Remove(PfnRange range) ABSL_LOCKS_EXCLUDED(lock_);

  // The state of the memory block that contains `pfn`: "absent", "offline" or
  // "online".
  std::string_view StateOf(Pfn pfn) const ABSL_LOCKS_EXCLUDED(lock_);

 private:
  // Admits one operation at a time, without holding a lock while it waits.
  class Operation;

  PageCount section_pages() const { return allocator_.section_order().pages(); }
  absl::Status CheckRange(PfnRange range) const;
  // FailedPrecondition if a memory block of `range` is not offline.
  absl::Status CheckOffline(PfnRange range) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);
  // The zone that contains all of `range`; else FailedPrecondition.
  absl::StatusOr<Zone*> OneZone(PfnRange range) const;
  Zone& KernelZone(PfnRange range, int node) const;
  // Waits until all of `range` is free. REQUIRES: its pageblocks are isolated.
  absl::Status WaitUntilFree(Zone& zone, PfnRange range);

  PageAllocator& allocator_;
  GuestRam* const ram_;
  Workqueue* const reporting_;
  mutable Mutex lock_;
  bool under_way_ ABSL_GUARDED_BY(lock_) = false;
  // The node of each memory block that is offline, by its first page.
  std::map<Pfn, int> offline_ ABSL_GUARDED_BY(lock_);
};

}  // namespace guestmm

#endif  // GUESTMM_MM_MIGRATE_MEMORY_HOTPLUG_H_
