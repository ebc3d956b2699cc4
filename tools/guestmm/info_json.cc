#include "tools/guestmm/info_json.h"

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "guestmm/base/lock.h"
#include "guestmm/buddy/zone.h"
#include "nlohmann/json.hpp"

namespace guestmm::tools {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::array kTypes = {MigrateType::kUnmovable, MigrateType::kMovable,
                               MigrateType::kReclaimable,
                               MigrateType::kHighAtomic, MigrateType::kIsolate};

Json ZoneJson(const PageAllocator& allocator, const Zone& zone) {
  const Watermarks watermarks = zone.watermarks();
  const VmStat stat = allocator.vmstat(zone);
  Json json = {{"node", zone.node()},
               {"zone", Name(zone.type())},
               {"start_pfn", zone.span().start.value()},
               {"spanned_pages", zone.span().pages().value()},
               {"present_pages", zone.managed_pages().value()},
               {"managed_pages", zone.managed_pages().value()},
               {"free_pages", zone.free_pages().value()},
               {"min_pages", watermarks.min.value()},
               {"low_pages", watermarks.low.value()},
               {"high_pages", watermarks.high.value()},
               {"numa_hit", stat.numa_hit},
               {"numa_miss", stat.numa_miss},
               {"numa_foreign", stat.numa_foreign},
               {"numa_local", stat.numa_local},
               {"numa_other", stat.numa_other}};
  Json& cpus = json["per_cpu"] = Json::array();
  for (int cpu = 0; cpu < allocator.cpus(); ++cpu) {
    const PerCpuPages& pages = allocator.per_cpu_pages(cpu, zone);
    const PerCpuLimits limits = pages.limits();
    cpus.push_back({{"count", pages.cached_pages().value()},
                    {"high", limits.high},
                    {"batch", limits.batch}});
  }
  VisitorHolder hold(zone.lock());
  Json& by_type = json["free_blocks"] = Json::object();
  Json& pageblocks = json["pageblocks"] = Json::object();
  const auto counts = zone.PageblocksByType();
  for (size_t i = 0; i < kTypes.size(); ++i) {
    const std::string name(Name(kTypes[i]));
    Json& by_order = by_type[name] = Json::array();
    for (int order = 0; order <= zone.max_order().value(); ++order) {
      by_order.push_back(zone.CountFreeBlocks(Order(order), kTypes[i]));
    }
    pageblocks[name] = counts[i];
  }
  return json;
}

Json VmStatJson(const PageAllocator& allocator) {
  const VmStat stat = allocator.vmstat();
  Json json = {{"nr_free_pages", allocator.Counts().free.value()},
               {"numa_hit", stat.numa_hit},
               {"numa_miss", stat.numa_miss},
               {"numa_foreign", stat.numa_foreign},
               {"numa_local", stat.numa_local},
               {"numa_other", stat.numa_other}};
  const auto add_by_type = [&](const std::string& name, const auto& values) {
    for (const ZoneType type : {ZoneType::kDma, ZoneType::kDma32,
                                ZoneType::kNormal, ZoneType::kMovable}) {
      json[absl::StrCat(name, "_",
                        absl::AsciiStrToLower(std::string(Name(type))))] =
          values[static_cast<size_t>(type)];
    }
  };
  add_by_type("pgalloc", stat.pgalloc);
  add_by_type("allocstall", stat.allocstall);
  json.update(
      {{"pgfree", stat.pgfree},
       {"pgsteal_direct", stat.pgsteal_direct},
       {"alloc_failed", stat.alloc_failed},
       {"alloc_failed_isolated", stat.alloc_failed_isolated},
       {"alloc_failed_isolated_pages", stat.alloc_failed_isolated_pages},
       {"alloc_waited_isolated", stat.alloc_waited_isolated}});
  return json;
}

}  // namespace

std::string InfoJson(const PageAllocator& allocator) {
  Json zones = Json::array();
  for (const std::unique_ptr<Zone>& zone : allocator.zones()) {
    if (zone->managed_pages() > PageCount(0)) {
      zones.push_back(ZoneJson(allocator, *zone));
    }
  }
  const Json json = {
      {"schema_version", 1},
      {"page_size", kPageSize},
      {"pageblock_order", allocator.pages().pageblock_order().value()},
      {"zones", zones},
      {"vmstat", VmStatJson(allocator)}};
  return json.dump(2) + "\n";
}

}  // namespace guestmm::tools
