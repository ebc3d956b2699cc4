#include "guestmm/experiment/replay/verdict.h"

#include <algorithm>
#include <chrono>
#include <filesystem>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"
#include "guestmm/base/check.h"
#include "guestmm/base/memory_map.h"
#include "guestmm/experiment/replay/fidelity.h"
#include "guestmm/reporting/policies.h"

namespace guestmm {
namespace {

using Trust = ReplayVerdict::Trust;

// Shares of events from which on a recording is trusted less. Recordings of
// real guests have up to 2.2 % (docs/fidelity.md).
constexpr double kLimitedShare = 0.03;
constexpr double kPoorShare = 0.1;
// The same of moves between lists and zones, where those have up to 0.02 %.
constexpr double kLimitedMoves = 0.002;
// The share of all memory from which on free pages of kpageflags and zoneinfo
// differ.
constexpr double kBusyShare = 0.02;
// The same for files that are taken for each other.
constexpr double kSwappedShare = 0.002;
// rss.csv covers a whole recording, but for the time between two samples.
constexpr double kMostOfTheTime = 0.9;
// The guest's kernel is Linux, so the policy linux repeats its reports: 98 % of
// those of real guests. Fewer bytes than this say little.
constexpr double kLimitedMatch = 0.9;
constexpr double kPoorMatch = 0.6;
constexpr uint64_t kEnoughToMatch = 20 * kMiB;
// A real guest is hardly ever still for as long.
constexpr Nanoseconds kLongPause = std::chrono::seconds(3);
// The share of free memory that is worth an advice.
constexpr double kAdviceShare = 0.01;

double ShareOf(uint64_t part, uint64_t all) {
  return all == 0 ? 0 : static_cast<double>(part) / static_cast<double>(all);
}

uint64_t FreePages(const std::vector<RecordedZone>& zones) {
  uint64_t pages = 0;
  for (const RecordedZone& zone : zones) pages += zone.free.value();
  return pages;
}

uint64_t FreePages(const RecordedBuddyInfo& info) {
  uint64_t pages = 0;
  for (const RecordedBuddyInfo::Zone& zone : info.zones) {
    for (size_t order = 0; order < zone.blocks.size(); ++order) {
      pages += zone.blocks[order] << order;
    }
  }
  return pages;
}

uint64_t Distance(uint64_t a, uint64_t b) {
  return std::max(a, b) - std::min(a, b);
}

// A word of a shell's command line.
std::string Quoted(const std::string& word) {
  constexpr std::string_view kPlain =
      "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_./-+=:@,";
  if (!word.empty() && word.find_first_not_of(kPlain) == std::string::npos)
    return word;
  return absl::StrCat("'", absl::StrReplaceAll(word, {{"'", "'\\''"}}), "'");
}

class Judge {
 public:
  Judge(const Recording& recording, std::span<const ReplayResult> results)
      : recording_(recording), results_(results), first_(results.front()) {}

  ReplayVerdict Result() {
    verdict_.memory = MemoryUseAtStart(recording_, first_.unmanaged);
    JudgeFiles();
    JudgeEnds();
    JudgeTruth();
    JudgeMatch();
    JudgeTrace();
    JudgeTimes();
    JudgeEvents();
    AdviseOnPolicies();
    return verdict_;
  }

 private:
  void Doubt(Trust trust, std::string why) {
    verdict_.trust = std::max(verdict_.trust, trust);
    verdict_.doubts.push_back(std::move(why));
  }
  // Doubts for a share of `all` that is large.
  void DoubtShare(uint64_t part, uint64_t all, const std::string& what,
                  double limited = kLimitedShare) {
    const double share = ShareOf(part, all);
    if (share < limited) return;
    Doubt(share < kPoorShare ? Trust::kLimited : Trust::kPoor,
          absl::StrFormat("%.2f %% of %s", 100 * share, what));
  }
  // Only the first advice for a purpose is of use.
  void Advise(const std::string& purpose, const std::string& command) {
    for (const ReplayVerdict::Advice& other : verdict_.advice) {
      if (other.purpose == purpose) return;
    }
    verdict_.advice.push_back({purpose, command});
  }
  void AdviseToRecord() {
    Advise("a recording that can be trusted more, in the guest, as root",
           absl::StrCat("scripts/record-a-trace OUT ",
                        first_.counters.lost_events > 0 ? "--buffer 1024 " : "",
                        "-- COMMAND"));
  }
  // The policy, with `order` as the smallest block that it reports.
  static std::string Smallest(const std::string& policy, Order order) {
    const std::vector<std::string> has = Policies().ParametersOf(policy);
    const bool has_floor =
        std::find(has.begin(), has.end(), "floor") != has.end();
    return absl::StrCat(" --policies ", policy,
                        has_floor ? ":floor=" : ":order=", order.value());
  }
  // The trace, or the folder of those of each CPU.
  std::string RecordingPath() const {
    const std::filesystem::path path(recording_.trace_path);
    return path.filename() == "per_cpu" ? path.parent_path().string()
                                        : path.string();
  }
  // A command that replays the recording again.
  std::string ReplayCommand(const std::string& options) const {
    std::string command =
        absl::StrCat("guestmm replay ", Quoted(RecordingPath()));
    if (recording_.memory_given) {
      absl::StrAppend(&command, " --memory ",
                      FormatMemoryMap(recording_.memory));
    }
    return absl::StrCat(command, options);
  }

  void JudgeFiles() {
    for (const std::string& doubt : recording_.doubts) {
      Doubt(Trust::kLimited, doubt);
    }
    if (!recording_.first) {
      Doubt(Trust::kPoor,
            "no kpageflags.start: all memory counts as in use at the start");
    }
    if (recording_.zones.empty()) {
      Doubt(Trust::kLimited,
            "no zoneinfo.start: vCPUs, their lists and watermarks are guessed");
    }
    if (!verdict_.doubts.empty()) AdviseToRecord();
    if (!recording_.first && recording_.zones.empty()) {
      Doubt(Trust::kLimited,
            "no file shows the size of a page: it is taken for 4 KiB");
    }
    if (first_.unmanaged.no_page > 0) {
      Doubt(Trust::kLimited,
            absl::StrFormat("%s of RAM have no struct page: they are not "
                            "online, or named twice",
                            FormatBytes(first_.unmanaged.no_page)));
    }
    if (!verdict_.memory) return;
    const uint64_t free = PageCount(FreePages(recording_.zones)).bytes();
    if (free == 0) return;
    const auto [least, most] = std::minmax(free, verdict_.memory->free);
    if (ShareOf(most - least, first_.memory_bytes) < kBusyShare) return;
    Doubt(
        Trust::kLimited,
        absl::StrFormat("free memory is %s by kpageflags.start, %s by "
                        "zoneinfo.start",
                        FormatBytes(verdict_.memory->free), FormatBytes(free)));
  }

  // Files of the start that are of the end, by the free memory in between.
  void JudgeEnds() {
    std::vector<uint64_t> between;
    for (const RecordedBuddyInfo& info : recording_.buddyinfo) {
      if (info.time < first_.start || info.time > first_.end) continue;
      between.push_back(FreePages(info));
    }
    if (recording_.zones.empty() || recording_.zones_at_end.empty() ||
        between.empty()) {
      return;
    }
    const uint64_t start = FreePages(recording_.zones);
    const uint64_t end = FreePages(recording_.zones_at_end);
    const uint64_t as_named =
        Distance(between.front(), start) + Distance(between.back(), end);
    const uint64_t swapped =
        Distance(between.front(), end) + Distance(between.back(), start);
    const uint64_t pages = first_.memory_bytes / kPageSize;
    if (as_named <= swapped ||
        ShareOf(as_named - swapped, pages) < kSwappedShare) {
      return;
    }
    Doubt(Trust::kPoor,
          "by buddyinfo.log, zoneinfo.start is of the end and zoneinfo.end of "
          "the start");
  }

  // What of the truth cannot be of this trace.
  void JudgeTruth() {
    if (recording_.resident.empty()) return;
    const Nanoseconds shown =
        std::min(first_.end, recording_.resident.back().time) -
        std::max(first_.start, recording_.resident.front().time);
    const double share = std::max(0.0, ToSeconds(shown)) /
                         std::max(ToSeconds(first_.end - first_.start), 1e-9);
    if (share < kMostOfTheTime) {
      Doubt(Trust::kLimited,
            absl::StrFormat("rss.csv has %.0f %% of the replayed time",
                            100 * share));
    }
    uint64_t guest = 0;
    for (const GpaRange& range : recording_.AllMemory()) guest += range.bytes;
    uint64_t most = 0;
    for (const Recording::Resident& sample : recording_.resident) {
      most = std::max(most, sample.bytes);
    }
    // Firmware and devices have a little more.
    if (most <= guest + guest / 20) return;
    Doubt(Trust::kPoor,
          absl::StrFormat("rss.csv has %s resident, of a guest of %s",
                          FormatBytes(most), FormatBytes(guest)));
  }

  // The replay under the guest's own policy, or null.
  const ReplayResult* LikeTheGuest() const {
    const auto found = std::find_if(
        results_.begin(), results_.end(), [](const ReplayResult& result) {
          const ReplayOptions& options = result.options;
          return options.policy == "linux" &&
                 options.policy_parameters.empty() &&
                 options.placement == ReplayPlacement::kRecorded &&
                 options.granule == kPageblockOrder &&
                 options.tail == Nanoseconds(0) && result.error.empty();
        });
    return found == results_.end() ? nullptr : &*found;
  }
  // What the guest's kernel reported, but the same kernel's policy does not.
  void JudgeMatch() {
    const ReplayResult* const linux = LikeTheGuest();
    if (linux == nullptr || recording_.reports.empty()) return;
    // It may report smaller blocks, which no other file shows.
    for (const Recording::Report& report : recording_.reports) {
      if (report.range.bytes < kPageblockOrder.bytes()) return;
    }
    const uint64_t real =
        RealReportedBytes(recording_, linux->start, linux->end);
    if (std::max(real, linux->reported_bytes) < kEnoughToMatch) return;
    if (real == 0) {
      Doubt(Trust::kPoor,
            absl::StrFormat("the guest's kernel reported nothing in the "
                            "replayed time, in which linux reports %s",
                            FormatBytes(linux->reported_bytes)));
      return;
    }
    const double match = BlockMatch(recording_, *linux).value_or(0);
    if (match >= kLimitedMatch) return;
    Doubt(match < kPoorMatch ? Trust::kPoor : Trust::kLimited,
          absl::StrFormat("only %.1f %% of the blocks that the guest's kernel "
                          "reported are matched",
                          100 * match));
  }

  // Parts of the window that the trace does not show, though the guest is
  // hardly ever still.
  void JudgeTimes() {
    if (first_.counters.events == 0 || !first_.error.empty()) return;
    if (recording_.start && first_.last_event < *recording_.start) {
      Doubt(Trust::kPoor, "the trace ends before the window begins");
      return;
    }
    const auto doubt_gap = [&](Nanoseconds gap, std::string_view verb,
                               std::string_view side) {
      if (gap < std::max(kLongPause, 2 * first_.longest_pause)) return;
      Doubt(Trust::kLimited,
            absl::StrFormat("the trace %s %.1f s %s the window does", verb,
                            ToSeconds(gap), side));
    };
    if (recording_.start) {
      doubt_gap(first_.first_event - *recording_.start, "begins", "after");
    }
    if (recording_.end) {
      doubt_gap(*recording_.end - first_.last_event, "ends", "before");
    }
  }

  void JudgeTrace() {
    const ReplayCounters& counters = first_.counters;
    if (counters.events == 0) Doubt(Trust::kPoor, "the trace has no events");
    if (!first_.error.empty()) {
      Doubt(Trust::kPoor, "the trace could not be replayed to its end");
    }
    if (counters.lost_events > 0) {
      const double share =
          ShareOf(counters.lost_events, counters.events + counters.lost_events);
      Doubt(share < kLimitedShare ? Trust::kLimited : Trust::kPoor,
            absl::StrFormat("%d events were lost, %.2f %%",
                            counters.lost_events, 100 * share));
      AdviseToRecord();
    }
    if (counters.late > 0) {
      Doubt(ShareOf(counters.late, counters.events) < kLimitedShare
                ? Trust::kLimited
                : Trust::kPoor,
            absl::StrFormat("the time of %d events went back, by up to %.6f s",
                            counters.late, ToSeconds(counters.late_by)));
      AdviseToRecord();
    }
    if (counters.bad_lines + counters.cut_lines > 0) {
      Doubt(Trust::kLimited,
            absl::StrFormat("%d lines of the trace could not be read",
                            counters.bad_lines + counters.cut_lines));
    }
    if (recording_.kernel.empty() && !first_.options.kernel &&
        !first_.follows_moves) {
      Doubt(Trust::kLimited,
            absl::StrFormat(
                "no uname: the kernel is taken for Linux %s (--kernel)",
                kKernelVersionNames[static_cast<size_t>(first_.kernel)]));
    }
    if (first_.moves_end_early) {
      Doubt(Trust::kPoor,
            "what lists and zones exchange is shown only up to a moment: then "
            "lists only grow");
      AdviseToRecord();
    } else if (first_.kernel == KernelVersion::kV6_12 &&
               !first_.follows_moves &&
               first_.options.placement == ReplayPlacement::kRecorded) {
      Doubt(Trust::kLimited,
            "no event shows what lists drain (mm_page_pcpu_drain), which is "
            "inferred");
      AdviseToRecord();
    }
    if (first_.options.touch.empty() || counters.unknown_gfp == 0) return;
    Doubt(ShareOf(counters.unknown_gfp, counters.allocations) < kLimitedShare
              ? Trust::kLimited
              : Trust::kPoor,
          absl::StrFormat(
              "--touch cannot tell for %.2f %% of allocations: "
              "unknown gfp flags",
              100 * ShareOf(counters.unknown_gfp, counters.allocations)));
    Advise("resident memory if every allocation is touched", ReplayCommand(""));
  }

  void JudgeEvents() {
    const ReplayCounters& counters = first_.counters;
    DoubtShare(counters.unmatched_frees, counters.frees,
               "frees are unmatched: their allocations were not seen");
    DoubtShare(counters.forced_placements, counters.allocations,
               "allocations are forced: of pages that were not free");
    DoubtShare(counters.failed_allocations, counters.allocations,
               "allocations failed for want of memory");
    DoubtShare(counters.unfit_moves, counters.moves,
               "moves between lists and zones do not fit the other events",
               kLimitedMoves);
    if (counters.outside_memory == 0) return;
    DoubtShare(counters.outside_memory, counters.events,
               "events are outside the guest's memory");
    Advise("the guest's memory as it really is",
           absl::StrCat("guestmm replay ", Quoted(RecordingPath()),
                        " --memory MAP"));
  }

  // Advises on the policy that got the most back, of those that report.
  void AdviseOnPolicies() {
    const ReplayResult* best = nullptr;
    for (const ReplayResult& result : results_) {
      if (!result.scatterlists || result.options.policy == kMechanismOff) {
        continue;
      }
      if (best == nullptr ||
          result.free_at_end.with_host > best->free_at_end.with_host) {
        best = &result;
      }
    }
    if (best == nullptr) {
      Advise("what policies would get back", ReplayCommand(""));
      return;
    }
    const FreeAtEnd& free = best->free_at_end;
    const std::string& policy = best->options.policy;
    const std::string name = policy.substr(0, policy.find(':'));
    const auto is_much = [&](uint64_t bytes) {
      return ShareOf(bytes, free.bytes) >= kAdviceShare;
    };
    if (is_much(free.not_due)) {
      Advise("what is not due, after the trace's end",
             ReplayCommand(
                 absl::StrCat(" --policies ", Quoted(policy), " --tail 60")));
    }
    if (is_much(free.below_order)) {
      Advise("what is below the order",
             ReplayCommand(Smallest(name, best->options.granule)));
    }
    if (is_much(free.fragmented)) {
      Advise("what is fragmented, if discards split the host's huge pages",
             ReplayCommand(Smallest(name, Order(0))));
    }
  }

  const Recording& recording_;
  const std::span<const ReplayResult> results_;
  const ReplayResult& first_;
  ReplayVerdict verdict_;
};

}  // namespace

std::optional<MemoryUse> MemoryUseAtStart(const Recording& recording,
                                          const UnmanagedBytes& unmanaged) {
  if (!recording.first) return std::nullopt;
  const std::vector<RecordedPages::State>& states = recording.first->states;
  MemoryUse use = {.unmanaged = unmanaged.at_start()};
  uint64_t all = 0;
  for (const MemoryRange& range : MemoryMap::WholePages(recording.memory)) {
    all += range.pages().pages().bytes();
    const Pfn end = std::min(range.end, Pfn(states.size()));
    for (Pfn pfn = range.start; pfn < end; pfn += PageCount(1)) {
      switch (states[pfn.value()]) {
        case RecordedPages::State::kAnonymous:
          use.anonymous += kPageSize;
          break;
        case RecordedPages::State::kPageCache:
          use.page_cache += kPageSize;
          break;
        case RecordedPages::State::kSlab:
          use.slab += kPageSize;
          break;
        case RecordedPages::State::kFree:
          use.free += kPageSize;
          break;
        default:
          break;
      }
    }
  }
  use.other = all - use.anonymous - use.page_cache - use.slab - use.free -
              use.unmanaged;
  return use;
}

std::string_view Name(ReplayVerdict::Trust trust) {
  switch (trust) {
    case Trust::kGood:
      return "good";
    case Trust::kLimited:
      return "limited";
    case Trust::kPoor:
      return "poor";
  }
  return "";
}

ReplayVerdict JudgeReplays(const Recording& recording,
                           std::span<const ReplayResult> results) {
  GUESTMM_CHECK(!results.empty());
  return Judge(recording, results).Result();
}

}  // namespace guestmm
