#include "src/trace/memory_changes.h"

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <string_view>
#include <system_error>

#include "absl/status/statusor.h"
#include "absl/strings/str_format.h"
#include "guestmm/trace/trace_event.h"
#include "guestmm/trace/trace_reader.h"

namespace guestmm::trace {
namespace {

using AtPage = RecordedPages::State;

// The pages of `ranges`, ascending, with adjoining and overlapping ones joined.
std::vector<PfnRange> Join(const std::vector<GpaRange>& ranges) {
  std::vector<PfnRange> pages;
  pages.reserve(ranges.size());
  for (const GpaRange& range : ranges) pages.push_back(PagesOf(range));
  std::sort(
      pages.begin(), pages.end(),
      [](const PfnRange& a, const PfnRange& b) { return a.start < b.start; });
  std::vector<PfnRange> joined;
  for (const PfnRange& range : pages) {
    if (joined.empty() || range.start > joined.back().end) {
      joined.push_back(range);
    } else {
      joined.back().end = std::max(joined.back().end, range.end);
    }
  }
  return joined;
}

// The whole blocks of kMaxOrder of `ranges` that are not in `others`, in which
// none has a page.
std::vector<GpaRange> BlocksBeyond(const std::vector<GpaRange>& ranges,
                                   const std::vector<GpaRange>& others) {
  std::vector<GpaRange> blocks;
  const auto add = [&](Pfn from, Pfn to) {
    const Pfn start = from.AlignUp(kMaxOrder);
    const Pfn end = to.AlignDown(kMaxOrder);
    if (start < end) blocks.push_back({ToGpa(start), (end - start).bytes()});
  };
  const std::vector<PfnRange> holes = Join(others);
  for (const PfnRange& range : Join(ranges)) {
    Pfn start = range.start;
    for (const PfnRange& hole : holes) {
      if (hole.end <= start || hole.start >= range.end) continue;
      add(start, hole.start);
      start = hole.end;
    }
    add(start, range.end);
  }
  return blocks;
}

uint64_t PresentPages(const std::vector<RecordedZone>& zones) {
  uint64_t pages = 0;
  for (const RecordedZone& zone : zones) pages += zone.present.value();
  return pages;
}

// The sections outside of `memory` that the trace shows to be onlined: the
// kernel frees them in ascending blocks of the largest order
// (generic_online_page), of a pageblock at least where the first pages hold the
// section's own memory map. Memory that the map lacks by mistake is used in
// another order. What cannot be read of the trace is left to its replay.
std::vector<GpaRange> FindOnlined(const std::string& path,
                                  const std::vector<GpaRange>& memory) {
  std::vector<GpaRange> onlined;
  // A pipe can be read only once.
  std::error_code ignored;
  if (!std::filesystem::is_regular_file(path, ignored) &&
      !std::filesystem::is_directory(path, ignored)) {
    return onlined;
  }
  const absl::StatusOr<std::unique_ptr<TraceReader>> reader = OpenTrace(path);
  if (!reader.ok()) return onlined;
  const std::vector<PfnRange> known = Join(memory);
  // By the section's first page: the page to be freed next. The section's end
  // once it is online, and its start once anything else has happened to it.
  std::map<Pfn, Pfn> next_free;
  while (true) {
    const absl::StatusOr<std::optional<TraceEvent>> event = (*reader)->Next();
    if (!event.ok() || !event->has_value()) break;
    const Pfn pfn = (*event)->pfn;
    const Order order = (*event)->order;
    const bool is_known =
        std::any_of(known.begin(), known.end(),
                    [&](const PfnRange& range) { return range.Contains(pfn); });
    if (is_known || !(*event)->is_request()) continue;
    const Pfn start = pfn.AlignDown(kSectionOrder);
    const Pfn end = start + kSectionOrder.pages();
    const auto [at, is_first] = next_free.try_emplace(start, pfn);
    if (at->second == start && !is_first) continue;
    if (at->second == end) continue;
    const bool goes_on = (*event)->kind == TraceEvent::Kind::kFree &&
                         order >= kPageblockOrder && order <= kMaxOrder &&
                         at->second == pfn &&
                         (!is_first || pfn < start + kMaxOrder.pages());
    at->second = goes_on ? pfn + order.pages() : start;
  }
  for (const auto& [start, next] : next_free) {
    if (next != start + kSectionOrder.pages()) continue;
    onlined.push_back({ToGpa(start), kSectionOrder.bytes()});
  }
  return onlined;
}

AtPage StateOf(const RecordedPages& pages, Pfn pfn) {
  return pfn.value() < pages.states.size() ? pages.states[pfn.value()]
                                           : AtPage::kAbsent;
}

// Appends to `leaving` and `offlined` the blocks of kMaxOrder that are offline
// as a whole at the end. `first` is the state at the start, if it is known.
// Memory beyond both is unknown, and may be far more than either.
void FindOffline(const RecordedPages* first, const RecordedPages& last,
                 Recording& recording) {
  const Pfn known(
      std::max(last.states.size(), first ? first->states.size() : 0));
  for (const PfnRange& range : Join(recording.AllMemory())) {
    for (Pfn start = range.start.AlignUp(kMaxOrder);
         start + kMaxOrder.pages() <= range.end && start < known;
         start += kMaxOrder.pages()) {
      bool is_offline = true;
      bool any_page = false;
      bool is_new = start.value() >= (first ? first->states.size() : 0);
      for (Pfn pfn = start; is_offline && pfn < start + kMaxOrder.pages();
           pfn += PageCount(1)) {
        const AtPage state = StateOf(last, pfn);
        is_offline = state == AtPage::kOffline || state == AtPage::kAbsent;
        any_page = any_page || state == AtPage::kOffline;
        const AtPage before = first ? StateOf(*first, pfn) : AtPage::kInUse;
        is_new =
            is_new || (before != AtPage::kOffline && before != AtPage::kAbsent);
      }
      if (!is_offline || !is_new) continue;
      (any_page ? recording.leaving : recording.offlined)
          .push_back({ToGpa(start), kMaxOrder.bytes()});
    }
  }
}

// Notes memory that only one of two files has, unless it is empty.
void DoubtMemory(std::string_view has, const std::vector<GpaRange>& ranges,
                 std::string_view lacks, Recording& recording) {
  if (ranges.empty()) return;
  uint64_t bytes = 0;
  for (const GpaRange& range : ranges) bytes += range.bytes;
  recording.doubts.push_back(
      absl::StrFormat("%s has %s of RAM, from %#x on, that %s lacks", has,
                      FormatBytes(bytes), ranges.front().gpa.value(), lacks));
}

// Doubts memory that was plugged before the end but is not there, or is there
// but was not plugged.
void ComparePlugs(const std::vector<GpaRange>& memory_at_end,
                  Recording& recording) {
  if (recording.plugs.empty()) return;
  std::vector<GpaRange> plugged;
  for (const Recording::Plug& plug : recording.plugs) {
    if (plug.removed) {
      plugged = BlocksBeyond(plugged, {plug.range});
    } else {
      plugged.push_back(plug.range);
    }
  }
  DoubtMemory("plug.csv", BlocksBeyond(plugged, memory_at_end), "iomem.end",
              recording);
  // The guest adds a whole memory block for the part of it that is plugged.
  std::vector<GpaRange> added = BlocksBeyond(memory_at_end, recording.memory);
  std::erase_if(added, [&](const GpaRange& range) {
    return std::any_of(recording.plugs.begin(), recording.plugs.end(),
                       [&](const Recording::Plug& plug) {
                         const PfnRange pages = PagesOf(plug.range);
                         return pages.start < PagesOf(range).end &&
                                PagesOf(range).start < pages.end;
                       });
  });
  DoubtMemory("iomem.end", added, "plug.csv", recording);
}

}  // namespace

void FindMemoryChanges(
    const std::optional<std::vector<GpaRange>>& memory_at_end,
    const std::optional<RecordedPages>& last, Recording& recording) {
  const std::vector<GpaRange>& memory = recording.memory;
  if (memory.empty()) return;
  std::vector<GpaRange> ever;
  ever.reserve(recording.plugs.size());
  for (const Recording::Plug& plug : recording.plugs) {
    ever.push_back(plug.range);
  }
  if (memory_at_end && !memory_at_end->empty()) {
    ever.insert(ever.end(), memory_at_end->begin(), memory_at_end->end());
    recording.leaving = BlocksBeyond(memory, *memory_at_end);
    ComparePlugs(*memory_at_end, recording);
  }
  const bool has_grown =
      recording.zones.empty() || recording.zones_at_end.empty() ||
      PresentPages(recording.zones_at_end) > PresentPages(recording.zones);
  recording.arriving = BlocksBeyond(ever, memory);
  // A map of the end may be older than what arrives.
  if (recording.arriving.empty() && recording.plugs.empty() &&
      !recording.memory_given && has_grown) {
    recording.arriving =
        BlocksBeyond(FindOnlined(recording.trace_path, memory), memory);
  }
  if (last && !recording.zones_at_end.empty()) {
    FindOffline(recording.first ? &*recording.first : nullptr, *last,
                recording);
  }
  const std::vector<GpaRange> unplugged = recording.leaving;
  recording.leaving = BlocksBeyond(unplugged, {});
  recording.offlined = BlocksBeyond(recording.offlined, unplugged);
}

}  // namespace guestmm::trace

namespace guestmm {

std::vector<GpaRange> Recording::AllMemory() const {
  std::vector<GpaRange> all = memory;
  all.insert(all.end(), arriving.begin(), arriving.end());
  std::sort(all.begin(), all.end(),
            [](const GpaRange& a, const GpaRange& b) { return a.gpa < b.gpa; });
  return all;
}

}  // namespace guestmm
