#ifndef GUESTMM_EXPERIMENT_REPLAY_REPLAY_H_
#define GUESTMM_EXPERIMENT_REPLAY_REPLAY_H_

// What a real guest's allocator did, done again under a reporting policy: what
// would the host have got back?
//
//   recording ─▶ events ─▶ placement ─▶ zones ─▶ policy ─▶ reports ─▶ host
//
// Time is the trace's: a policy's delay of two seconds is two of them, however
// long the replay takes. In virtual time a guest is its allocator and a book of
// what the host holds: memory in proportion to the guest's pages, to the
// samples and to the reports, not to the trace's events. For real there is
// guest RAM besides.

#include <array>
#include <chrono>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "guestmm/base/clock.h"
#include "guestmm/base/units.h"
#include "guestmm/base/workqueue.h"
#include "guestmm/reporting/policies.h"
#include "guestmm/trace/recording.h"
#include "guestmm/trace/trace_reader.h"

namespace guestmm {

// Where the pages of the trace's allocations come to lie.
enum class ReplayPlacement {
  // On the trace's own pfns: the allocator is steered, so that its layout is
  // the guest's.
  kRecorded,
  // Where our allocator puts them.
  kNative,
};
// "recorded", "native".
std::string_view Name(ReplayPlacement placement);

// The longest traced time, and the longest time after it: all of it is sampled,
// and what is longer is rather a clock that was set.
inline constexpr Nanoseconds kLongestReplay = std::chrono::hours(24 * 7);

enum class ReplayMode {
  // What the host holds is by the book.
  kVirtual,
  // Allocations are written to, reports are discarded, and what the host holds
  // is its kernel's word. The rest is as in kVirtual, to the byte.
  kReal,
};
// "virtual", "real".
std::string_view Name(ReplayMode mode);

struct ReplayOptions {
  ReplayMode mode = ReplayMode::kVirtual;
  ReplayPlacement placement = ReplayPlacement::kRecorded;
  // As MakePolicy has it; "off"; or "real": what the guest's kernel reported,
  // as recorded, in the place of a policy (kPolicyReal).
  std::string policy = "linux";
  PolicyParameters policy_parameters = {};
  // What the host maps at a time, and so the least that a discard shrinks. For
  // real Order(0) forbids huge pages; anything else asks for them.
  Order granule = kPageblockOrder;
  // The smallest free block that counts as reportable.
  Order reportable_order = kPageblockOrder;
  // Which allocations the guest touches, at once and all of it: those with all
  // the gfp flags (GfpFlags) of one of these; if empty, every one. What else is
  // allocated never counts as touched, so that what is resident is a lower
  // bound. What is in use at first is touched.
  std::vector<uint32_t> touch = {};
  // Seconds of the trace in one of the clock on the wall, at most: 0.01 to
  // 1,000,000. Absent: as fast as it goes. The result is the same.
  std::optional<double> speed = {};
  uint64_t seed = 1;
  // How often the host's memory is looked at, at first: whenever there are more
  // than 200,000 samples every second one goes, and from then on it is half as
  // often. REQUIRES: positive.
  Nanoseconds sample_interval{250'000'000};
  // How often, at first, the map of blocks is drawn, at a sample; 0 for never.
  // Likewise of more than 1,200 frames every second one goes.
  Nanoseconds frame_interval{0};
  // How long to go on after the last event, for what is still to be reported:
  // kLongestReplay at most.
  Nanoseconds tail{0};
  TraceReadOptions read = {};
};

// What the policy is made with: policy_parameters, the granule among them.
PolicyParameters PolicyParametersOf(const ReplayOptions& options);

// What of a trace could be followed. Where it is said as a share, that of frees
// is of all frees, that of allocations of all allocations, and that of events
// of all events.
struct ReplayCounters {
  uint64_t events = 0;
  uint64_t allocations = 0;
  uint64_t frees = 0;
  uint64_t lost_events = 0;
  uint64_t bad_lines = 0;
  // Frees of pages that were not known to be allocated. On the trace's own pfns
  // they are done all the same: what was allocated without an event, by the
  // kernel's bulk allocations or among lost events, shows like that.
  uint64_t unmatched_frees = 0;
  // Frees of a part of what was allocated, or of several blocks as one.
  uint64_t split_frees = 0;
  // Allocations of pages that should have been taken: they count as allocated
  // anew.
  uint64_t forced_placements = 0;
  // Of those that our allocator had no memory for (kNative): not done.
  uint64_t failed_allocations = 0;
  // Events of pages that the guest's memory map does not have.
  uint64_t outside_memory = 0;
};

// Bytes of the memory map that the guest's page allocator did not have at the
// start, by reason (/proc/kpageflags, and `managed` of /proc/zoneinfo). They
// are neither in use nor resident until they are added.
struct UnmanagedBytes {
  // Struct pages not initialized yet (CONFIG_DEFERRED_STRUCT_PAGE_INIT).
  uint64_t uninitialized = 0;
  uint64_t offline = 0;  // ballooned, or unplugged by virtio-mem
  uint64_t no_page = 0;  // no struct page
  // Of all these, the bytes the guest turned out to have later.
  uint64_t added = 0;

  uint64_t at_start() const { return uninitialized + offline + no_page; }
};

// A report of the policy's, or of the real kernel's.
struct ReplayReport {
  Nanoseconds time{0};  // by the trace's clock
  GpaRange range;
};

// What the reporter did at a time, until it had nothing left to report. By the
// trace's clock.
struct ReplayPass {
  Nanoseconds start{0};
  Nanoseconds end{0};  // of one that was cut short, what it did last
  uint64_t reports = 0;
  uint64_t bytes = 0;
};

// The guest at one moment, by the trace's clock.
struct ReplaySample {
  Nanoseconds time{0};
  // What the host holds.
  uint64_t resident_bytes = 0;
  uint64_t free_bytes = 0;
  uint64_t isolated_bytes = 0;
  // Free blocks by order, all zones.
  std::array<uint64_t, kMaxOrder.value() + 1> free_blocks = {};
};

// What each block of 2 MiB of the guest's memory is, at one moment.
enum class BlockState : char {
  kAbsent = '.',
  kInUse = 'a',     // at least a page of it
  kFree = 'f',      // all of it, and the host still has it
  kIsolated = 'i',  // on its way to the host
  kWithHost = 'h',  // free, and not resident
};
struct ReplayFrame {
  Nanoseconds time{0};
  // A character each, as BlockState, from address 0 upwards.
  std::string blocks;
};

struct ReplayResult {
  ReplayOptions options;
  ReplayCounters counters;
  // What it failed of, and then this is what came before; empty if it did not.
  std::string error;
  // The memory map, unmanaged memory included.
  uint64_t memory_bytes = 0;
  UnmanagedBytes unmanaged;
  Nanoseconds start{0};
  Nanoseconds end{0};
  uint64_t reported_bytes = 0;
  // Of them, what the host had already.
  uint64_t needless_bytes = 0;
  // Lists of reports, each sent with a kick; unknown of the real kernel.
  std::optional<uint64_t> scatterlists = 0;
  // madvise: a call for each run of neighbours in a list, or as recorded.
  uint64_t discard_calls = 0;
  // Granules touched within HostLedger::kRefaultWindow of their discard.
  uint64_t refaults = 0;
  // At the end, the share that the host has, absent where there is none: of all
  // that is on free lists; and of free blocks of the reportable order or more
  // in zones above their low watermark.
  std::optional<double> host_share_of_free;
  std::optional<double> host_share_of_reportable;
  // Memory over time, in pages times microseconds: what the host held, and what
  // the guest had in use.
  struct Footprint {
    double resident = 0;
    double in_use = 0;
  };
  Footprint footprint;
  std::vector<ReplayReport> reports;
  // The policy's: of the real kernel's no one tells.
  std::vector<ReplayPass> passes;
  std::vector<ReplaySample> samples;
  std::vector<ReplayFrame> frames;
  // At the times of Recording::buddyinfo within the trace.
  std::vector<RecordedBuddyInfo> buddyinfo;
};

// ReplayOptions::touch as a person writes it: "all", or gfp flags by name, as
// in "GFP_HIGHUSER_MOVABLE,GFP_KERNEL|__GFP_ZERO": of what is separated by
// commas one, of what '|' joins all. InvalidArgument, with the whole text, for
// a name that there is not.
absl::StatusOr<std::vector<uint32_t>> ParseTouch(std::string_view text);
std::string FormatTouch(const std::vector<uint32_t>& touch);

// Whether `options` make sense for `recording`, whatever is in its trace.
// InvalidArgument names what does not: a tail that is too long, a speed, the
// policy "real" if nothing was recorded of it or with another placement than
// the recorded, a memory map without memory, or, for real, with more than the
// machine has, which are `available_bytes`.
absl::Status CheckReplay(const Recording& recording,
                         const ReplayOptions& options,
                         uint64_t available_bytes);

// How far a replay is.
struct ReplayProgress {
  // Of the trace's time, since its start.
  Nanoseconds done{0};
  // Absent: no one knows before its end.
  std::optional<Nanoseconds> whole;
};
// Who looks at a replay while it goes on.
struct ReplayWatch {
  // Called at each sample, if there is one.
  std::function<void(const ReplayProgress&)> progress = {};
  // What ReplayOptions::speed goes by; null: real time. Must outlive the
  // replay.
  Workqueue* clock = nullptr;
};

// Replays the trace of `recording` under one policy. The error of CheckReplay;
// InvalidArgument for a policy that there is not; for real, the error of
// GuestRam::Create. Once it has begun, the error of the trace, which may also
// be one of more than a week, or, for real, of the host: DataLoss names the
// first page in use that is found to have lost its contents, and when. Then
// `partial`, if given, has the result up to there, which is the last event that
// could be replayed.
//
// Under "real" what was reported in the traced time is discarded at its time;
// before it is in the first state, and after it no event tells what the guest
// did.
absl::StatusOr<ReplayResult> Replay(const Recording& recording,
                                    const ReplayOptions& options,
                                    ReplayResult* partial = nullptr,
                                    const ReplayWatch& watch = {});

}  // namespace guestmm

#endif  // GUESTMM_EXPERIMENT_REPLAY_REPLAY_H_
