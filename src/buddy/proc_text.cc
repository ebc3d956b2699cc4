#include "guestmm/buddy/proc_text.h"

#include <array>
#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_format.h"
#include "guestmm/base/lock.h"

namespace guestmm {
namespace {

constexpr std::array<ZoneType, kZoneTypes> kAllZoneTypes = {
    ZoneType::kDma, ZoneType::kDma32, ZoneType::kNormal, ZoneType::kMovable};
constexpr std::array<MigrateType, kMigrateTypes> kAllMigrateTypes = {
    MigrateType::kUnmovable, MigrateType::kMovable, MigrateType::kReclaimable,
    MigrateType::kHighAtomic, MigrateType::kIsolate};

bool HasMemory(const Zone& zone) { return zone.managed_pages() > PageCount(0); }

// The zones of `node` that have memory.
std::vector<const Zone*> ZonesWithMemory(const PageAllocator& allocator,
                                         int node) {
  std::vector<const Zone*> zones;
  for (const ZoneType type : kAllZoneTypes) {
    const Zone& zone = allocator.zone(node, type);
    if (HasMemory(zone)) zones.push_back(&zone);
  }
  return zones;
}

// The start of a zone's lines, except in the upper half of pagetypeinfo.
std::string ZonePrefix(const Zone& zone) {
  return absl::StrFormat("Node %d, zone %8s", zone.node(), Name(zone.type()));
}

void AppendFreeBlocksByType(const Zone& zone, std::string& text) {
  VisitorHolder hold(zone.lock());
  for (const MigrateType type : kAllMigrateTypes) {
    absl::StrAppendFormat(&text, "Node %4d, zone %8s, type %12s ", zone.node(),
                          Name(zone.type()), Name(type));
    for (int order = 0; order <= zone.max_order().value(); ++order) {
      absl::StrAppendFormat(&text, "%6d ",
                            zone.CountFreeBlocks(Order(order), type));
    }
    text += '\n';
  }
}

void AppendPageblocksByType(const Zone& zone, std::string& text) {
  VisitorHolder hold(zone.lock());
  text += ZonePrefix(zone) + " ";
  for (const uint64_t pageblocks : zone.PageblocksByType()) {
    absl::StrAppendFormat(&text, "%12d ", pageblocks);
  }
  text += '\n';
}

void AppendProtection(const Zone& zone, std::string& text) {
  text += "        protection: (";
  std::string_view separator;
  for (const ZoneType highest : kAllZoneTypes) {
    absl::StrAppendFormat(&text, "%s%d", separator,
                          zone.lowmem_reserve(highest).value());
    separator = ", ";
  }
  text += ")\n";
}

void AppendZone(const PageAllocator& allocator, const Zone& zone,
                std::string& text) {
  const Watermarks watermarks = zone.watermarks();
  const uint64_t free = zone.free_pages().value();
  const uint64_t managed = zone.managed_pages().value();
  absl::StrAppendFormat(&text,
                        "%s\n"
                        "  pages free     %d\n"
                        "        min      %d\n"
                        "        low      %d\n"
                        "        high     %d\n"
                        "        spanned  %d\n"
                        "        present  %d\n"
                        "        managed  %d\n",
                        ZonePrefix(zone), free, watermarks.min.value(),
                        watermarks.low.value(), watermarks.high.value(),
                        zone.span().pages().value(), managed, managed);
  AppendProtection(zone, text);
  if (!HasMemory(zone)) return;
  const VmStat stat = allocator.vmstat(zone);
  absl::StrAppendFormat(&text,
                        "      nr_free_pages %d\n"
                        "      numa_hit     %d\n"
                        "      numa_miss    %d\n"
                        "      numa_foreign %d\n"
                        "      numa_local   %d\n"
                        "      numa_other   %d\n"
                        "  pagesets\n",
                        free, stat.numa_hit, stat.numa_miss, stat.numa_foreign,
                        stat.numa_local, stat.numa_other);
  for (int cpu = 0; cpu < allocator.cpus(); ++cpu) {
    const PerCpuPages& pages = allocator.per_cpu_pages(cpu, zone);
    absl::StrAppendFormat(&text,
                          "    cpu: %d\n"
                          "              count: %d\n"
                          "              high:  %d\n"
                          "              batch: %d\n",
                          cpu, pages.cached_pages().value(), pages.high(),
                          pages.limits().batch);
  }
  absl::StrAppendFormat(&text, "  start_pfn:           %d\n",
                        zone.span().start.value());
}

}  // namespace

std::string BuddyInfo(const PageAllocator& allocator) {
  std::string text;
  for (int node = 0; node < allocator.nodes(); ++node) {
    for (const Zone* const zone : ZonesWithMemory(allocator, node)) {
      VisitorHolder hold(zone->lock());
      text += ZonePrefix(*zone) + " ";
      for (int order = 0; order <= zone->max_order().value(); ++order) {
        absl::StrAppendFormat(&text, "%6d ", zone->free_blocks(Order(order)));
      }
      text += '\n';
    }
  }
  return text;
}

std::string PageTypeInfo(const PageAllocator& allocator) {
  const Order pageblock_order = allocator.pages().pageblock_order();
  std::string text;
  for (int node = 0; node < allocator.nodes(); ++node) {
    const std::vector<const Zone*> zones = ZonesWithMemory(allocator, node);
    if (zones.empty()) continue;
    absl::StrAppendFormat(&text,
                          "Page block order: %d\n"
                          "Pages per block:  %d\n"
                          "\n"
                          "%-43s ",
                          pageblock_order.value(),
                          pageblock_order.pages().value(),
                          "Free pages count per migrate type at order");
    for (int order = 0; order <= allocator.max_order().value(); ++order) {
      absl::StrAppendFormat(&text, "%6d ", order);
    }
    text += '\n';
    for (const Zone* const zone : zones) AppendFreeBlocksByType(*zone, text);

    absl::StrAppendFormat(&text, "\n%-23s", "Number of blocks type");
    for (const MigrateType type : kAllMigrateTypes) {
      absl::StrAppendFormat(&text, "%12s ", Name(type));
    }
    text += '\n';
    for (const Zone* const zone : zones) AppendPageblocksByType(*zone, text);
  }
  return text;
}

std::string ZoneInfo(const PageAllocator& allocator) {
  std::string text;
  for (const std::unique_ptr<Zone>& zone : allocator.zones()) {
    AppendZone(allocator, *zone, text);
  }
  return text;
}

std::string VmStatText(const PageAllocator& allocator) {
  const VmStat stat = allocator.vmstat();
  std::string text;
  const auto line = [&text](std::string_view name, uint64_t value) {
    absl::StrAppendFormat(&text, "%s %d\n", name, value);
  };
  // Appends a line for each zone type, e.g. pgalloc_dma32.
  const auto line_by_type = [&](std::string_view name, const auto& values) {
    for (const ZoneType type : kAllZoneTypes) {
      line(absl::StrFormat("%s_%s", name,
                           absl::AsciiStrToLower(std::string(Name(type)))),
           values[static_cast<size_t>(type)]);
    }
  };
  line("nr_free_pages", allocator.Counts().free.value());
  line("numa_hit", stat.numa_hit);
  line("numa_miss", stat.numa_miss);
  line("numa_foreign", stat.numa_foreign);
  line("numa_local", stat.numa_local);
  line("numa_other", stat.numa_other);
  line_by_type("pgalloc", stat.pgalloc);
  line_by_type("allocstall", stat.allocstall);
  line("pgfree", stat.pgfree);
  line("pgsteal_direct", stat.pgsteal_direct);
  line("alloc_failed", stat.alloc_failed);
  line("alloc_failed_isolated", stat.alloc_failed_isolated);
  line("alloc_failed_isolated_pages", stat.alloc_failed_isolated_pages);
  line("alloc_waited_isolated", stat.alloc_waited_isolated);
  return text;
}

}  // namespace guestmm
