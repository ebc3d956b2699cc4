#include "guestmm/experiment/replay/replay.h"

#include <algorithm>
#include <chrono>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "guestmm/base/thread_workqueue.h"
#include "guestmm/base/virtual_time.h"
#include "guestmm/buddy/page_allocator.h"
#include "guestmm/host/accounting/host_info.h"
#include "guestmm/mechanism/experiment.h"
#include "guestmm/reporting/reporter.h"
#include "src/experiment/replay/pass_log.h"
#include "src/experiment/replay/replay_device.h"
#include "src/experiment/replay/replay_host.h"
#include "src/experiment/replay/replay_pace.h"
#include "src/experiment/replay/replayed_guest.h"
#include "src/experiment/replay/trace_placement.h"
#include "src/host/accounting/free_memory.h"

namespace guestmm {
namespace {

// What is kept of what is looked at over time, however long that is: a frame of
// a guest of 1 TiB is half a megabyte.
constexpr size_t kMostKeptSamples = 200'000;
constexpr size_t kMostKeptFrames = 1200;

// If there is one more of `all` than `most`, which is even, drops every second
// one, and from now on there are half as many: the first and the last stay, and
// the times between them are even.
template <typename T>
void KeepAtMost(size_t most, std::vector<T>& all, Nanoseconds& interval) {
  if (all.size() <= most) return;
  for (size_t i = 1; 2 * i < all.size(); ++i) all[i] = std::move(all[2 * i]);
  all.resize((all.size() + 1) / 2);
  interval *= 2;
}

// One replay.
class Run {
 public:
  Run(const Recording& recording, const ReplayOptions& options,
      const ReplayWatch& watch, ReplayResult& result)
      : recording_(recording),
        options_(options),
        watch_(watch),
        result_(result),
        time_(options.seed),
        sample_interval_(options.sample_interval),
        frame_interval_(options.frame_interval) {}

  // REQUIRES: CheckReplay.
  absl::Status Start() {
    const MemoryMap memory = MemoryMap::WholePages(recording_.memory);
    result_.memory_bytes = memory.bytes();
    absl::StatusOr<std::unique_ptr<PageAllocator>> allocator =
        MakeReplayedGuest(recording_);
    if (!allocator.ok()) return allocator.status();
    allocator_ = *std::move(allocator);
    absl::StatusOr<std::unique_ptr<ReplayHost>> host =
        ReplayHost::Create(memory, options_);
    if (!host.ok()) return host.status();
    host_ = *std::move(host);
    placement_ = TracePlacement::Create(options_.placement, recording_,
                                        *allocator_, *host_, result_.counters);
    at_first_ = host_->ledger().counters();
    device_ = std::make_unique<ReplayDevice>(time_, *host_);
    if (options_.policy == kPolicyOff || is_real()) return absl::OkStatus();
    PolicyParameters parameters = PolicyParametersOf(options_);
    parameters.settled = WasSettled(*allocator_);
    absl::StatusOr<std::unique_ptr<ReportingPolicy>> policy =
        MakePolicy(options_.policy, parameters);
    if (!policy.ok()) return policy.status();
    reporter_ = std::make_unique<Reporter>(
        *allocator_, time_,
        std::make_unique<PassLog>(*std::move(policy), time_, passes_));
    return reporter_->Enable(*device_);
  }

  absl::Status Go() {
    absl::StatusOr<std::unique_ptr<TraceReader>> reader =
        OpenTrace(recording_.trace_path, options_.read);
    if (!reader.ok()) return reader.status();
    absl::Status status;
    while (true) {
      const absl::StatusOr<std::optional<TraceEvent>> event = (*reader)->Next();
      if (!event.ok()) {
        status = event.status();
        break;
      }
      if (!event->has_value()) break;
      if (!started_) Begin((*event)->time);
      if (IsTooFar((*event)->time)) {
        status = TooFar((*event)->time,
                        absl::StrCat("event ", result_.counters.events + 1));
        break;
      }
      AdvanceTo((*event)->time);
      ++result_.counters.events;
      placement_->Follow(**event, time_.Now());
      status = HostStatus();
      if (!status.ok()) break;
    }
    if (!started_) Begin(recording_.start.value_or(Nanoseconds(0)));
    Nanoseconds end = result_.start + time_.Now();
    if (recording_.end && status.ok()) {
      if (IsTooFar(*recording_.end)) {
        status = TooFar(*recording_.end, "its end");
      }
      end = std::max(end, *recording_.end);
    }
    // After an error no event tells what the guest did: it ends with the last.
    if (status.ok()) {
      AdvanceTo(end);
      next_report_ = recording_.reports.size();
      AdvanceTo(end + options_.tail);
    }
    Sample();
    host_->CheckContents();
    status.Update(HostStatus());
    result_.counters.lost_events = (*reader)->counters().lost;
    result_.counters.bad_lines = (*reader)->counters().bad_lines;
    Finish();
    return status;
  }

 private:
  bool is_real() const { return options_.policy == kPolicyReal; }

  void Begin(Nanoseconds first) {
    started_ = true;
    result_.start =
        recording_.start ? std::min(*recording_.start, first) : first;
    next_sample_ = result_.start;
    if (options_.speed) {
      if (watch_.clock == nullptr) wall_.emplace();
      pace_.emplace(*options_.speed,
                    watch_.clock != nullptr ? *watch_.clock : *wall_);
    }
    while (
        next_report_ < recording_.reports.size() &&
        (!is_real() || recording_.reports[next_report_].time < result_.start)) {
      ++next_report_;
    }
    while (next_buddyinfo_ < recording_.buddyinfo.size() &&
           recording_.buddyinfo[next_buddyinfo_].time < result_.start) {
      ++next_buddyinfo_;
    }
  }

  bool IsTooFar(Nanoseconds time) const {
    // Without a sign no difference overflows.
    const auto since = static_cast<uint64_t>(time.count()) -
                       static_cast<uint64_t>(result_.start.count());
    return time > result_.start &&
           since > static_cast<uint64_t>(kLongestReplay.count());
  }
  absl::Status TooFar(Nanoseconds time, const std::string& what) const {
    return absl::InvalidArgumentError(absl::StrFormat(
        "%s: %s is %.1f s by the trace's clock, which began at %.1f s: the "
        "most is %.0f s later",
        recording_.trace_path, what, ToSeconds(time), ToSeconds(result_.start),
        ToSeconds(kLongestReplay)));
  }

  // Of the host, with where the trace is by now.
  absl::Status HostStatus() const {
    const absl::Status& status = host_->status();
    if (status.ok()) return status;
    return absl::Status(
        status.code(),
        absl::StrFormat("%s: at %.6f s: %s", recording_.trace_path,
                        ToSeconds(result_.start + time_.Now()),
                        status.message()));
  }

  // Lets what falls due before `time` (of the trace's clock) happen.
  void AdvanceTo(Nanoseconds time) {
    while (true) {
      Nanoseconds next = time;
      const bool has_info = next_buddyinfo_ < recording_.buddyinfo.size();
      if (has_info) {
        next = std::min(next, recording_.buddyinfo[next_buddyinfo_].time);
      }
      const bool has_report = next_report_ < recording_.reports.size();
      if (has_report) {
        next = std::min(next, recording_.reports[next_report_].time);
      }
      next = std::min(next, next_sample_);
      RunUntil(next);
      bool looked = false;
      if (next == next_sample_ && next < time) {
        Sample();
        next_sample_ += sample_interval_;
        looked = true;
      }
      if (has_info && next < time &&
          next == recording_.buddyinfo[next_buddyinfo_].time) {
        ++next_buddyinfo_;
        result_.buddyinfo.push_back(BuddyInfoAt(next));
        looked = true;
      }
      if (has_report && next == recording_.reports[next_report_].time) {
        Discard(recording_.reports[next_report_++].range);
        looked = true;
      }
      if (!looked) return;
    }
  }
  void RunUntil(Nanoseconds time) {
    const Nanoseconds now = result_.start + time_.Now();
    if (time <= now) return;
    if (pace_) pace_->WaitFor(time - result_.start);
    time_.RunFor(time - now);
  }

  // What the real guest's VMM discarded. Its clock and the guest's agree but
  // within some milliseconds, so that a granule may be in use here still, or
  // again: such a one stays, and is not held against the real kernel.
  void Discard(const GpaRange& range) {
    ++result_.discard_calls;
    result_.reports.push_back(
        {.time = result_.start + time_.Now(), .range = range});
    const Pfn end =
        std::min(ToPfn(range.gpa + range.bytes), allocator_->pages().end());
    std::vector<GpaRange> free;
    for (Pfn pfn = ToPfn(range.gpa + (kPageSize - 1)); pfn < end;) {
      const Pfn next = std::min(
          end, (pfn + PageCount(1)).AlignUp(host_->ledger().granule()));
      const GpaRange part = {ToGpa(pfn), (next - pfn).bytes()};
      if (!host_->ledger().FirstInUse(std::span(&part, 1)))
        free.push_back(part);
      pfn = next;
    }
    host_->OnReported(free, time_.Now());
  }

  void Sample() {
    ReplaySample sample = {.time = result_.start + time_.Now(),
                           .resident_bytes = host_->ResidentBytes()};
    for (const auto& zone : allocator_->zones()) {
      sample.free_bytes += zone->free_pages().bytes();
      sample.isolated_bytes += zone->isolated_pages().bytes();
      for (int order = 0; order <= kMaxOrder.value(); ++order) {
        sample.free_blocks[static_cast<size_t>(order)] +=
            zone->free_blocks(Order(order));
      }
    }
    result_.samples.push_back(sample);
    KeepAtMost(kMostKeptSamples, result_.samples, sample_interval_);
    if (watch_.progress) {
      ReplayProgress progress = {.done = time_.Now(), .whole = {}};
      if (recording_.end) {
        progress.whole = *recording_.end - result_.start + options_.tail;
      }
      watch_.progress(progress);
    }
    if (frame_interval_ > Nanoseconds(0) && sample.time >= next_frame_) {
      result_.frames.push_back(Frame(sample.time));
      KeepAtMost(kMostKeptFrames, result_.frames, frame_interval_);
      next_frame_ = sample.time + frame_interval_;
    }
  }

  ReplayFrame Frame(Nanoseconds time) const {
    const PageMap& pages = allocator_->pages();
    ReplayFrame frame = {.time = time, .blocks = {}};
    for (Pfn pfn(0); pfn < pages.end(); pfn += kPageblockOrder.pages()) {
      frame.blocks.push_back(static_cast<char>(StateOf(pfn)));
    }
    return frame;
  }
  BlockState StateOf(Pfn pfn) const {
    const PageMap& pages = allocator_->pages();
    const int zone = pages.pageblock(pfn).zone;
    if (zone == PageMap::Pageblock::kNoZone) return BlockState::kAbsent;
    const Zone& its = *allocator_->zones()[static_cast<size_t>(zone)];
    LockHolder hold(its.lock());
    if (const auto block = its.FreeBlockAround(pfn);
        block && block->order >= kPageblockOrder) {
      return host_->AnyResident(pfn) ? BlockState::kFree
                                     : BlockState::kWithHost;
    }
    return pages.Get(pages.HeadOf(pfn)).state == PageState::kIsolated
               ? BlockState::kIsolated
               : BlockState::kInUse;
  }

  RecordedBuddyInfo BuddyInfoAt(Nanoseconds time) const {
    RecordedBuddyInfo info = {.time = time, .zones = {}};
    for (const auto& zone : allocator_->zones()) {
      if (zone->managed_pages() == PageCount(0)) continue;
      RecordedBuddyInfo::Zone& row = info.zones.emplace_back();
      row.node = zone->node();
      row.name = std::string(Name(zone->type()));
      for (int order = 0; order <= kMaxOrder.value(); ++order) {
        row.blocks[static_cast<size_t>(order)] =
            zone->free_blocks(Order(order));
      }
    }
    return info;
  }

  void Finish() {
    result_.end = result_.start + time_.Now();
    result_.footprint = host_->FootprintUntil(time_.Now());
    for (const ReplayDevice::Log& entry : device_->log()) {
      result_.reports.push_back(
          {.time = result_.start + entry.time, .range = entry.range});
    }
    for (const ReplayReport& report : result_.reports) {
      result_.reported_bytes += report.range.bytes;
    }
    const LedgerCounters counters = host_->ledger().counters();
    result_.needless_bytes =
        (counters.reported_bytes - at_first_.reported_bytes) -
        (counters.needed_bytes - at_first_.needed_bytes);
    result_.refaults = counters.refaults;
    result_.passes = passes_;
    for (ReplayPass& pass : result_.passes) {
      pass.start += result_.start;
      pass.end += result_.start;
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
  VirtualTime time_;
  std::unique_ptr<PageAllocator> allocator_;
  std::unique_ptr<ReplayHost> host_;
  LedgerCounters at_first_;
  std::unique_ptr<TracePlacement> placement_;
  std::unique_ptr<ReplayDevice> device_;
  std::vector<ReplayPass> passes_;  // in virtual time
  std::unique_ptr<Reporter> reporter_;
  std::optional<ThreadWorkqueue> wall_;
  std::optional<ReplayPace> pace_;
  bool started_ = false;
  Nanoseconds sample_interval_;
  Nanoseconds frame_interval_;
  Nanoseconds next_sample_{0};
  Nanoseconds next_frame_{0};
  size_t next_buddyinfo_ = 0;
  // Of the recording's, under kPolicyReal.
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
    Run run(recording, options, watch, result);
    status = run.Start();
    if (status.ok()) status = run.Go();
  }
  result.error = absl::StrCat(status.message());
  if (partial != nullptr) *partial = result;
  if (!status.ok()) return status;
  return result;
}

}  // namespace guestmm
