#include "guestmm/experiment/replay/replay.h"

#include <algorithm>
#include <chrono>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "guestmm/base/option_error.h"
#include "guestmm/base/virtual_time.h"
#include "guestmm/buddy/page_allocator.h"
#include "guestmm/host/accounting/host_info.h"
#include "guestmm/mechanism/mechanisms.h"
#include "guestmm/reporting/reporter.h"
#include "src/experiment/replay/lists_at_start.h"
#include "src/experiment/replay/pass_log.h"
#include "src/experiment/replay/replay_host.h"
#include "src/experiment/replay/replay_sampler.h"
#include "src/experiment/replay/replayed_guest.h"
#include "src/experiment/replay/trace_clock.h"
#include "src/experiment/replay/trace_placement.h"
#include "src/host/accounting/free_memory.h"
#include "src/host/accounting/khugepaged.h"
#include "src/machine/model/model_device.h"

namespace guestmm {
namespace {

// One replay: merges the trace's events, the real kernel's reports, samples and
// the reporter's works by time, and fills in the result.
class ReplayRun {
 public:
  // All must outlive this. REQUIRES: CheckReplay.
  // `lists`: what the trace shows of them; absent if that is not known, and
  // then NeedsLists() tells whether the trace shows anything.
  ReplayRun(const Recording& recording, const ReplayOptions& options,
            const ReplayWatch& watch, const std::optional<ShownLists>& lists,
            ReplayResult& result)
      : recording_(recording),
        options_(options),
        watch_(watch),
        lists_(lists),
        result_(result),
        time_(options.seed),
        clock_(time_, options.speed, watch) {}

  // Makes the guest in its first state, its host and its policy.
  absl::Status Start() {
    const MemoryMap memory = MemoryMap::WholePages(recording_.memory);
    result_.memory_bytes = memory.bytes();
    const KernelVersion kernel = options_.kernel.value_or(KernelOf(recording_));
    result_.kernel = kernel;
    absl::StatusOr<std::unique_ptr<PageAllocator>> allocator =
        MakeReplayedGuest(recording_, kernel);
    if (!allocator.ok()) return allocator.status();
    allocator_ = *std::move(allocator);
    absl::StatusOr<std::unique_ptr<ReplayHost>> host = ReplayHost::Create(
        MemoryMap::WholePages(recording_.AllMemory()), options_, time_);
    if (!host.ok()) return host.status();
    host_ = *std::move(host);
    const ShownLists lists = lists_.value_or(ShownLists{});
    const bool is_recorded = options_.placement == ReplayPlacement::kRecorded;
    ignores_moves_ = !is_recorded || lists.only_from_zones;
    result_.moves_end_early = !lists.only_from_zones &&
                              lists.requests_after_moves < lists.requests &&
                              lists.requests_after_moves > lists.requests / 20;
    placement_ = TracePlacement::Create(options_.placement, recording_, kernel,
                                        lists.at_start, *allocator_, *host_,
                                        result_.counters);
    at_start_ = host_->ledger().counters();
    sampler_ = std::make_unique<ReplaySampler>(
        *allocator_, *host_, placement_->unmanaged(), result_);
    device_ = std::make_unique<ModelDevice>(
        ModelDeviceOptions{.costs = options_.costs}, time_, host_->ledger());
    device_->set_discard([this](std::span<const GpaRange> ranges) {
      host_->OnReported(ranges);
    });
    device_->StartLog();
    if (options_.khugepaged) {
      khugepaged_.emplace(time_, memory,
                          [this](Pfn pfn) { host_->OnCollapsed(pfn); });
    }
    absl::StatusOr<MechanismSpec> mechanism =
        ParseMechanism(MechanismOption::kPolicies, options_.policy);
    if (!mechanism.ok()) return mechanism.status();
    mechanism_ = *std::move(mechanism);
    return mechanism_.is_reporting() ? MakePolicy() : absl::OkStatus();
  }

  // Replays the trace. After an error the result is complete up to it.
  absl::Status Run() {
    absl::StatusOr<std::unique_ptr<TraceReader>> reader =
        OpenTrace(recording_, options_.read);
    if (!reader.ok()) return reader.status();
    absl::Status status = FollowEvents(**reader);
    if (needs_lists_) return status;
    if (!clock_.started()) {
      status.Update(Begin(recording_.start.value_or(Nanoseconds(0))));
    }
    // After an error the guest's further events are unknown, so the replay ends
    // with the last event.
    if (status.ok()) status = RunToEnd();
    sampler_->Sample(clock_.Now());
    ShowProgress();
    host_->CheckContents();
    status.Update(HostStatus());
    TakeReadCounters((*reader)->counters());
    FillInResult();
    return status;
  }

  // True if the run ended at an event that only a run with `lists` can follow.
  bool NeedsLists() const { return needs_lists_; }

  // The error of a trace that says nothing about this guest; OK otherwise.
  absl::Status CheckFollowed() const {
    const ReplayCounters& counters = result_.counters;
    if (counters.events > 0 && counters.outside_memory == counters.events) {
      return absl::InvalidArgumentError(absl::StrFormat(
          "%s: none of %d events is in the guest's memory (iomem or --memory), "
          "which is of %d pages of 4 KiB up to page %d; the first event is of "
          "page %d",
          recording_.trace_path, counters.events,
          result_.memory_bytes / kPageSize, allocator_->pages().end().value(),
          first_page_.value()));
    }
    if (counters.allocations > 0 && counters.touched_allocations == 0) {
      return OptionError(
          "touch", FormatTouch(options_.touch),
          absl::StrFormat(
              "must be gfp flags that an allocation in the trace has; the "
              "flags of %d of %d allocations are not known (numbers, or names "
              "of another kernel)",
              counters.unknown_gfp, counters.allocations));
    }
    return absl::OkStatus();
  }

 private:
  // vmstat_interval. The kernel rounds such timers to whole seconds.
  static constexpr Nanoseconds kRefreshInterval = std::chrono::seconds(1);

  bool is_real() const { return mechanism_.name == kMechanismReal; }

  // Makes the policy, which continues from `resumed`, or if that is unset
  // starts anew.
  absl::Status MakePolicy(std::optional<ResumedReporting> resumed = {}) {
    MechanismContext context = {.policy = PolicyContext(options_.granule),
                                .defaults = options_.policy_parameters};
    context.policy.resumed = resumed;
    absl::StatusOr<std::unique_ptr<ReportingPolicy>> policy =
        guestmm::MakePolicy(options_.policy_option, mechanism_, context);
    if (!policy.ok()) return policy.status();
    policy_ = *std::move(policy);
    return absl::OkStatus();
  }

  // The state of the guest's own reporter at `start`. Unset: it had been asked
  // for a pass, but when is unknown.
  std::optional<ResumedReporting> ResumedAt(Nanoseconds start) const {
    if (WasSettled(*allocator_)) return ResumedReporting{};
    const std::optional<Nanoseconds> due =
        TimeToNextPass(recording_, start, policy_->delay());
    if (!due) return std::nullopt;
    return ResumedReporting{.next_pass = due};
  }

  // Starts the reporter with the policy in its state at `start`, for which the
  // policy is made again: only one that is made knows its delay.
  absl::Status StartReporter(Nanoseconds start) {
    absl::Status status = MakePolicy(ResumedAt(start));
    if (!status.ok()) return status;
    order_ = policy_->min_order();
    reporter_ = std::make_unique<Reporter>(
        *allocator_, time_,
        std::make_unique<PassLog>(std::move(policy_), time_, passes_));
    return reporter_->Enable(*device_);
  }

  absl::Status FollowEvents(TraceReader& reader) {
    while (true) {
      const absl::StatusOr<std::span<const TraceEvent>> run = reader.NextRun();
      if (!run.ok()) return run.status();
      if (run->empty()) return absl::OkStatus();
      for (const TraceEvent& event : *run) {
        absl::Status status = FollowEvent(event);
        if (!status.ok()) return status;
      }
    }
  }

  absl::Status FollowEvent(const TraceEvent& event) {
    const Nanoseconds time = event.time;
    if (!clock_.started()) {
      first_page_ = event.pfn;
      absl::Status status = Begin(time);
      if (!status.ok()) return status;
    }
    if (!clock_.Reaches(time)) {
      return clock_.TooLate(
          time, recording_.trace_path,
          absl::StrCat("event ", result_.counters.events + 1));
    }
    absl::Status status = AdvanceTo(time);
    if (!status.ok()) return status;
    if (event.is_request()) {
      NoteTime(time);
      placement_->Follow(event);
    } else if (!ignores_moves_) {
      needs_lists_ = !lists_.has_value();
      if (needs_lists_) return absl::AbortedError("lists are not known");
      placement_->Follow(event);
      result_.follows_moves = true;
    }
    return host_->status().ok() ? absl::OkStatus() : HostStatus();
  }

  // Notes that the guest allocates or frees. REQUIRES: not yet followed.
  void NoteTime(Nanoseconds time) {
    if (result_.counters.events == 0) {
      result_.first_event = time;
    } else {
      result_.longest_pause =
          std::max(result_.longest_pause, time - result_.last_event);
    }
    result_.last_event = time;
  }

  // To the end of the traced time, and on for ReplayOptions::tail.
  absl::Status RunToEnd() {
    Nanoseconds end = clock_.Now();
    if (recording_.end) {
      if (!clock_.Reaches(*recording_.end)) {
        return clock_.TooLate(*recording_.end, recording_.trace_path,
                              "its end");
      }
      end = std::max(end, *recording_.end);
    }
    absl::Status status = AdvanceTo(end);
    if (!status.ok()) return status;
    placement_->ResizeZones(/*info=*/nullptr, end);
    next_report_ = recording_.reports.size();
    return AdvanceTo(end + options_.tail);
  }

  // Starts the clock at the trace's start, or its first event if that is
  // earlier, and the reporter.
  absl::Status Begin(Nanoseconds first) {
    if (recording_.end && first > *recording_.end) {
      return absl::InvalidArgumentError(absl::StrFormat(
          "%s: begins at %.6f s, but window.csv ends at %.6f s: must be by one "
          "clock",
          recording_.trace_path, ToSeconds(first), ToSeconds(*recording_.end)));
    }
    const Nanoseconds start = std::min(recording_.start.value_or(first), first);
    result_.start = start;
    clock_.Start(start);
    sampler_->Start(start);
    placement_->SkipPlugsBefore(start);
    next_refresh_ = (start / kRefreshInterval + 1) * kRefreshInterval;
    while (next_report_ < recording_.reports.size() &&
           (!is_real() || recording_.reports[next_report_].time < start)) {
      ++next_report_;
    }
    while (next_buddyinfo_ < recording_.buddyinfo.size() &&
           recording_.buddyinfo[next_buddyinfo_].time < start) {
      ++next_buddyinfo_;
    }
    if (policy_ == nullptr) {
      order_ = is_real() ? kPageblockOrder : options_.granule;
      return absl::OkStatus();
    }
    return StartReporter(start);
  }

  // The host's first error, with the time it is noticed at.
  absl::Status HostStatus() const {
    const absl::Status& status = host_->status();
    if (status.ok()) return status;
    return absl::Status(
        status.code(),
        absl::StrFormat("%s: at %.6f s: %s", recording_.trace_path,
                        ToSeconds(clock_.Now()), status.message()));
  }

  // Does what is due before `time`, by the trace's clock; of real reports, also
  // those at `time`. Cancelled if the replay is stopped.
  absl::Status AdvanceTo(Nanoseconds time) {
    // Of most events nothing is due ahead.
    if (time >= next_due_) return DoDue(time);
    return clock_.RunOn(time) ? absl::OkStatus()
                              : absl::CancelledError("stopped");
  }

  absl::Status DoDue(Nanoseconds time) {
    bool any_due = true;
    while (any_due) {
      any_due = false;
      Nanoseconds next =
          std::min({time, sampler_->next_sample(), next_refresh_});
      const bool has_info = next_buddyinfo_ < recording_.buddyinfo.size();
      if (has_info) {
        next = std::min(next, recording_.buddyinfo[next_buddyinfo_].time);
      }
      const bool has_report = next_report_ < recording_.reports.size();
      if (has_report) {
        next = std::min(next, recording_.reports[next_report_].time);
      }
      next = std::min(next, placement_->next_unplug());
      if (!clock_.RunUntil(next)) return absl::CancelledError("stopped");
      if (next == placement_->next_unplug()) {
        placement_->Unplug(next);
        any_due = true;
      }
      if (next < time && next == next_refresh_) {
        placement_->RefreshPerCpuLists();
        next_refresh_ += kRefreshInterval;
        any_due = true;
      }
      if (next < time && next == sampler_->next_sample()) {
        sampler_->SampleDue(clock_.Now());
        ShowProgress();
        any_due = true;
      }
      if (has_info && next < time &&
          next == recording_.buddyinfo[next_buddyinfo_].time) {
        placement_->ResizeZones(&recording_.buddyinfo[next_buddyinfo_], next);
        sampler_->AddBuddyInfo(next);
        ++next_buddyinfo_;
        any_due = true;
      }
      if (has_report && next == recording_.reports[next_report_].time) {
        Discard(recording_.reports[next_report_].range);
        ++next_report_;
        any_due = true;
      }
    }
    next_due_ = std::min(
        {sampler_->next_sample(), next_refresh_, placement_->next_unplug()});
    if (next_buddyinfo_ < recording_.buddyinfo.size()) {
      next_due_ =
          std::min(next_due_, recording_.buddyinfo[next_buddyinfo_].time);
    }
    if (next_report_ < recording_.reports.size()) {
      next_due_ = std::min(next_due_, recording_.reports[next_report_].time);
    }
    return absl::OkStatus();
  }

  // Discards what the real guest's VMM did.
  void Discard(const GpaRange& range) {
    ++result_.discard_calls;
    result_.reports.push_back({.time = clock_.Now(), .range = range});
    host_->OnReportedThere(range, allocator_->pages().end());
  }

  void ShowProgress() const {
    if (!watch_.progress) return;
    ReplayProgress progress = {.done = time_.Now(), .whole = {}};
    if (recording_.end) {
      progress.whole = *recording_.end - clock_.start() + options_.tail;
    }
    watch_.progress(progress);
  }

  void TakeReadCounters(const TraceReadCounters& read) {
    ReplayCounters& counters = result_.counters;
    counters.lost_events = read.lost;
    counters.bad_lines = read.bad_lines;
    counters.cut_lines = read.cut_lines;
    counters.unknown_gfp = read.unknown_gfp;
    counters.late = read.late;
    counters.late_by = read.late_by;
  }

  void FillInResult() {
    result_.end = clock_.Now();
    result_.unmanaged = placement_->unmanaged().bytes();
    result_.memory_changes = placement_->memory_changes();
    result_.footprint = host_->FootprintUntilNow();
    for (const ModelDevice::Discarded& entry : device_->log()) {
      result_.reports.push_back(
          {.time = clock_.ToTraceTime(entry.time), .range = entry.range});
    }
    for (const ReplayReport& report : result_.reports) {
      result_.reported_bytes += report.range.bytes;
    }
    const LedgerCounters counters = host_->ledger().counters();
    result_.needless_bytes =
        (counters.reported_bytes - at_start_.reported_bytes) -
        (counters.needed_bytes - at_start_.needed_bytes);
    result_.refaults = counters.refaults;
    result_.passes = passes_;
    for (ReplayPass& pass : result_.passes) {
      pass.start = clock_.ToTraceTime(pass.start);
      pass.end = clock_.ToTraceTime(pass.end);
    }
    if (is_real()) {
      result_.scatterlists.reset();
    } else {
      result_.scatterlists = device_->scatterlists();
      result_.discard_calls = device_->discard_calls();
    }
    const auto resident = [this](Pfn pfn, Order order) {
      return host_->ledger().ResidentPages(pfn, order);
    };
    result_.host_share_of_free = CountFree(*allocator_, resident).share();
    result_.host_share_of_reportable =
        CountReportable(*allocator_, resident, options_.reportable_order)
            .share();
    result_.free_at_end = sampler_->FreeAtEndOf(order_);
  }

  const Recording& recording_;
  const ReplayOptions& options_;
  const ReplayWatch& watch_;
  const std::optional<ShownLists>& lists_;
  ReplayResult& result_;
  MechanismSpec mechanism_;
  VirtualTime time_;
  TraceClock clock_;
  std::unique_ptr<PageAllocator> allocator_;
  std::unique_ptr<ReplayHost> host_;
  bool ignores_moves_ = false;  // of lists
  std::unique_ptr<TracePlacement> placement_;
  std::unique_ptr<ReplaySampler> sampler_;
  // The host's counters once the guest was in its first state.
  LedgerCounters at_start_;
  std::unique_ptr<ModelDevice> device_;
  std::optional<Khugepaged> khugepaged_;
  std::vector<ReplayPass> passes_;  // in virtual time
  Pfn first_page_;                  // of the first event
  // The smallest block that is reported: under real, the kernel's default;
  // without a policy, what one would that splits no granule.
  Order order_;
  // Null before Start, after Begin, and without a policy.
  std::unique_ptr<ReportingPolicy> policy_;
  std::unique_ptr<Reporter> reporter_;  // null before Begin
  // When per-CPU lists are refreshed next, by the trace's clock.
  Nanoseconds next_refresh_{0};
  // Of the recording's: the next to compare with, and under real to discard.
  size_t next_buddyinfo_ = 0;
  size_t next_report_ = 0;
  // When the first of all these is due, by the trace's clock.
  Nanoseconds next_due_ = Nanoseconds::min();
  bool needs_lists_ = false;
};

}  // namespace

absl::StatusOr<ReplayResult> Replay(const Recording& recording,
                                    const ReplayOptions& options,
                                    ReplayResult* partial,
                                    const ReplayWatch& watch) {
  ReplayResult result;
  result.options = options;
  absl::Status status = CheckReplay(recording, options, AvailableMemory());
  // What a trace shows of lists takes another reading of it. Most show nothing,
  // so it is read once an event does, from which on all is done anew. Not where
  // that would be waited for, or take place on real RAM.
  std::optional<ShownLists> lists;
  if (options.speed || options.mode == ReplayMode::kReal ||
      !CanBeReadAgain(recording)) {
    lists = FindShownLists(recording, options.read);
  }
  while (status.ok()) {
    ReplayRun run(recording, options, watch, lists, result);
    status = run.Start();
    if (status.ok()) status = run.Run();
    if (run.NeedsLists()) {
      lists = FindShownLists(recording, options.read);
      status = absl::OkStatus();
      result = ReplayResult{};
      result.options = options;
      continue;
    }
    const absl::Status followed = run.CheckFollowed();
    if (!followed.ok() && !absl::IsCancelled(status)) {
      status = followed;
      result = ReplayResult{};
      result.options = options;
    }
    break;
  }
  result.error = absl::StrCat(status.message());
  if (partial != nullptr) *partial = result;
  if (!status.ok()) return status;
  return result;
}

}  // namespace guestmm
