#include "src/trace/recording_check.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "guestmm/base/units.h"

namespace guestmm::trace {
namespace {

using State = RecordedPages::State;

// True if the larger number is more than a quarter above the smaller.
bool Differ(uint64_t a, uint64_t b) {
  const auto [least, most] = std::minmax(a, b);
  return most - least > least / 4;
}

uint64_t PagesWithin(const std::vector<GpaRange>& memory, PfnRange span) {
  uint64_t pages = 0;
  for (const GpaRange& range : memory) {
    const PfnRange ram = PagesOf(range);
    const Pfn start = std::max(ram.start, span.start);
    const Pfn end = std::min(ram.end, span.end);
    if (start < end) pages += (end - start).value();
  }
  return pages;
}

absl::Status Truncated(const std::string& place, uint64_t pages,
                       const char* what_ends, Pfn end,
                       const std::string& end_place) {
  return absl::DataLossError(absl::StrFormat(
      "%s: %d pages, but %s at page %d (%s): the file is truncated", place,
      pages, what_ends, end.value(), end_place));
}

class Checker {
 public:
  // REQUIRES: the recording has a memory map.
  Checker(const Recording& recording, const RecordingPlaces& places)
      : recording_(recording),
        places_(places),
        ram_end_(PagesOf(recording.memory.back()).end) {
    for (const RecordedZone& zone : recording.zones) {
      zones_end_ = std::max(zones_end_, zone.span.end);
      present_ += zone.present.value();
      free_ += zone.free.value();
    }
  }

  absl::Status CheckZones() const {
    if (recording_.zones.empty()) return absl::OkStatus();
    // Memory that is hot-added later lies past the zones.
    const uint64_t ram = PagesWithin(recording_.memory, {Pfn(0), ram_end_});
    for (const PageSize& size : kOtherSizes) {
      if (IsRamEnd(zones_end_.value(), size) &&
          !Differ(present_ * size.bytes / kPageSize, ram)) {
        return OtherPageSize(places_.zoneinfo, zones_end_.value(), size);
      }
    }
    for (const RecordedZone& zone : recording_.zones) {
      const uint64_t its_ram = PagesWithin(recording_.memory, zone.span);
      if (its_ram >= zone.present.value() / 2) continue;
      return absl::InvalidArgumentError(absl::StrFormat(
          "%s: Node %d, zone %s: %d pages present from page %d to %d; %s: %d "
          "pages of RAM there",
          places_.zoneinfo, zone.node, zone.name, zone.present.value(),
          zone.span.start.value(), zone.span.end.value(), places_.memory,
          its_ram));
    }
    uint64_t known = ram;
    if (recording_.first) {
      known = 0;
      ForEachPageOfRam([&](State state) {
        if (state != State::kAbsent) ++known;
      });
    }
    if (known > present_ && Differ(known, present_)) {
      return absl::InvalidArgumentError(absl::StrFormat(
          "%s: %d pages of RAM%s; %s: %d pages present in all zones: RAM is "
          "named twice, or is not online; --memory MAP says which is",
          places_.memory, known,
          recording_.first
              ? absl::StrCat(" with a struct page in ", places_.kpageflags)
              : "",
          places_.zoneinfo, present_));
    }
    return absl::OkStatus();
  }

  absl::Status CheckPages() const {
    if (!recording_.first) return absl::OkStatus();
    const uint64_t pages = recording_.first->states.size();
    const bool reaches_zones = Pfn(pages) >= zones_end_;
    if (reaches_zones) {
      for (const PageSize& size : kOtherSizes) {
        if (IsRamEnd(pages, size)) {
          return OtherPageSize(places_.kpageflags, pages, size);
        }
      }
    }
    // Memory past the zones may have no struct pages, as it is not online.
    const bool has_zones = !recording_.zones.empty();
    if (has_zones ? !reaches_zones : Pfn(pages) < ram_end_) {
      return Truncated(places_.kpageflags, pages,
                       has_zones ? "zones end" : "RAM ends",
                       has_zones ? zones_end_ : ram_end_,
                       has_zones ? places_.zoneinfo : places_.memory);
    }
    return CheckFreePages();
  }

 private:
  struct PageSize {
    uint64_t bytes;
    // Kernels round the end of kpageflags up to a section of memory.
    uint64_t section_bytes;
  };
  // Of arm64 and ppc64.
  static constexpr std::array<PageSize, 2> kOtherSizes = {
      {{16 * kKiB, 128 * kMiB}, {64 * kKiB, 512 * kMiB}}};

  // True if RAM ends after `pages` pages of this size, and not of 4 KiB.
  bool IsRamEnd(uint64_t pages, const PageSize& size) const {
    const uint64_t end = ToGpa(ram_end_).value();
    const uint64_t rounded = (end + size.section_bytes - 1) /
                             size.section_bytes * size.section_bytes;
    return Pfn(pages) < ram_end_ && pages * size.bytes + size.bytes > end &&
           pages * size.bytes <= rounded;
  }

  absl::Status OtherPageSize(const std::string& place, uint64_t pages,
                             const PageSize& size) const {
    return absl::InvalidArgumentError(absl::StrFormat(
        "%s: %d pages, but RAM ends at %s (%s): pages of %d KiB; only guests "
        "with pages of 4 KiB can be replayed",
        place, pages, FormatBytes(ToGpa(ram_end_).value()), places_.memory,
        size.bytes / kKiB));
  }

  absl::Status CheckFreePages() const {
    const std::vector<State>& states = recording_.first->states;
    const auto all = static_cast<uint64_t>(
        std::count(states.begin(), states.end(), State::kFree));
    // Two free pages of a block of order 1. Without any, there are heads alone,
    // unless zoneinfo has no more free pages either.
    bool any_pair = false;
    for (size_t i = 0; i + 1 < states.size() && !any_pair; i += 2) {
      any_pair = states[i] == State::kFree && states[i + 1] == State::kFree;
    }
    constexpr uint64_t kMany = 16;
    const bool is_known = free_ > 0;
    if (!any_pair &&
        (is_known ? all < free_ && Differ(all, free_) : all >= kMany)) {
      return absl::InvalidArgumentError(absl::StrFormat(
          "%s: %d pages are free, and none beside another%s: kernels before "
          "4.6 mark only the first page of a free block; without this file all "
          "memory counts as in use at the start",
          places_.kpageflags, all,
          is_known
              ? absl::StrFormat("; %s: %d are free", places_.zoneinfo, free_)
              : ""));
    }
    if (is_known &&
        std::max(all, free_) - std::min(all, free_) > present_ / 4) {
      return absl::InvalidArgumentError(absl::StrFormat(
          "%s: %d pages are free; %s: %d are: must be of one moment, and "
          "differ by a quarter of all pages at most",
          places_.kpageflags, all, places_.zoneinfo, free_));
    }
    uint64_t in_ram = 0;
    ForEachPageOfRam([&](State state) {
      if (state == State::kFree) ++in_ram;
    });
    if (all - in_ram > all / 16) {
      return absl::InvalidArgumentError(
          absl::StrFormat("%s: %d pages are free; %s: %d of them are RAM",
                          places_.kpageflags, all, places_.memory, in_ram));
    }
    return absl::OkStatus();
  }

  // Calls visit(state) for the pages of RAM that kpageflags.start has.
  template <typename Visit>
  void ForEachPageOfRam(const Visit& visit) const {
    const std::vector<State>& states = recording_.first->states;
    for (const GpaRange& range : recording_.memory) {
      const PfnRange ram = PagesOf(range);
      const Pfn end = std::min(ram.end, Pfn(states.size()));
      for (Pfn pfn = ram.start; pfn < end; pfn += PageCount(1)) {
        visit(states[pfn.value()]);
      }
    }
  }

  const Recording& recording_;
  const RecordingPlaces& places_;
  const Pfn ram_end_;
  Pfn zones_end_;
  // Of all zones.
  uint64_t present_ = 0;
  uint64_t free_ = 0;
};

}  // namespace

absl::Status CheckAgreement(const Recording& recording,
                            const RecordingPlaces& places) {
  if (recording.memory.empty()) return absl::OkStatus();
  const Checker checker(recording, places);
  absl::Status status = checker.CheckPages();
  status.Update(checker.CheckZones());
  return status;
}

absl::Status CheckPagesAtEnd(const Recording& recording,
                             const RecordedPages& last,
                             const RecordingPlaces& places) {
  const uint64_t pages = last.states.size();
  Pfn end;
  for (const RecordedZone& zone : recording.zones_at_end) {
    end = std::max(end, zone.span.end);
  }
  if (end > Pfn(pages)) {
    return Truncated(places.kpageflags_at_end, pages, "zones end", end,
                     places.zoneinfo_at_end);
  }
  // A kernel that loses memory keeps its struct pages' numbers.
  if (!recording.zones_at_end.empty() || !recording.first) {
    return absl::OkStatus();
  }
  end = Pfn(recording.first->states.size());
  return end <= Pfn(pages)
             ? absl::OkStatus()
             : Truncated(places.kpageflags_at_end, pages,
                         "the first state ends", end, places.kpageflags);
}

}  // namespace guestmm::trace
