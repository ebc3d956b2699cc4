#include "guestmm/experiment/replay/replay.h"

#include <algorithm>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "guestmm/base/virtual_time.h"
#include "guestmm/buddy/page_allocator.h"
#include "guestmm/host/accounting/host_info.h"
#include "guestmm/mechanism/mechanisms.h"
#include "guestmm/reporting/reporter.h"
#include "src/experiment/replay/pass_log.h"
#include "src/experiment/replay/replay_host.h"
#include "src/experiment/replay/replay_sampler.h"
#include "src/experiment/replay/replayed_guest.h"
#include "src/experiment/replay/trace_clock.h"
#include "src/experiment/replay/trace_placement.h"
#include "src/host/accounting/free_memory.h"
#include "src/machine/model/model_device.h"

namespace guestmm {
namespace {

// One replay: merges the trace's events, the real kernel's reports, samples and
// the reporter's works by time, and fills in the result.
class ReplayRun {
 public:
  // All must outlive this. REQUIRES: CheckReplay.
  ReplayRun(const Recording& recording, const ReplayOptions& options,
            const ReplayWatch& watch, ReplayResult& result)
      : recording_(recording),
        options_(options),
        watch_(watch),
        result_(result),
        time_(options.seed),
        clock_(time_, options.speed, watch.clock) {}

  // Makes the guest in its first state, its host and its policy.
  absl::Status Start() {
    const MemoryMap memory = MemoryMap::WholePages(recording_.memory);
    result_.memory_bytes = memory.bytes();
    absl::StatusOr<std::unique_ptr<PageAllocator>> allocator =
        MakeReplayedGuest(recording_);
    if (!allocator.ok()) return allocator.status();
    allocator_ = *std::move(allocator);
    absl::StatusOr<std::unique_ptr<ReplayHost>> host =
        ReplayHost::Create(memory, options_, time_);
    if (!host.ok()) return host.status();
    host_ = *std::move(host);
    placement_ = TracePlacement::Create(options_.placement, recording_,
                                        *allocator_, *host_, result_.counters);
    at_start_ = host_->ledger().counters();
    sampler_ = std::make_unique<ReplaySampler>(
        *allocator_, *host_, placement_->unmanaged(), result_);
    device_ = std::make_unique<ModelDevice>(
        ModelDeviceOptions{.costs = options_.costs}, time_, host_->ledger());
    device_->set_discard([this](std::span<const GpaRange> ranges) {
      host_->OnReported(ranges);
    });
    device_->StartLog();
    absl::StatusOr<MechanismSpec> mechanism =
        ParseMechanism(MechanismOption::kPolicies, options_.policy);
    if (!mechanism.ok()) return mechanism.status();
    mechanism_ = *std::move(mechanism);
    return mechanism_.is_reporting() ? MakePolicy() : absl::OkStatus();
  }

  // Replays the trace. After an error the result is complete up to it.
  absl::Status Run() {
    absl::StatusOr<std::unique_ptr<TraceReader>> reader =
        OpenTrace(recording_.trace_path, options_.read);
    if (!reader.ok()) return reader.status();
    absl::Status status = FollowEvents(**reader);
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
    result_.counters.lost_events = (*reader)->counters().lost;
    result_.counters.bad_lines = (*reader)->counters().bad_lines;
    FillInResult();
    return status;
  }

 private:
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
    reporter_ = std::make_unique<Reporter>(
        *allocator_, time_,
        std::make_unique<PassLog>(std::move(policy_), time_, passes_));
    return reporter_->Enable(*device_);
  }

  absl::Status FollowEvents(TraceReader& reader) {
    while (true) {
      const absl::StatusOr<std::optional<TraceEvent>> event = reader.Next();
      if (!event.ok()) return event.status();
      if (!event->has_value()) return absl::OkStatus();
      const Nanoseconds time = (*event)->time;
      absl::Status status;
      if (!clock_.started()) status = Begin(time);
      if (!status.ok()) return status;
      if (!clock_.Reaches(time)) {
        return clock_.TooLate(
            time, recording_.trace_path,
            absl::StrCat("event ", result_.counters.events + 1));
      }
      AdvanceTo(time);
      ++result_.counters.events;
      placement_->Follow(**event);
      status = HostStatus();
      if (!status.ok()) return status;
    }
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
    AdvanceTo(end);
    placement_->AddGrownMemory(/*info=*/nullptr);
    next_report_ = recording_.reports.size();
    AdvanceTo(end + options_.tail);
    return absl::OkStatus();
  }

  // Starts the clock at the trace's start, or its first event if that is
  // earlier, and the reporter.
  absl::Status Begin(Nanoseconds first) {
    const Nanoseconds start = std::min(recording_.start.value_or(first), first);
    result_.start = start;
    clock_.Start(start);
    sampler_->Start(start);
    while (next_report_ < recording_.reports.size() &&
           (!is_real() || recording_.reports[next_report_].time < start)) {
      ++next_report_;
    }
    while (next_buddyinfo_ < recording_.buddyinfo.size() &&
           recording_.buddyinfo[next_buddyinfo_].time < start) {
      ++next_buddyinfo_;
    }
    if (policy_ == nullptr) return absl::OkStatus();
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
  // those at `time`.
  void AdvanceTo(Nanoseconds time) {
    bool any_due = true;
    while (any_due) {
      any_due = false;
      Nanoseconds next = std::min(time, sampler_->next_sample());
      const bool has_info = next_buddyinfo_ < recording_.buddyinfo.size();
      if (has_info) {
        next = std::min(next, recording_.buddyinfo[next_buddyinfo_].time);
      }
      const bool has_report = next_report_ < recording_.reports.size();
      if (has_report) {
        next = std::min(next, recording_.reports[next_report_].time);
      }
      clock_.RunUntil(next);
      if (next < time && next == sampler_->next_sample()) {
        sampler_->SampleDue(clock_.Now());
        ShowProgress();
        any_due = true;
      }
      if (has_info && next < time &&
          next == recording_.buddyinfo[next_buddyinfo_].time) {
        placement_->AddGrownMemory(&recording_.buddyinfo[next_buddyinfo_]);
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
  }

  // Discards what the real guest's VMM did. Its clock and the guest's differ by
  // some milliseconds, so a granule may still be in use here, or in use again.
  // Such a granule stays resident, and does not count as the real kernel's
  // error.
  void Discard(const GpaRange& range) {
    ++result_.discard_calls;
    result_.reports.push_back({.time = clock_.Now(), .range = range});
    const Pfn end =
        std::min(ToPfn(range.gpa + range.bytes), allocator_->pages().end());
    std::vector<GpaRange> free;
    for (Pfn pfn = ToPfn(range.gpa + (kPageSize - 1)); pfn < end;) {
      const Pfn next = std::min(
          end, (pfn + PageCount(1)).AlignUp(host_->ledger().granule()));
      const GpaRange part = {ToGpa(pfn), (next - pfn).bytes()};
      if (!host_->ledger().FirstInUse(std::span(&part, 1))) {
        free.push_back(part);
      }
      pfn = next;
    }
    host_->OnReported(free);
  }

  void ShowProgress() const {
    if (!watch_.progress) return;
    ReplayProgress progress = {.done = time_.Now(), .whole = {}};
    if (recording_.end) {
      progress.whole = *recording_.end - clock_.start() + options_.tail;
    }
    watch_.progress(progress);
  }

  void FillInResult() {
    result_.end = clock_.Now();
    result_.unmanaged = placement_->unmanaged().bytes();
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
  }

  const Recording& recording_;
  const ReplayOptions& options_;
  const ReplayWatch& watch_;
  ReplayResult& result_;
  MechanismSpec mechanism_;
  VirtualTime time_;
  TraceClock clock_;
  std::unique_ptr<PageAllocator> allocator_;
  std::unique_ptr<ReplayHost> host_;
  std::unique_ptr<TracePlacement> placement_;
  std::unique_ptr<ReplaySampler> sampler_;
  // The host's counters once the guest was in its first state.
  LedgerCounters at_start_;
  std::unique_ptr<ModelDevice> device_;
  std::vector<ReplayPass> passes_;  // in virtual time
  // Null before Start, after Begin, and without a policy.
  std::unique_ptr<ReportingPolicy> policy_;
  std::unique_ptr<Reporter> reporter_;  // null before Begin
  // Of the recording's: the next to compare with, and under real to discard.
  size_t next_buddyinfo_ = 0;
  size_t next_report_ = 0;
};

}  // namespace

absl::StatusOr<ReplayResult> Replay(const Recording& recording,
                                    const ReplayOptions& options,
                                    ReplayResult* partial,
                                    const ReplayWatch& watch) {
  ReplayResult result;
  result.options = options;
  absl::Status status = CheckReplay(recording, options, AvailableMemory());
  if (status.ok()) {
    ReplayRun run(recording, options, watch, result);
    status = run.Start();
    if (status.ok()) status = run.Run();
  }
  result.error = absl::StrCat(status.message());
  if (partial != nullptr) *partial = result;
  if (!status.ok()) return status;
  return result;
}

}  // namespace guestmm
