#ifndef GUESTMM_TRACE_RECORDING_H_
#define GUESTMM_TRACE_RECORDING_H_

// A recording of a guest: its trace, and beside it, in files found by name in
// one folder, its memory, its state at the start, and the truth: what its
// kernel reported and what was resident in its VMM.

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "guestmm/base/clock.h"
#include "guestmm/base/export.h"
#include "guestmm/base/units.h"
#include "guestmm/trace/trace_reader.h"

namespace GUESTMM_EXPORT guestmm {

// A zone of /proc/zoneinfo.
struct RecordedZone {
  int node = 0;
  std::string name;  // "DMA", "DMA32", "Normal", "Movable"
  PfnRange span;     // start_pfn, spanned
  // Pages with RAM behind them; of those, the ones given to the page allocator
  // (all, where the file does not say); and of those, the free ones.
  PageCount present;
  PageCount managed;
  PageCount free;
  PageCount min;
  PageCount low;
  PageCount high;
  // By vCPU: the pages in its lists, and its marks.
  struct PerCpu {
    uint64_t count = 0;
    uint64_t high = 0;   // at most 2^20
    uint64_t batch = 0;  // 1 to 2^20
  };
  std::vector<PerCpu> per_cpu;
};

// Free blocks by zone and order at one moment (/proc/buddyinfo).
struct RecordedBuddyInfo {
  Nanoseconds time{0};
  struct Zone {
    int node = 0;
    std::string name;
    std::array<uint64_t, 11> blocks = {};
  };
  std::vector<Zone> zones;
};

// /proc/kpageflags: the state of each page.
struct RecordedPages {
  enum class State : uint8_t {
    kAbsent,     // KPF_NOPAGE: no struct page, or an offline section
    kAnonymous,  // KPF_ANON
    kSlab,       // KPF_SLAB
    kPageCache,  // KPF_LRU, and not anonymous
    kInUse,      // any other flag: the kernel's, or in use in another way
    kFree,       // KPF_BUDDY
    kOffline,    // KPF_OFFLINE: ballooned, or unplugged by virtio-mem
    kReserved,   // KPF_RESERVED: never given to the page allocator
    // A zeroed struct page: either in use by the kernel, which sets no flag on
    // most of its own pages, or not initialized yet
    // (CONFIG_DEFERRED_STRUCT_PAGE_INIT).
    kNoFlags,
  };
  // By pfn. Pages past the end have no struct page.
  std::vector<State> states;
  // Heads of free blocks that were reported (PageReported), ascending.
  std::vector<Pfn> reported;
};

struct Recording {
  std::string trace_path;
  // What moved between zones and per-CPU lists, beside a trace that has only
  // requests (trace.extra); empty without it.
  std::string list_events_path;
  // The paths of all files that were read, or will be: the trace's are the
  // first.
  std::vector<std::string> files;
  // Why the files may be less than was recorded, one line each: a text whose
  // last line has no end, a trace of a CPU that is empty beside others.
  std::vector<std::string> doubts;
  // The kernel's release, "6.12.95+deb12-amd64" (uname); empty without it.
  std::string kernel;
  // RAM (iomem), ascending, in whole pages: as in the kernel, a range that
  // begins or ends within a page loses that page.
  std::vector<GpaRange> memory;
  // True if it was given in place of iomem.
  bool memory_given = false;
  // Memory that changes while the guest is recorded, ascending, in whole blocks
  // of kMaxOrder: RAM that `memory` lacks and that the guest may get
  // (iomem.end, plug.csv, or the trace); RAM that it had, or got, and that is
  // gone at the end (iomem.end) or with the host (KPF_OFFLINE in
  // kpageflags.end: ballooned, or unplugged by virtio-mem); and RAM that is
  // offline at the end but still plugged (KPF_NOPAGE there).
  std::vector<GpaRange> arriving;
  std::vector<GpaRange> leaving;
  std::vector<GpaRange> offlined;
  // What the VMM plugged, and with `removed` unplugged, ascending by time
  // (plug.csv).
  struct Plug {
    Nanoseconds time{0};
    GpaRange range;
    bool removed = false;
  };
  std::vector<Plug> plugs;
  // Zones with present or managed pages, before and after the trace
  // (zoneinfo.start, zoneinfo.end).
  std::vector<RecordedZone> zones;
  std::vector<RecordedZone> zones_at_end;
  std::optional<RecordedPages> first;        // kpageflags.start
  std::vector<RecordedBuddyInfo> buddyinfo;  // buddyinfo.log
  // The traced time (window.csv).
  std::optional<Nanoseconds> start;
  std::optional<Nanoseconds> end;

  // The truth, ascending by time.
  struct Report {
    Nanoseconds time{0};
    GpaRange range;
  };
  // From reports.csv. No report is larger than the guest's memory, what arrives
  // included, or beyond its end; without iomem, larger than 1 TiB or beyond 52
  // bits of address.
  std::vector<Report> reports;
  struct Resident {
    Nanoseconds time{0};
    uint64_t bytes = 0;
  };
  std::vector<Resident> resident;  // rss.csv

  bool has_truth() const { return !reports.empty() && !resident.empty(); }
  // `memory` and `arriving`, ascending.
  std::vector<GpaRange> AllMemory() const;
};

// Reads the recording in the folder `path`, or in the folder of the trace file
// `path`. Each file may be plain, .gz or .zst. The trace of a folder is
// OpenTrace's; NotFound without one. All other files are optional. `memory`,
// unless empty, takes the place of iomem and iomem.end: ascending, in whole
// pages (--memory).
//
// Without iomem.end and plug.csv, and unless zoneinfo.end has no page more than
// zoneinfo.start, reads the trace for memory that arrives: sections that are
// freed from their start to their end, in ascending blocks, before anything
// else happens to them.
//
// InvalidArgument for a malformed file names file, line and what was expected
// there, and for two files of the same contents both; DataLoss is for a
// truncated one. InvalidArgument for files that cannot
// be of one guest, or whose guest has pages of another size than 4 KiB, names
// both and the numbers that disagree (docs/record-a-trace.md).
absl::StatusOr<Recording> ReadRecording(const std::string& path,
                                        std::vector<GpaRange> memory = {});

// Opens the recording's trace, with the list events beside it. The errors of
// OpenTrace for a path.
absl::StatusOr<std::unique_ptr<TraceReader>> OpenTrace(
    const Recording& recording, const TraceReadOptions& options = {});

}  // namespace guestmm

#endif  // GUESTMM_TRACE_RECORDING_H_
