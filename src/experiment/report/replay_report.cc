// report.html and trace.json of replays.

#include "guestmm/experiment/report/replay_report.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "guestmm/base/version.h"
#include "guestmm/experiment/replay/fidelity.h"
#include "guestmm/mechanism/mechanism_spec.h"
#include "nlohmann/json.hpp"
#include "src/experiment/report/replay_json.h"
#include "src/experiment/report/replay_report_parts.h"

namespace guestmm {
namespace {

using Json = nlohmann::ordered_json;

// Bounds with which a page still opens quickly.
constexpr size_t kMostSamples = 2000;
constexpr size_t kMostFrames = 600;
constexpr size_t kMostFrameChars = 8 << 20;

// The real kernel's passes are not recorded. Reports less than this apart are
// shown as one slice.
constexpr Nanoseconds kBetweenGroups = std::chrono::milliseconds(100);

// A slice of length 0 would be invisible.
constexpr Nanoseconds kShortestSlice = std::chrono::microseconds(1);

// JSON as text. Names come from files, so bytes that are not UTF-8 are
// replaced.
std::string Text(const Json& json) {
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

std::string ValidUtf8(const std::string& text) {
  return Json::parse(Text(text)).get<std::string>();
}

// JSON for a script element: only "<" has a meaning to HTML there, and JSON has
// it only in strings.
std::string ForScript(const Json& json) {
  std::string escaped;
  for (const char c : Text(json)) {
    if (c == '<') {
      escaped += "\\u003c";
    } else {
      escaped += c;
    }
  }
  return escaped;
}

std::string ForHtml(std::string_view text) {
  std::string escaped;
  for (const char c : text) {
    switch (c) {
      case '<':
        escaped += "&lt;";
        break;
      case '&':
        escaped += "&amp;";
        break;
      default:
        escaped += c;
    }
  }
  return escaped;
}

// Without the line that names a file that is not there.
std::string_view WithoutSourceMap(std::string_view text) {
  const size_t comment = text.rfind("# sourceMappingURL=");
  // 2: "//" or "/*".
  return comment == std::string_view::npos ? text : text.substr(0, comment - 2);
}

// The page with each @NAME@ replaced. What is put in is not searched again.
std::string Fill(
    std::string_view page,
    const std::vector<std::pair<std::string_view, std::string>>& values) {
  std::string filled;
  while (!page.empty()) {
    size_t first = page.size();
    const std::pair<std::string_view, std::string>* next = nullptr;
    for (const auto& value : values) {
      const size_t place = page.find(value.first);
      if (place < first) {
        first = place;
        next = &value;
      }
    }
    filled += page.substr(0, first);
    if (next == nullptr) break;
    filled += next->second;
    page.remove_prefix(first + next->first.size());
  }
  return filled;
}

// The recording's name: the last two parts of its path, its folder and its
// trace.
std::string NameOf(const Recording& recording) {
  const std::string& path = recording.trace_path;
  const size_t file = path.rfind('/');
  if (file == std::string::npos || file == 0) return path;
  const size_t folder = path.rfind('/', file - 1);
  return path.substr(folder == std::string::npos ? 0 : folder + 1);
}

// The names of the results: their policies, made distinct.
std::vector<std::string> NamesOf(std::span<const ReplayResult> results) {
  const bool placements = std::any_of(
      results.begin(), results.end(), [&](const ReplayResult& result) {
        return result.options.placement != results[0].options.placement;
      });
  std::vector<std::string> names;
  for (const ReplayResult& result : results) {
    std::string name = result.options.policy;
    if (placements) {
      name += ", ";
      name += Name(result.options.placement);
    }
    const std::string plain = name;
    for (int n = 2; std::count(names.begin(), names.end(), name) > 0; ++n) {
      name = absl::StrCat(plain, " (", n, ")");
    }
    names.push_back(name);
  }
  return names;
}

// The replayed time, to which the truth is cut.
struct Window {
  Nanoseconds start{0};
  Nanoseconds end{0};

  bool Has(Nanoseconds time) const { return start <= time && time <= end; }
  // To the millisecond.
  double Seconds(Nanoseconds time) const {
    const auto since =
        std::chrono::duration_cast<std::chrono::milliseconds>(time - start);
    return static_cast<double>(since.count()) / 1000;
  }
};

Window WindowOf(const Recording& recording,
                std::span<const ReplayResult> results) {
  if (results.empty()) {
    return {.start = recording.start.value_or(Nanoseconds(0)),
            .end = recording.end.value_or(Nanoseconds::max())};
  }
  Window window = {.start = results[0].start, .end = results[0].end};
  for (const ReplayResult& result : results) {
    window.start = std::min(window.start, result.start);
    window.end = std::max(window.end, result.end);
  }
  return window;
}

// The least stride with which `count` elements are thinned to `most`.
size_t Stride(size_t count, size_t most) {
  return std::max<size_t>(1, (count + most - 1) / most);
}

// Calls take(i) for each multiple of `stride` below `count`, and for the last.
template <typename Take>
void Thin(size_t count, size_t stride, Take take) {
  for (size_t i = 0; i < count; i += stride) take(i);
  if (count > 0 && (count - 1) % stride != 0) take(count - 1);
}

// The mean and the last value of resident memory; null without a sample.
Json ResidencyJson(const std::optional<Residency>& residency) {
  if (!residency) {
    return {{"resident_end_bytes", nullptr}, {"resident_mean_bytes", nullptr}};
  }
  return {{"resident_end_bytes", residency->end_bytes},
          {"resident_mean_bytes", residency->mean_bytes}};
}

// Run-length encoding: "aaaf" is "3a1f".
std::string RunLengths(std::string_view blocks) {
  std::string runs;
  for (size_t i = 0; i < blocks.size();) {
    size_t end = blocks.find_first_not_of(blocks[i], i);
    if (end == std::string_view::npos) end = blocks.size();
    absl::StrAppend(&runs, end - i, std::string(1, blocks[i]));
    i = end;
  }
  return runs;
}

Json FramesJson(const std::vector<ReplayFrame>& frames, const Window& window) {
  std::vector<std::string> runs;
  runs.reserve(frames.size());
  size_t chars = 0;
  for (const ReplayFrame& frame : frames) {
    chars += runs.emplace_back(RunLengths(frame.blocks)).size();
  }
  const size_t stride = std::max(Stride(frames.size(), kMostFrames),
                                 Stride(chars, kMostFrameChars));
  Json seconds = Json::array();
  Json blocks = Json::array();
  Thin(frames.size(), stride, [&](size_t i) {
    seconds.push_back(window.Seconds(frames[i].time));
    blocks.push_back(std::move(runs[i]));
  });
  return {{"stride", stride}, {"seconds", seconds}, {"blocks", blocks}};
}

Json RunJson(const Recording& recording, const ReplayResult& result,
             const std::string& name, const Window& window) {
  Json seconds = Json::array();
  Json resident = Json::array();
  Json free_blocks = Json::array();
  const size_t stride = Stride(result.samples.size(), kMostSamples);
  Thin(result.samples.size(), stride, [&](size_t i) {
    const ReplaySample& sample = result.samples[i];
    seconds.push_back(window.Seconds(sample.time));
    resident.push_back(sample.resident_bytes);
    free_blocks.push_back(sample.free_blocks);
  });
  Json run = {{"name", name},
              {"policy", result.options.policy},
              {"placement", Name(result.options.placement)},
              {"error", result.error},
              {"memory_bytes", result.memory_bytes},
              {"reported_bytes", result.reported_bytes},
              {"needless_bytes", result.needless_bytes},
              {"fidelity", FidelityJson(recording, result)},
              {"counters", CountersJson(result.counters)},
              {"stride", stride},
              {"seconds", seconds},
              {"resident", resident},
              {"free_blocks", free_blocks},
              {"frames", FramesJson(result.frames, window)}};
  run.update(ResidencyJson(ReplayedResidency(result)));
  return run;
}

// The real kernel's reports and its host's memory in the window; null if
// neither was recorded.
Json TruthJson(const Recording& recording, const Window& window,
               const std::optional<ReplayTruth>& truth) {
  Json json = Json::object();
  if (!recording.reports.empty()) {
    uint64_t bytes = 0;
    for (const Recording::Report& report : recording.reports) {
      if (window.Has(report.time)) bytes += report.range.bytes;
    }
    json["reported_bytes"] = bytes;
    if (truth) json["needless_bytes"] = truth->needless_bytes;
  }

  std::vector<Recording::Resident> resident;
  for (const Recording::Resident& sample : recording.resident) {
    if (window.Has(sample.time)) resident.push_back(sample);
  }
  if (!resident.empty()) {
    json.update(
        ResidencyJson(RealResidency(recording, window.start, window.end)));
    Json seconds = Json::array();
    Json bytes = Json::array();
    Thin(resident.size(), Stride(resident.size(), kMostSamples), [&](size_t i) {
      seconds.push_back(window.Seconds(resident[i].time));
      bytes.push_back(resident[i].bytes);
    });
    json["seconds"] = seconds;
    json["resident"] = bytes;
  }
  return json.empty() ? Json(nullptr) : json;
}

// The real guest's free memory by order in the window; null if it was not
// recorded.
Json BuddyInfoJson(const Recording& recording, const Window& window) {
  std::vector<const RecordedBuddyInfo*> infos;
  for (const RecordedBuddyInfo& info : recording.buddyinfo) {
    if (window.Has(info.time)) infos.push_back(&info);
  }
  if (infos.empty()) return nullptr;
  Json seconds = Json::array();
  Json free_blocks = Json::array();
  Thin(infos.size(), Stride(infos.size(), kMostSamples), [&](size_t i) {
    std::array<uint64_t, kMaxOrder.value() + 1> blocks = {};
    for (const RecordedBuddyInfo::Zone& zone : infos[i]->zones) {
      for (size_t order = 0; order < blocks.size(); ++order) {
        blocks[order] += zone.blocks[order];
      }
    }
    seconds.push_back(window.Seconds(infos[i]->time));
    free_blocks.push_back(blocks);
  });
  return {{"seconds", seconds}, {"free_blocks", free_blocks}};
}

// Builds the events of a trace.json.
class PerfettoTrace {
 public:
  void AddProcess(const std::string& name) {
    ++process_;
    Add({{"name", "process_name"},
         {"ph", "M"},
         {"pid", process_},
         {"args", {{"name", name}}}});
    Add({{"name", "thread_name"},
         {"ph", "M"},
         {"pid", process_},
         {"tid", 1},
         {"args", {{"name", "reporter"}}}});
  }

  // These add to the last process.
  void AddCounter(std::string_view name, Nanoseconds time, uint64_t bytes) {
    Add({{"name", name},
         {"ph", "C"},
         {"pid", process_},
         {"ts", Microseconds(time)},
         {"args", {{"bytes", bytes}}}});
  }

  void AddPass(const ReplayPass& pass) { AddSlice("pass", pass); }

  // Adds real reports, grouped. REQUIRES: ascending by time.
  template <typename Reports>
  void AddGroups(const Reports& reports) {
    for (auto first = reports.begin(); first != reports.end();) {
      ReplayPass group = {.start = first->time, .end = first->time};
      auto end = first;
      for (; end != reports.end() && end->time - group.end < kBetweenGroups;
           ++end) {
        group.end = end->time;
        ++group.reports;
        group.bytes += end->range.bytes;
      }
      AddSlice("reports less than 100 ms apart", group);
      first = end;
    }
  }

  std::string Finish() && {
    return "{\"displayTimeUnit\":\"ms\",\"traceEvents\":[\n" +
           std::move(events_) + "\n]}\n";
  }

 private:
  static double Microseconds(Nanoseconds time) {
    return static_cast<double>(time.count()) / 1000;
  }

  void AddSlice(std::string_view name, const ReplayPass& pass) {
    Add({{"name", name},
         {"ph", "X"},
         {"pid", process_},
         {"tid", 1},
         {"ts", Microseconds(pass.start)},
         {"dur", Microseconds(std::max(pass.end - pass.start, kShortestSlice))},
         {"args", {{"reports", pass.reports}, {"bytes", pass.bytes}}}});
  }

  void Add(const Json& event) {
    if (!events_.empty()) events_ += ",\n";
    events_ += Text(event);
  }

  int process_ = 0;
  std::string events_;
};

}  // namespace

std::string ReplayReportHtml(const Recording& recording,
                             std::span<const ReplayResult> results,
                             const std::optional<ReplayTruth>& truth) {
  const Window window = WindowOf(recording, results);
  const std::vector<std::string> names = NamesOf(results);
  Json runs = Json::array();
  uint64_t memory_bytes = 0;
  for (size_t i = 0; i < results.size(); ++i) {
    runs.push_back(RunJson(recording, results[i], names[i], window));
    memory_bytes = std::max(memory_bytes, MostMemoryBytes(results[i]));
  }
  const std::string name = NameOf(recording);
  const Json data = {{"recording", name},
                     {"version", GUESTMM_VERSION},
                     {"mode", Name(results.empty() ? ReplayMode::kVirtual
                                                   : results[0].options.mode)},
                     {"block_bytes", kPageblockOrder.bytes()},
                     {"page_bytes", kPageSize},
                     {"memory_bytes", memory_bytes},
                     {"truth", TruthJson(recording, window, truth)},
                     {"buddyinfo", BuddyInfoJson(recording, window)},
                     {"runs", runs}};
  return Fill(ReplayReportPage(),
              {{"@TITLE@", ForHtml(ValidUtf8(name))},
               {"@DATA@", ForScript(data)},
               {"@CHARTS_STYLE@",
                std::string(WithoutSourceMap(ReplayReportChartsStyle()))},
               {"@CHARTS_SCRIPT@",
                std::string(WithoutSourceMap(ReplayReportChartsScript()))}});
}

std::string ReplayPerfettoJson(const Recording& recording,
                               std::span<const ReplayResult> results) {
  const Window window = WindowOf(recording, results);
  const std::vector<std::string> names = NamesOf(results);
  PerfettoTrace trace;
  for (size_t i = 0; i < results.size(); ++i) {
    trace.AddProcess("replay: " + names[i]);
    for (const ReplaySample& sample : results[i].samples) {
      trace.AddCounter("free", sample.time, sample.free_bytes);
      trace.AddCounter("isolated", sample.time, sample.isolated_bytes);
      trace.AddCounter("resident", sample.time, sample.resident_bytes);
    }
    if (results[i].options.policy == kMechanismReal) {
      trace.AddGroups(results[i].reports);
    }
    for (const ReplayPass& pass : results[i].passes) trace.AddPass(pass);
  }

  std::vector<Recording::Report> reports;
  std::copy_if(
      recording.reports.begin(), recording.reports.end(),
      std::back_inserter(reports),
      [&](const Recording::Report& report) { return window.Has(report.time); });
  std::vector<Recording::Resident> resident;
  std::copy_if(recording.resident.begin(), recording.resident.end(),
               std::back_inserter(resident),
               [&](const Recording::Resident& sample) {
                 return window.Has(sample.time);
               });
  if (!reports.empty() || !resident.empty()) {
    trace.AddProcess("truth");
    for (const Recording::Resident& sample : resident) {
      trace.AddCounter("resident", sample.time, sample.bytes);
    }
    trace.AddGroups(reports);
  }
  return std::move(trace).Finish();
}

}  // namespace guestmm
