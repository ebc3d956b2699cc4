#include "src/experiment/replay/replayed_guest.h"

#include <cstddef>
#include <cstdio>
#include <utility>

#include "absl/strings/str_cat.h"

namespace guestmm {
namespace {

// The number of the guest's vCPUs, or if it is unknown a plausible upper bound.
int CpusOf(const Recording& recording) {
  constexpr int kUnknown = 64;
  for (const RecordedZone& zone : recording.zones) {
    if (!zone.per_cpu.empty()) return static_cast<int>(zone.per_cpu.size());
  }
  return kUnknown;
}

// min_free_kbytes, which a kernel with transparent huge pages raises; absent
// without zoneinfo.
std::optional<uint64_t> MinFreeKbytesOf(const Recording& recording) {
  uint64_t bytes = 0;
  for (const RecordedZone& zone : recording.zones) bytes += zone.min.bytes();
  if (bytes == 0) return std::nullopt;
  return bytes / kKiB;
}

}  // namespace

KernelVersion KernelOf(const Recording& recording) {
  int major = 0;
  int minor = 0;
  if (std::sscanf(recording.kernel.c_str(), "%d.%d", &major, &minor) == 2 &&
      std::pair(major, minor) >= std::pair(6, 7)) {
    return KernelVersion::kV6_12;
  }
  return KernelVersion::kV6_1;
}

absl::StatusOr<std::unique_ptr<PageAllocator>> MakeReplayedGuest(
    const Recording& recording, KernelVersion kernel) {
  const MemoryMap all = MemoryMap::WholePages(recording.AllMemory());
  std::optional<Pfn> end;
  if (!all.empty()) end = all.back().end;
  absl::StatusOr<std::unique_ptr<PageAllocator>> allocator =
      PageAllocator::Create({.memory = MemoryMap::WholePages(recording.memory),
                             .hotplug_end = end,
                             .cpus = CpusOf(recording),
                             .section_order = kMaxOrder,
                             .min_free_kbytes = MinFreeKbytesOf(recording),
                             .per_cpu_lists = kernel,
                             .placement = {.rules = kernel}});
  if (allocator.ok()) return allocator;
  return absl::Status(allocator.status().code(),
                      absl::StrCat("memory map (iomem or --memory): ",
                                   allocator.status().message()));
}

bool WasSettled(const PageAllocator& allocator) {
  bool any_marked = false;
  for (const auto& zone : allocator.zones()) {
    LockHolder hold(zone->lock());
    std::vector<Pfn> free;
    for (int type = 0; type < kMigrateTypes; ++type) {
      zone->ForEachFreeBlock(allocator.max_order(),
                             static_cast<MigrateType>(type),
                             [&](Pfn pfn) { free.push_back(pfn); });
    }
    size_t marked = 0;
    for (const Pfn pfn : free) {
      if (zone->IsReported(pfn)) ++marked;
    }
    if (marked > 0 && marked < free.size()) return false;
    any_marked = any_marked || marked > 0;
  }
  return any_marked;
}

std::optional<Nanoseconds> TimeToNextPass(const Recording& recording,
                                          Nanoseconds start,
                                          Nanoseconds delay) {
  std::optional<Nanoseconds> last;
  for (const Recording::Report& report : recording.reports) {
    if (report.time >= start) break;
    last = report.time;
  }
  if (!last || start - *last >= delay) return std::nullopt;
  return delay - (start - *last);
}

}  // namespace guestmm
