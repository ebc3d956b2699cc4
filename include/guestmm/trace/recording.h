#ifndef GUESTMM_TRACE_RECORDING_H_
#define GUESTMM_TRACE_RECORDING_H_

// A recording of a guest: its trace, and beside it, in files found by name in
// one folder, its memory, its state at the start, and the truth: what its
// kernel reported and what was resident in its VMM.

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "guestmm/base/clock.h"
#include "guestmm/base/units.h"

namespace guestmm {

// A zone of /proc/zoneinfo.
struct RecordedZone {
  int node = 0;
  std::string name;  // "DMA", "DMA32", "Normal", "Movable"
  PfnRange span;     // start_pfn, spanned
  // Pages with RAM behind them; of those, the ones given to the page allocator.
  // 0 where the file does not say.
  PageCount present;
  PageCount managed;
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
    kAbsent,    // KPF_NOPAGE: no struct page, or an offline section
    kInUse,     // any other flag
    kFree,      // KPF_BUDDY
    kOffline,   // KPF_OFFLINE: ballooned, or unplugged by virtio-mem
    kReserved,  // KPF_RESERVED: never given to the page allocator
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
  // RAM (iomem), ascending, in whole pages: as in the kernel, a range that
  // begins or ends within a page loses that page.
  std::vector<GpaRange> memory;
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
  // From reports.csv. No report is larger than the guest's memory or beyond its
  // end; without iomem, larger than 1 TiB or beyond 52 bits of address.
  std::vector<Report> reports;
  struct Resident {
    Nanoseconds time{0};
    uint64_t bytes = 0;
  };
  std::vector<Resident> resident;  // rss.csv

  bool has_truth() const { return !reports.empty() && !resident.empty(); }
};

// Reads the recording in the folder `path`, or in the folder of the trace file
// `path`. Each file may be plain, .gz or .zst. The trace of a folder is its
// trace.gmtrace, trace.txt, trace_pipe or trace, in this order; NotFound
// without one. All other files are optional. InvalidArgument for a malformed
// file names file, line and what was expected there; DataLoss is for a
// truncated one.
absl::StatusOr<Recording> ReadRecording(const std::string& path);

}  // namespace guestmm

#endif  // GUESTMM_TRACE_RECORDING_H_
