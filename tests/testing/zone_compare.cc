#include "tests/testing/zone_compare.h"

#include <algorithm>
#include <optional>
#include <vector>

#include "absl/strings/str_cat.h"
#include "guestmm/base/lock.h"

namespace guestmm::buddy {

std::string Differ(std::string_view what, uint64_t ours, uint64_t model) {
  if (ours == model) return "";
  std::string text(what);
  absl::StrAppend(&text, ": ", ours, ", by the model ", model);
  return text;
}

namespace {

std::string CompareLists(const Zone& zone, const ZoneModel& model) {
  for (int t = 0; t < kMigrateTypes; ++t) {
    const auto type = static_cast<MigrateType>(t);
    for (int order = 0; order <= zone.max_order().value(); ++order) {
      std::vector<uint64_t> listed;
      std::vector<uint64_t> walked;
      {
        LockHolder hold(zone.lock());
        zone.ForEachFreeBlock(Order(order), type,
                              [&](Pfn pfn) { listed.push_back(pfn.value()); });
        for (std::optional<Pfn> at = zone.FirstFreeBlock(Order(order), type);
             at; at = zone.NextFreeBlock(*at, Order(order), type)) {
          walked.push_back(at->value());
        }
      }
      const auto& expected = model.lists(type)[static_cast<size_t>(order)];
      if (!std::equal(listed.begin(), listed.end(), expected.begin(),
                      expected.end())) {
        std::string text =
            absl::StrCat("list of order ", order, ", ", Name(type).data(), ":");
        for (const uint64_t pfn : listed) absl::StrAppend(&text, " ", pfn);
        absl::StrAppend(&text, ", by the model:");
        for (const uint64_t pfn : expected) absl::StrAppend(&text, " ", pfn);
        return text;
      }
      if (walked != listed) {
        return absl::StrCat("a walk of the list of order ", order, ", ",
                            Name(type).data(), ", goes another way");
      }
    }
  }
  return "";
}

// For every page in the zone's span: the free block that contains it, and its
// mark.
std::string CompareFreeBlocks(const Zone& zone, const ZoneModel& model) {
  LockHolder hold(zone.lock());
  const PfnRange span = model.span();
  for (Pfn pfn = span.start; pfn < span.end; pfn += PageCount(1)) {
    std::optional<FreeBlock> ours;
    if (const std::optional<Zone::Block> block = zone.FreeBlockAround(pfn)) {
      ours.emplace(block->pfn.value(), block->order.value());
    }
    if (ours != model.FreeBlockAround(pfn.value())) {
      return absl::StrCat("another free block is around page ", pfn.value());
    }
  }
  for (const auto& [pfn, block] : model.blocks()) {
    if (zone.IsReported(Pfn(pfn)) != block.reported) {
      return absl::StrCat("block ", pfn, " is ", block.reported ? "not " : "",
                          "marked as reported");
    }
  }
  return "";
}

std::string CompareBlocks(const PageMap& pages, const ZoneModel& model) {
  for (const auto& [pfn, block] : model.blocks()) {
    const PageInfo info = pages.Get(Pfn(pfn));
    if (info != PageInfo{block.state, Order(block.order)}) {
      return absl::StrCat("page ", pfn, " is not ", Name(block.state).data(),
                          " of order ", block.order);
    }
    if (block.state != PageState::kAllocated) continue;
    if (pages.AllocatedAs(Pfn(pfn)) != block.as) {
      return absl::StrCat("page ", pfn, " was not asked for as ",
                          Name(block.as).data());
    }
    std::string wrong =
        Differ(absl::StrCat("pins of page ", pfn), pages.pins(Pfn(pfn)),
               static_cast<uint64_t>(block.pins));
    if (!wrong.empty()) return wrong;
  }
  return "";
}

}  // namespace

std::string CompareZone(const Zone& zone, const PageMap& pages,
                        const ZoneModel& model) {
  std::string wrong = CompareLists(zone, model);
  if (wrong.empty()) wrong = CompareFreeBlocks(zone, model);
  if (wrong.empty()) wrong = CompareBlocks(pages, model);
  const auto compare = [&](std::string_view what, uint64_t ours,
                           uint64_t expected) {
    if (wrong.empty()) wrong = Differ(what, ours, expected);
  };
  compare("free", zone.free_pages().value(), model.free());
  compare("offlining", zone.offlining_pages().value(), model.offlining());
  compare("isolated", zone.isolated_pages().value(),
          model.PagesIn(PageState::kIsolated));
  compare("managed", zone.managed_pages().value(), model.managed());
  compare("start", zone.span().start.value(), model.span().start.value());
  compare("end", zone.span().end.value(), model.span().end.value());
  compare("steals", zone.steals(), model.steals);
  compare("stolen pageblocks", zone.stolen_pageblocks(),
          model.stolen_pageblocks);
  compare("min", zone.watermarks().min.value(), model.marks.min.value());
  compare("low", zone.watermarks().low.value(), model.marks.low.value());
  compare("high", zone.watermarks().high.value(), model.marks.high.value());
  for (size_t type = 0; type < kZoneTypes; ++type) {
    compare("reserve", zone.lowmem_reserve(static_cast<ZoneType>(type)).value(),
            model.reserve[type].value());
  }
  return wrong;
}

}  // namespace guestmm::buddy
