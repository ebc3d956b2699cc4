#ifndef GUESTMM_MM_MIGRATE_MEMORY_HOTPLUG_H_
#define GUESTMM_MM_MIGRATE_MEMORY_HOTPLUG_H_

// Memory that comes and goes while the guest runs, in memory blocks of one
// section, 128 MiB (Linux 5.3, mm/memory_hotplug.c):
//
//             Add            Online
//   absent ────────▶ offline ────────▶ online
//          ◀────────         ◀────────
//            Remove           Offline
//
// What is there at boot is online.

#include <map>
#include <optional>
#include <string_view>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "guestmm/base/lock.h"
#include "guestmm/base/units.h"
#include "guestmm/base/workqueue.h"
#include "guestmm/buddy/page_allocator.h"
#include "guestmm/ram/guest_ram.h"

namespace guestmm {

class MemoryHotplug {
 public:
  // All must outlive this. `ram`: where the memory is mapped and unmapped; null
  // for a guest that is metadata only. `reporting`: the queue on which the
  // reporter works, to wait there for blocks in flight; null where there is no
  // reporter.
  explicit MemoryHotplug(PageAllocator& allocator, GuestRam* ram = nullptr,
                         Workqueue* reporting = nullptr)
      : allocator_(allocator), ram_(ram), reporting_(reporting) {}
  MemoryHotplug(const MemoryHotplug&) = delete;
  MemoryHotplug& operator=(const MemoryHotplug&) = delete;

  // All of these work on whole memory blocks, one or more, all or none of them;
  // they may be called while vCPUs and the reporter run. InvalidArgument for
  // other ranges, and beyond PageAllocatorOptions::hotplug_end; Unavailable
  // while another of them is under way; in each case without effect.

  // Makes memory known, offline, on `node`. AlreadyExists where there is some;
  // else the error of GuestRam.
  absl::Status Add(PfnRange range, int node) ABSL_LOCKS_EXCLUDED(lock_);

  // Gives offline memory to its node's ZONE_MOVABLE, or, for kNormal, to the
  // zone of the kernel's memory there: the one whose span it lies in, else
  // Normal (default_kernel_zone_for_pfn). Observers hear of it as of freed
  // memory. FailedPrecondition, naming the first block that is not offline.
  absl::Status Online(PfnRange range, ZoneType type) ABSL_LOCKS_EXCLUDED(lock_);

  // Takes memory back from its zone: isolates its pageblocks, drains per-CPU
  // lists, waits for blocks in flight. Nothing is moved: FailedPrecondition
  // names the first page that is in use, or not there, or in another zone, and
  // everything is as before.
  absl::Status Offline(PfnRange range) ABSL_LOCKS_EXCLUDED(lock_);

  // Forgets offline memory, and unmaps it. FailedPrecondition, naming the first
  // block that is not offline; else the error of GuestRam.
  absl::Status Remove(PfnRange range) ABSL_LOCKS_EXCLUDED(lock_);

  // The state of the memory block that holds `pfn`: "absent", "offline",
  // "online".
  std::string_view StateOf(Pfn pfn) const ABSL_LOCKS_EXCLUDED(lock_);

 private:
  // One operation at a time, without a lock while it waits.
  class Operation;

  PageCount section_pages() const { return allocator_.section_order().pages(); }
  absl::Status CheckRange(PfnRange range) const;
  // FailedPrecondition where a memory block of `range` is not offline.
  absl::Status CheckOffline(PfnRange range) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);
  // The zone that all of `range` is in.
  absl::StatusOr<Zone*> OneZone(PfnRange range) const;
  Zone& KernelZone(PfnRange range, int node) const;
  // Empties `range`, whose pageblocks are isolated.
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
