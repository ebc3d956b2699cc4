#ifndef GUESTMM_EXPERIMENT_REPLAY_REPLAY_H_
#define GUESTMM_EXPERIMENT_REPLAY_REPLAY_H_

// Replays the allocations and frees of a real guest under a reporting policy:
// how much memory would the host have got back?
//
//   recording ─▶ events ─▶ placement ─▶ zones ─▶ policy ─▶ reports ─▶ host
//
// Time is the trace's: a policy's delay of two seconds takes two seconds of the
// trace, however fast the replay runs. In virtual time a guest consists of its
// allocator and a ledger of its resident memory: the replay's own memory grows
// with the guest's pages, the samples and the reports, not with the events.
// With ReplayMode::kReal there is guest RAM as well.

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
#include "guestmm/base/export.h"
#include "guestmm/base/fields.h"
#include "guestmm/base/units.h"
#include "guestmm/base/workqueue.h"
#include "guestmm/buddy/placement.h"
#include "guestmm/machine/model/cost_model.h"
#include "guestmm/mechanism/mechanism_spec.h"
#include "guestmm/reporting/policies.h"
#include "guestmm/trace/recording.h"
#include "guestmm/trace/trace_reader.h"

namespace GUESTMM_EXPORT guestmm {

// The pages that the trace's allocations get.
enum class ReplayPlacement {
  // The trace's own pfns, so that splits and merges are the real guest's.
  kRecorded,
  // Those that the modelled allocator picks.
  kNative,
};
// "recorded", "native".
std::string_view Name(ReplayPlacement placement);

// The upper bound of the traced time, and of ReplayOptions::tail. A longer
// trace is more likely one whose clock was set.
inline constexpr Nanoseconds kLongestReplay = std::chrono::hours(24 * 7);

enum class ReplayMode {
  // Resident memory is computed by a ledger.
  kVirtual,
  // Allocations are written to guest RAM, reports are discarded, and the kernel
  // is asked for resident memory. All else is the same, to the byte.
  kReal,
};
// "virtual", "real".
std::string_view Name(ReplayMode mode);

struct ReplayOptions {
  ReplayMode mode = ReplayMode::kVirtual;
  ReplayPlacement placement = ReplayPlacement::kRecorded;
  // The kernel whose rules of per-CPU lists are followed: 6.1 or 6.12. Unset:
  // that of the recording's uname, or without one 6.1.
  std::optional<KernelVersion> kernel = {};
  // A mechanism, as --policies takes it ("off", "linux:order=5"). "real": the
  // recorded reports of the guest's own kernel.
  std::string policy = "linux";
  // The option by which errors name it.
  MechanismOption policy_option = MechanismOption::kPolicies;
  PolicyDefaults policy_parameters = {};
  // The unit in which the host maps memory (HostLedger). In kReal, Order(0)
  // forbids huge pages and kPageblockOrder asks for them; no other is valid.
  Order granule = kPageblockOrder;
  // The host's khugepaged makes split huge pages whole again. Not in kReal.
  bool khugepaged = false;
  // The smallest block that ReplayResult::host_share_of_reportable counts.
  Order reportable_order = kPageblockOrder;
  // The time from a report to its end: its way through the ring, its kick, a
  // call of madvise per run of adjacent ranges, and each resident granule.
  CostModel costs = {};
  // The allocations that the guest touches, as a whole and at once: those that
  // have all gfp flags (GfpFlags) of one of these sets. Empty: all allocations.
  // Others are never touched, so that resident memory is a lower bound. Pages
  // in use at the start are touched.
  std::vector<uint32_t> touch = {};
  // The speed limit, in seconds of the trace per second of real time. Unset:
  // none. Does not affect the result. Below 0.01 a replay is uselessly slow;
  // above 1,000,000 pacing has no effect.
  std::optional<double> speed = {};
  uint64_t seed = 1;
  // The time between samples, initially. Beyond 200,000 samples every second
  // one is dropped and the interval doubles. At least 1 ms.
  Nanoseconds sample_interval{250'000'000};
  // The least time between frames, which are taken with samples; 0: no frames.
  // Beyond 1,200 frames every second one is dropped and the interval doubles.
  Nanoseconds frame_interval{0};
  // The time to continue for after the traced time, so that pending reports are
  // made: at most kLongestReplay.
  Nanoseconds tail{0};
  TraceReadOptions read = {};
};
// All members but the mechanism, lists and the costs.
const Fields<ReplayOptions>& ReplayFields();

// Counts of what could be followed of a trace, and what could not. Shares are
// of all frees, all allocations or all events, whichever the counter counts.
struct ReplayCounters {
  uint64_t events = 0;
  uint64_t allocations = 0;
  uint64_t frees = 0;
  // Of the allocations, those that ReplayOptions::touch applies to.
  uint64_t touched_allocations = 0;
  // What the trace's reader counted (TraceReadCounters).
  uint64_t lost_events = 0;
  uint64_t bad_lines = 0;
  uint64_t cut_lines = 0;
  uint64_t unknown_gfp = 0;
  uint64_t late = 0;
  Nanoseconds late_by{0};
  // Frees of pages that were not known to be allocated: they had been allocated
  // without an event, by the kernel's bulk allocator or among lost events. With
  // kRecorded they are freed all the same.
  uint64_t unmatched_frees = 0;
  // Frees of a part of an allocated block, or of several blocks at once.
  uint64_t split_frees = 0;
  // Allocations of pages that were not free: they count as freed before.
  uint64_t forced_placements = 0;
  // Allocations skipped as the modelled allocator had no memory (kNative).
  uint64_t failed_allocations = 0;
  // Events of pages outside of the memory map.
  uint64_t outside_memory = 0;
  // Moves of blocks between per-CPU lists and zones: those that the trace
  // shows, if they are followed, and those that it lacks by its other events.
  uint64_t moves = 0;
  // Of the moves, those that it lacks, and those of a block that was elsewhere.
  uint64_t unfit_moves = 0;
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

// Memory that the guest got, or with `removed` lost, while it was recorded.
struct MemoryChange {
  Nanoseconds time{0};  // by the trace's clock, of its first block
  GpaRange range;
  bool removed = false;
};

// Bytes on free lists when a replay ends, and why the host does not have all of
// them.
struct FreeAtEnd {
  uint64_t bytes = 0;
  uint64_t with_host = 0;  // not resident
  // Each other byte counts once, for the first reason that applies.
  //
  // In granules that the guest uses in part, and in blocks smaller than the
  // policy reports: a discard would have to split the granule.
  uint64_t fragmented = 0;
  // In other blocks smaller than the policy reports.
  uint64_t below_order = 0;
  // In zones below their low watermark, which report nothing.
  uint64_t below_watermark = 0;
  // Not reported before the replay ended.
  uint64_t not_due = 0;
};

// A report by the policy, or by the real kernel.
struct ReplayReport {
  Nanoseconds time{0};  // by the trace's clock
  GpaRange range;
};

// A pass of the reporter, which ends when it has nothing left to report. Times
// are by the trace's clock.
struct ReplayPass {
  Nanoseconds start{0};
  Nanoseconds end{0};  // of its last action, if the pass was cut short
  uint64_t reports = 0;
  uint64_t bytes = 0;
};

// The guest at one moment.
struct ReplaySample {
  Nanoseconds time{0};  // by the trace's clock
  uint64_t resident_bytes = 0;
  uint64_t free_bytes = 0;
  uint64_t isolated_bytes = 0;
  // Free blocks by order, all zones.
  std::array<uint64_t, kMaxOrder.value() + 1> free_blocks = {};
};

// The state of a 2 MiB block of the guest's memory.
enum class BlockState : char {
  kAbsent = '.',    // no RAM, or none that the guest manages
  kInUse = 'a',     // at least one page is in use
  kFree = 'f',      // free as a whole, and resident
  kIsolated = 'i',  // isolated to be reported
  kWithHost = 'h',  // free as a whole, and not resident
};
// The state of all blocks at one moment.
struct ReplayFrame {
  Nanoseconds time{0};  // by the trace's clock
  // One BlockState per block, from address 0 up.
  std::string blocks;
};

struct ReplayResult {
  ReplayOptions options;
  ReplayCounters counters;
  // The error that ended the replay early, in which case this is the result up
  // to there; empty without one.
  std::string error;
  KernelVersion kernel = KernelVersion::kV6_1;  // whose rules were followed
  // The trace shows what per-CPU lists drain, so this is not inferred; and it
  // ends with over a twentieth of the requests to come.
  bool follows_moves = false;
  bool moves_end_early = false;
  // The memory map at the start, unmanaged memory included.
  uint64_t memory_bytes = 0;
  // Ascending by time. Changes of runs within a second are one.
  std::vector<MemoryChange> memory_changes;
  UnmanagedBytes unmanaged;
  Nanoseconds start{0};
  Nanoseconds end{0};
  // The first and the last allocation or free, and the longest time between
  // two.
  Nanoseconds first_event{0};
  Nanoseconds last_event{0};
  Nanoseconds longest_pause{0};
  uint64_t reported_bytes = 0;
  // Of those, the bytes that were not resident.
  uint64_t needless_bytes = 0;
  // Scatterlists, each sent with a kick. Absent for the real kernel.
  std::optional<uint64_t> scatterlists = 0;
  // madvise calls: one per run of adjacent ranges in a scatterlist; as recorded
  // for the real kernel.
  uint64_t discard_calls = 0;
  // Faults of the host within HostLedger::kRefaultWindow of the discard.
  uint64_t refaults = 0;
  // At the end, the share of free memory that is not resident: of all free
  // memory; and of free blocks of at least the reportable order, in zones above
  // their low watermark. Absent if there is no such memory.
  std::optional<double> host_share_of_free;
  std::optional<double> host_share_of_reportable;
  FreeAtEnd free_at_end;
  // Memory integrated over time, in pages times microseconds: resident memory,
  // and memory in use (allocated and touched).
  struct Footprint {
    double resident = 0;
    double in_use = 0;
  };
  Footprint footprint;
  std::vector<ReplayReport> reports;
  // Empty for the real kernel, whose passes are not recorded.
  std::vector<ReplayPass> passes;
  std::vector<ReplaySample> samples;
  std::vector<ReplayFrame> frames;
  // At the times of Recording::buddyinfo in the traced time.
  std::vector<RecordedBuddyInfo> buddyinfo;
};

// The most memory that the guest had at a time.
uint64_t MostMemoryBytes(const ReplayResult& result);

// Parses ReplayOptions::touch: "all", or sets of gfp flags, e.g.
// "GFP_HIGHUSER_MOVABLE,GFP_KERNEL|__GFP_ZERO". Sets are separated by commas,
// the flags of a set by '|'. OptionError of "touch" for an unknown flag.
absl::StatusOr<std::vector<uint32_t>> ParseTouch(std::string_view text);
std::string FormatTouch(const std::vector<uint32_t>& touch);

// Checks `options` against `recording`, but not its trace. OptionError of one
// of ReplayFields, "kernel" (5.3), options.policy_option (real needs
// reports.csv), "placement" (real needs kRecorded), or, if the machine has less
// than the guest needs, by `available`, AvailableMemory's answer, "real".
// InvalidArgument for a recording without a memory map.
absl::Status CheckReplay(const Recording& recording,
                         const ReplayOptions& options,
                         const absl::StatusOr<uint64_t>& available);

// The progress of a replay, in the trace's time since its start.
struct ReplayProgress {
  Nanoseconds done{0};
  // Absent without window.csv: the end is not known before it is reached.
  std::optional<Nanoseconds> whole;
};
// Hooks into a replay while it runs.
struct ReplayWatch {
  // Called at each sample, unless empty.
  std::function<void(const ReplayProgress&)> progress = {};
  // Asked at each sample, every few thousand events, and every tenth of a
  // second of a wait, unless empty. Once it returns true the replay ends as
  // Cancelled.
  std::function<bool()> stopped = {};
  // The clock that ReplayOptions::speed is relative to, which must outlive the
  // replay. Null: real time.
  Workqueue* clock = nullptr;
};

// Replays the trace of `recording` under one mechanism. Returns the error of
// CheckReplay, ParseMechanism, MakePolicy or GuestRam::Create. InvalidArgument
// if no event is in the guest's memory or in the time before the traced time's
// end, and OptionError of "touch" if it applies to none of the allocations;
// `partial` is then without events. After the start,
// returns the error of the trace, InvalidArgument if it is longer than
// kLongestReplay, or in kReal the host's error: DataLoss names the first page
// in use that was found to have lost its contents, and the time; Cancelled if
// it was stopped. `partial`, if
// given, then has the result up to the last event that could be replayed.
//
// Under "real" the real kernel's reports of the traced time are discarded when
// they were made. Earlier ones are part of the first state, and after the
// traced time the guest's events are unknown.
absl::StatusOr<ReplayResult> Replay(const Recording& recording,
                                    const ReplayOptions& options,
                                    ReplayResult* partial = nullptr,
                                    const ReplayWatch& watch = {});

}  // namespace guestmm

#endif  // GUESTMM_EXPERIMENT_REPLAY_REPLAY_H_
