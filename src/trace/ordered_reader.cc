#include "src/trace/ordered_reader.h"

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <utility>

#include "absl/status/status.h"
#include "guestmm/trace/trace_event.h"

namespace guestmm::trace {
namespace {

bool IsEarlier(const TraceEvent& a, const TraceEvent& b) {
  return a.time < b.time;
}

// How far `earlier` is behind; at most what a Nanoseconds holds.
Nanoseconds Behind(Nanoseconds later, Nanoseconds earlier) {
  const uint64_t difference = static_cast<uint64_t>(later.count()) -
                              static_cast<uint64_t>(earlier.count());
  return Nanoseconds(static_cast<int64_t>(
      std::min(difference, static_cast<uint64_t>(Nanoseconds::max().count()))));
}

// Holds back half a window of events, among which what is read next may belong.
class OrderedReader final : public TraceReader {
 public:
  explicit OrderedReader(std::unique_ptr<TraceReader> reader)
      : reader_(std::move(reader)) {
    window_.reserve(kWindow);
  }

  std::string format() const override { return reader_->format(); }
  uint64_t bytes() const override { return reader_->bytes(); }

 private:
  static constexpr size_t kWindow = size_t{64} << 10;
  // If the times of one CPU go back by more, another recording begins.
  static constexpr Nanoseconds kRestart = std::chrono::seconds(1);

  // A run ends before a late event, so that this is counted when it is due.
  absl::StatusOr<std::span<const TraceEvent>> ReadRun() override {
    if (at_ == released_) {
      Advance();
      if (released_ == 0 && !end_.ok()) return end_;
      if (released_ == 0) return std::span<const TraceEvent>();
    }
    const size_t begin = at_++;
    if (const Nanoseconds first = window_[begin].time; first < latest_) {
      ++counters_.late;
      counters_.late_by = std::max(counters_.late_by, Behind(latest_, first));
    } else {
      latest_ = first;
    }
    for (; at_ < released_ && window_[at_].time >= latest_; ++at_) {
      latest_ = window_[at_].time;
    }
    counters_.events += at_ - begin;
    return std::span<const TraceEvent>(&window_[begin], at_ - begin);
  }

  TraceReadCounters CountRuns() const override {
    TraceReadCounters counters = reader_->counters();
    counters.events = counters_.events;
    counters.unknown_gfp = counters_.unknown_gfp;
    counters.late = counters_.late;
    counters.late_by = counters_.late_by;
    // A file in the binary form has those of the text that it was made of.
    counters.reordered += std::max(early_, counters_.late) - counters_.late;
    return counters;
  }

  // Reads up to a window, and releases what nothing else belongs before: none
  // at the end.
  void Advance() {
    window_.erase(window_.begin(),
                  window_.begin() + static_cast<ptrdiff_t>(at_));
    at_ = 0;
    if (const auto first = std::exchange(restart_, std::nullopt)) {
      newest_ = Nanoseconds::min();
      Take(*first);
    }
    while (!is_over_ && !restart_ && window_.size() < kWindow) {
      if (unread_.empty()) {
        const auto run = reader_->NextRun();
        end_ = run.status();
        is_over_ = !run.ok() || run->empty();
        if (!is_over_) unread_ = *run;
        continue;
      }
      TakeOrdered();
      if (!unread_.empty() && window_.size() < kWindow) {
        Take(unread_.front());
        unread_ = unread_.subspan(1);
      }
    }
    if (std::exchange(is_unsorted_, false)) {
      std::stable_sort(window_.begin(), window_.end(), IsEarlier);
    }
    released_ =
        is_over_ || restart_ ? window_.size() : window_.size() - kWindow / 2;
  }

  // Takes what is in order ahead of the first event of unread_ that is not, as
  // far as the window has room.
  void TakeOrdered() {
    const size_t most = std::min(unread_.size(), kWindow - window_.size());
    uint64_t unknown = 0;
    size_t count = 0;
    for (; count < most && unread_[count].time >= newest_; ++count) {
      newest_ = unread_[count].time;
      if ((unread_[count].gfp & GfpFlags::kUnknown) != 0) ++unknown;
    }
    counters_.unknown_gfp += unknown;
    const std::span<const TraceEvent> ordered = unread_.first(count);
    window_.insert(window_.end(), ordered.begin(), ordered.end());
    unread_ = unread_.subspan(count);
  }

  void Take(const TraceEvent& event) {
    if (event.time >= newest_) {
      newest_ = event.time;
    } else if (IsRestart(event)) {
      restart_ = event;
      return;
    } else {
      ++early_;
      is_unsorted_ = true;
    }
    if ((event.gfp & GfpFlags::kUnknown) != 0) ++counters_.unknown_gfp;
    window_.push_back(event);
  }

  // True if the event is far behind its own CPU's last one, of those held.
  bool IsRestart(const TraceEvent& event) const {
    const auto last =
        std::find_if(window_.rbegin(), window_.rend(),
                     [&](const auto& held) { return held.cpu == event.cpu; });
    return last != window_.rend() && event.time < last->time &&
           Behind(last->time, event.time) > kRestart;
  }

  const std::unique_ptr<TraceReader> reader_;
  // The rest of its last run.
  std::span<const TraceEvent> unread_;
  // Those up to at_ were returned; those up to released_ may be.
  std::vector<TraceEvent> window_;
  size_t at_ = 0;
  size_t released_ = 0;
  bool is_unsorted_ = false;
  // The first event of another recording.
  std::optional<TraceEvent> restart_;
  bool is_over_ = false;
  absl::Status end_;
  // The latest time read, and the latest returned.
  Nanoseconds newest_ = Nanoseconds::min();
  Nanoseconds latest_ = Nanoseconds::min();
  // Events that were read behind a later one.
  uint64_t early_ = 0;
  // Of events, unknown_gfp, late and late_by only.
  TraceReadCounters counters_;
};

// Takes the earliest of the readers' next events; of equal times that of the
// first.
class MergedReader final : public TraceReader {
 public:
  MergedReader(std::vector<std::unique_ptr<TraceReader>> readers,
               std::string format)
      : readers_(std::move(readers)),
        format_(std::move(format)),
        next_(readers_.size()) {}

  std::string format() const override { return format_; }
  uint64_t bytes() const override {
    uint64_t bytes = 0;
    for (const auto& reader : readers_) bytes += reader->bytes();
    return bytes;
  }

 private:
  absl::StatusOr<std::span<const TraceEvent>> ReadRun() override {
    if (!error_.ok()) return error_;
    // At the start each reader's, later only that whose event was returned.
    for (; to_read_ < to_read_end_; ++to_read_) {
      auto event = readers_[to_read_]->Next();
      if (!event.ok()) {
        error_ = event.status();
        return error_;
      }
      next_[to_read_] = *event;
    }
    std::optional<size_t> earliest;
    for (size_t i = 0; i < next_.size(); ++i) {
      if (next_[i] && (!earliest || IsEarlier(*next_[i], *next_[*earliest]))) {
        earliest = i;
      }
    }
    if (!earliest) return std::span<const TraceEvent>();
    to_read_ = *earliest;
    to_read_end_ = to_read_ + 1;
    return std::span(&*next_[to_read_], 1);
  }
  TraceReadCounters CountRuns() const override {
    TraceReadCounters all;
    for (const auto& reader : readers_) all += reader->counters();
    return all;
  }

  const std::vector<std::unique_ptr<TraceReader>> readers_;
  const std::string format_;
  // By reader; absent before the first, and at its end.
  std::vector<std::optional<TraceEvent>> next_;
  size_t to_read_ = 0;
  size_t to_read_end_ = readers_.size();
  absl::Status error_;
};

}  // namespace

std::unique_ptr<TraceReader> InOrder(std::unique_ptr<TraceReader> reader) {
  return std::make_unique<OrderedReader>(std::move(reader));
}

std::unique_ptr<TraceReader> Merged(
    std::vector<std::unique_ptr<TraceReader>> readers, std::string format) {
  return std::make_unique<MergedReader>(std::move(readers), std::move(format));
}

}  // namespace guestmm::trace
