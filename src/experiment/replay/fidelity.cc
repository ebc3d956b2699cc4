#include "guestmm/experiment/replay/fidelity.h"

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <map>
#include <utility>
#include <vector>

namespace guestmm {
namespace {

constexpr uint64_t kUnit = kPageblockOrder.bytes();
constexpr Nanoseconds kWindow = std::chrono::seconds(2);

// The times at which each unit of 2 MiB was reported, ascending.
using Times = std::map<uint64_t, std::vector<Nanoseconds>>;

void AddUnits(Times& times, Nanoseconds time, const GpaRange& range) {
  const uint64_t first = (range.gpa.value() + kUnit - 1) / kUnit;
  const uint64_t end = (range.gpa.value() + range.bytes) / kUnit;
  for (uint64_t unit = first; unit < end; ++unit) times[unit].push_back(time);
}

// The largest number of disjoint pairs of one time from each list that are at
// most kWindow apart. REQUIRES: both are ascending.
uint64_t CountPairs(const std::vector<Nanoseconds>& a,
                    const std::vector<Nanoseconds>& b) {
  uint64_t pairs = 0;
  for (size_t i = 0, j = 0; i < a.size() && j < b.size();) {
    if (a[i] + kWindow < b[j]) {
      ++i;
    } else if (b[j] + kWindow < a[i]) {
      ++j;
    } else {
      ++pairs;
      ++i;
      ++j;
    }
  }
  return pairs;
}

// The replay's resident bytes at `time`: those of the last sample before it, or
// else of the first.
uint64_t ResidentAt(const std::vector<ReplaySample>& samples,
                    Nanoseconds time) {
  const auto after =
      std::upper_bound(samples.begin(), samples.end(), time,
                       [](Nanoseconds t, const ReplaySample& sample) {
                         return t < sample.time;
                       });
  return after == samples.begin() ? samples.front().resident_bytes
                                  : std::prev(after)->resident_bytes;
}

std::optional<double> ResidentMae(const Recording& recording,
                                  const ReplayResult& result) {
  std::optional<double> anchor;
  double sum = 0;
  uint64_t count = 0;
  for (const Recording::Resident& real : recording.resident) {
    if (real.time < result.start || real.time > result.end) continue;
    const auto replayed =
        static_cast<double>(ResidentAt(result.samples, real.time));
    const auto truth = static_cast<double>(real.bytes);
    if (!anchor) anchor = truth - replayed;
    sum += std::abs(replayed + *anchor - truth);
    ++count;
  }
  if (count == 0) return std::nullopt;
  return 100 * sum / static_cast<double>(count) /
         static_cast<double>(MostMemoryBytes(result));
}

std::optional<double> BuddyInfoDistance(const Recording& recording,
                                        const ReplayResult& result) {
  double sum = 0;
  uint64_t count = 0;
  for (const RecordedBuddyInfo& real : recording.buddyinfo) {
    const auto replayed = std::find_if(
        result.buddyinfo.begin(), result.buddyinfo.end(),
        [&](const RecordedBuddyInfo& info) { return info.time == real.time; });
    if (replayed == result.buddyinfo.end()) continue;
    uint64_t pages = 0;
    uint64_t difference = 0;
    for (const RecordedBuddyInfo::Zone& zone : real.zones) {
      const auto same = std::find_if(
          replayed->zones.begin(), replayed->zones.end(),
          [&](const RecordedBuddyInfo::Zone& other) {
            return other.node == zone.node && other.name == zone.name;
          });
      for (size_t order = 0; order < zone.blocks.size(); ++order) {
        const uint64_t there =
            same == replayed->zones.end() ? 0 : same->blocks[order];
        const uint64_t here = zone.blocks[order];
        pages += here << order;
        difference += (std::max(here, there) - std::min(here, there)) << order;
      }
    }
    if (pages == 0) continue;
    sum += static_cast<double>(difference) / 2 / static_cast<double>(pages);
    ++count;
  }
  if (count == 0) return std::nullopt;
  return sum / static_cast<double>(count);
}

// The mean over time and the last value of samples added in order.
class ResidencySum {
 public:
  void Add(Nanoseconds time, uint64_t bytes) {
    if (last_) {
      const auto span = static_cast<double>((time - last_->first).count());
      sum_ += span * static_cast<double>(last_->second);
      time_ += span;
    }
    last_ = {time, bytes};
  }
  std::optional<Residency> Get() const {
    if (!last_) return std::nullopt;
    const uint64_t end = last_->second;
    return Residency{
        .mean_bytes = time_ == 0 ? end : static_cast<uint64_t>(sum_ / time_),
        .end_bytes = end};
  }

 private:
  std::optional<std::pair<Nanoseconds, uint64_t>> last_;
  double sum_ = 0;
  double time_ = 0;
};

}  // namespace

std::optional<Residency> ReplayedResidency(const ReplayResult& result) {
  ResidencySum sum;
  for (const ReplaySample& sample : result.samples) {
    sum.Add(sample.time, sample.resident_bytes);
  }
  return sum.Get();
}

std::optional<Residency> RealResidency(const Recording& recording,
                                       Nanoseconds start, Nanoseconds end) {
  ResidencySum sum;
  for (const Recording::Resident& real : recording.resident) {
    if (start <= real.time && real.time <= end) sum.Add(real.time, real.bytes);
  }
  return sum.Get();
}

std::optional<double> BlockMatch(const Recording& recording,
                                 const ReplayResult& result) {
  Times truth;
  Times replay;
  for (const Recording::Report& report : recording.reports) {
    if (report.time < result.start || report.time > result.end) continue;
    AddUnits(truth, report.time, report.range);
  }
  for (const ReplayReport& report : result.reports) {
    AddUnits(replay, report.time, report.range);
  }
  uint64_t all = 0;
  uint64_t matched = 0;
  for (const auto& [unit, times] : truth) {
    all += times.size();
    const auto found = replay.find(unit);
    if (found != replay.end()) matched += CountPairs(times, found->second);
  }
  if (all == 0) return std::nullopt;
  return static_cast<double>(matched) / static_cast<double>(all);
}

uint64_t RealReportedBytes(const Recording& recording, Nanoseconds start,
                           Nanoseconds end) {
  uint64_t bytes = 0;
  for (const Recording::Report& report : recording.reports) {
    if (start <= report.time && report.time <= end) bytes += report.range.bytes;
  }
  return bytes;
}

Fidelity CompareToTruth(const Recording& recording,
                        const ReplayResult& result) {
  Fidelity fidelity;
  fidelity.truth_reported_bytes =
      RealReportedBytes(recording, result.start, result.end);
  for (const ReplayReport& report : result.reports) {
    fidelity.reported_bytes += report.range.bytes;
  }
  fidelity.block_match = BlockMatch(recording, result);
  fidelity.resident_mae_percent = ResidentMae(recording, result);
  fidelity.buddyinfo_distance = BuddyInfoDistance(recording, result);
  return fidelity;
}

}  // namespace guestmm
