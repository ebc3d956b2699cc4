#include "tools/guestmm/trace_info.h"

#include <algorithm>
#include <cstddef>
#include <filesystem>
#include <iostream>
#include <limits>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "nlohmann/json.hpp"
#include "tools/guestmm/table.h"
#include "tools/guestmm/terminal.h"

namespace guestmm::tools {
namespace {

std::string BytesPerEvent(uint64_t bytes, uint64_t events) {
  if (events == 0) return "-";
  return absl::StrFormat(
      "%.2f", static_cast<double>(bytes) / static_cast<double>(events));
}

std::string ShareOf(uint64_t part, uint64_t all) {
  if (part == 0) return "0";
  return absl::StrFormat(
      "%d (%.2f %%)", part,
      100.0 * static_cast<double>(part) / static_cast<double>(all));
}

std::optional<uint64_t> BytesOf(const std::vector<std::string>& paths) {
  uint64_t all = 0;
  for (const std::string& path : paths) {
    std::error_code error;
    if (!std::filesystem::is_regular_file(path, error)) return std::nullopt;
    all += std::filesystem::file_size(path, error);
    if (error) return std::nullopt;
  }
  return all;
}

uint64_t Allocations(const TraceInfo::ByKind& counts) {
  return counts[static_cast<size_t>(TraceEvent::Kind::kAlloc)];
}
uint64_t Frees(const TraceInfo::ByKind& counts) {
  return counts[static_cast<size_t>(TraceEvent::Kind::kFree)];
}
// Blocks that left a zone for a per-CPU list or a request.
uint64_t FromZones(const TraceInfo::ByKind& counts) {
  return counts[static_cast<size_t>(TraceEvent::Kind::kZoneAlloc)];
}
uint64_t Drained(const TraceInfo::ByKind& counts) {
  return counts[static_cast<size_t>(TraceEvent::Kind::kDrain)];
}

}  // namespace

TraceInfo::ByKind TraceInfo::all_orders() const {
  ByKind all = {};
  for (const ByKind& order : orders) {
    for (size_t kind = 0; kind < all.size(); ++kind) all[kind] += order[kind];
  }
  return all;
}

TraceInfo ReadTraceInfo(TraceReader& reader, std::vector<std::string> paths,
                        std::string kernel) {
  TraceInfo info;
  info.paths = std::move(paths);
  info.kernel = std::move(kernel);
  // Locals, and the CPUs as bits, which cost each event less.
  TraceInfo::ByOrder orders = {};
  std::vector<bool> cpus(size_t{std::numeric_limits<uint16_t>::max()} + 1);
  // Events may be late.
  Nanoseconds first = Nanoseconds::max();
  Nanoseconds last = Nanoseconds::min();
  auto run = reader.NextRun();
  for (; run.ok() && !run->empty(); run = reader.NextRun()) {
    for (const TraceEvent& read : *run) {
      ++orders[static_cast<size_t>(read.order.value())]
              [static_cast<size_t>(read.kind)];
      cpus[read.cpu] = true;
      first = std::min(first, read.time);
      last = std::max(last, read.time);
    }
  }
  info.orders = orders;
  for (size_t cpu = 0; cpu < cpus.size(); ++cpu) {
    if (cpus[cpu]) info.cpus.insert(static_cast<uint16_t>(cpu));
  }
  if (!info.cpus.empty()) {
    info.first = first;
    info.last = last;
  }
  info.status = run.status();
  info.format = reader.format();
  info.counters = reader.counters();
  info.decoded_bytes = reader.bytes();
  info.file_bytes = BytesOf(info.paths);
  return info;
}

void PrintTraceInfo(const TraceInfo& info) {
  const TraceReadCounters& counters = info.counters;
  const TraceInfo::ByKind all = info.all_orders();
  const bool has_lists = FromZones(all) + Drained(all) > 0;
  const Nanoseconds first = info.first.value_or(Nanoseconds(0));
  const Nanoseconds last = info.last.value_or(Nanoseconds(0));
  std::cout << Wrap(absl::StrCat(NameOfPaths(info.paths), ": ", info.format),
                    OutputColumns())
            << "\n\n";
  Table table({"trace", "value"});
  if (!info.kernel.empty()) table.AddRow({"kernel", info.kernel});
  table.AddRow({"events", absl::StrCat(counters.events)});
  table.AddRow({"allocations", absl::StrCat(Allocations(all))});
  table.AddRow({"frees", absl::StrCat(Frees(all))});
  if (has_lists) {
    table.AddRow({"blocks from zones", absl::StrCat(FromZones(all))});
    table.AddRow({"blocks drained to zones", absl::StrCat(Drained(all))});
  }
  table.AddRow({"first event", PreciseSeconds(first)});
  table.AddRow({"last event", PreciseSeconds(last)});
  table.AddRow({"time", PreciseSeconds(last - first)});
  table.AddRow({"cpus", absl::StrCat(info.cpus.size())});
  table.AddRow({"bytes per event, in the file",
                info.file_bytes
                    ? BytesPerEvent(*info.file_bytes, counters.events)
                    : "-"});
  table.AddRow({"bytes per event, before compression",
                BytesPerEvent(info.decoded_bytes, counters.events)});
  table.AddRow({"lost events", absl::StrCat(counters.lost)});
  table.AddRow({"malformed lines", absl::StrCat(counters.bad_lines)});
  table.AddRow({"failed allocations", absl::StrCat(counters.failed_allocs)});
  table.AddRow(
      {"batched frees (repeated)", absl::StrCat(counters.batched_frees)});
  table.AddRow({"other lines", absl::StrCat(counters.other_lines)});
  table.AddRow({"last line without an end", counters.unended_lines == 0 ? "no"
                                            : counters.cut_lines == 0
                                                ? "yes, whole"
                                                : "yes, cut off"});
  table.AddRow({"allocations with unknown gfp flags",
                ShareOf(counters.unknown_gfp, Allocations(all))});
  table.AddRow({"put in order of time", absl::StrCat(counters.reordered)});
  table.AddRow(
      {"time goes back", counters.late == 0
                             ? "0"
                             : absl::StrCat(counters.late, ", by up to ",
                                            PreciseSeconds(counters.late_by))});
  std::cout << table << "\n";

  std::vector<Column> columns = {"order", "allocations", "frees"};
  if (has_lists) {
    columns.emplace_back("from zones");
    columns.emplace_back("drained to zones");
  }
  Table orders(std::move(columns));
  for (size_t i = 0; i < info.orders.size(); ++i) {
    const TraceInfo::ByKind& order = info.orders[i];
    if (order == TraceInfo::ByKind{}) continue;
    std::vector<std::string> row = {absl::StrCat(i),
                                    absl::StrCat(Allocations(order)),
                                    absl::StrCat(Frees(order))};
    if (has_lists) {
      row.push_back(absl::StrCat(FromZones(order)));
      row.push_back(absl::StrCat(Drained(order)));
    }
    orders.AddRow(row);
  }
  std::cout << orders;
}

std::string TraceInfoJson(const TraceInfo& info) {
  using Json = nlohmann::ordered_json;
  const TraceReadCounters& counters = info.counters;
  const TraceInfo::ByKind all = info.all_orders();
  const auto seconds = [](const std::optional<Nanoseconds>& time) {
    return time ? Json(ToSeconds(*time)) : Json(nullptr);
  };
  Json orders = Json::array();
  for (size_t i = 0; i < info.orders.size(); ++i) {
    const TraceInfo::ByKind& order = info.orders[i];
    orders.push_back({{"order", i},
                      {"allocations", Allocations(order)},
                      {"frees", Frees(order)},
                      {"from_zones", FromZones(order)},
                      {"drained", Drained(order)}});
  }
  Json json = {
      {"schema_version", 1},
      {"paths", info.paths},
      {"kernel", info.kernel.empty() ? Json(nullptr) : Json(info.kernel)},
      {"format", info.format},
      {"file_bytes", info.file_bytes ? Json(*info.file_bytes) : Json(nullptr)},
      {"decoded_bytes", info.decoded_bytes},
      {"events", counters.events},
      {"allocations", Allocations(all)},
      {"frees", Frees(all)},
      {"from_zones", FromZones(all)},
      {"drained", Drained(all)},
      {"first_event_seconds", seconds(info.first)},
      {"last_event_seconds", seconds(info.last)},
      {"cpus", info.cpus},
      {"lost_events", counters.lost},
      {"bad_lines", counters.bad_lines},
      {"failed_allocations", counters.failed_allocs},
      {"batched_frees", counters.batched_frees},
      {"other_lines", counters.other_lines},
      {"unended_lines", counters.unended_lines},
      {"cut_lines", counters.cut_lines},
      {"unknown_gfp", counters.unknown_gfp},
      {"reordered", counters.reordered},
      {"late", counters.late},
      {"late_by_seconds", ToSeconds(counters.late_by)},
      {"orders", orders}};
  if (!info.status.ok()) json["error"] = std::string(info.status.message());
  // Paths may hold any bytes; those that are not UTF-8 are replaced.
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

std::string NameOfPaths(const std::vector<std::string>& paths) {
  return paths.size() == 1
             ? paths.front()
             : absl::StrCat(paths.front(), " and ", paths.size() - 1, " more");
}

std::string PreciseSeconds(Nanoseconds time) {
  return absl::StrFormat("%.6f s", ToSeconds(time));
}

}  // namespace guestmm::tools
