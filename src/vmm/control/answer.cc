#include "src/vmm/control/answer.h"

#include <chrono>
#include <cstdint>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "guestmm/base/clock.h"
#include "guestmm/vmm/balloon_counters.h"
#include "guestmm/vmm/balloon_offer.h"
#include "guestmm/vmm/control/request.h"
#include "guestmm/vmm/metrics.h"
#include "nlohmann/json.hpp"

namespace guestmm {
namespace {

using nlohmann::ordered_json;

std::string Line(const ordered_json& json) {
  return json.dump(-1, ' ', false, ordered_json::error_handler_t::replace);
}

ordered_json Error(std::string_view message) {
  return {{"ok", false}, {"error", std::string(message)}};
}

// Counters by name.
ordered_json CountersOf(const VmmCounters& counters) {
  const BalloonDeviceCounters& device = counters.discards.device;
  ordered_json json = {{"requests", counters.requests.messages},
                       {"refused_requests", counters.requests.refused},
                       {"discards", counters.discards.reports},
                       {"discarded_bytes", counters.discards.bytes},
                       {"discard_failures", counters.discards.failures}};
  for (const BalloonCounterField& field : BalloonCounterFields()) {
    json[std::string(field.name)] = device.*field.member;
  }
  ordered_json& tables = json["skipped_tables"] = ordered_json::object();
  for (size_t fault = 1; fault < kTableFaults; ++fault) {
    tables[std::string(TableFaultName(fault))] = device.skipped_tables[fault];
  }
  ordered_json& refused = json["refused_by"] = ordered_json::object();
  for (const auto& [name, count] : counters.requests.refused_by) {
    refused[name] = count;
  }
  return json;
}

ordered_json StatisticsOf(const BalloonStatistics& statistics) {
  ordered_json json = ordered_json::object();
  for (uint16_t tag = 0; tag < kBalloonStats; ++tag) {
    const auto stat = static_cast<BalloonStat>(tag);
    const std::optional<uint64_t> value = statistics[stat];
    if (!value) continue;
    json[std::string(BalloonStatName(stat)) + (IsBytes(stat) ? "_bytes" : "")] =
        *value;
  }
  return json;
}

// What a reply to `command` says of a guest.
ordered_json GuestOf(const std::string& command, const VmmGuest& guest) {
  const VmmBalloon& balloon = guest.balloon;
  const BalloonDeviceCounters& device = guest.counters.discards.device;
  ordered_json json = {{"guest", guest.id}};
  const bool all = command == "status";
  if (all) {
    json["pid"] = guest.peer.pid;
    json["uid"] = guest.peer.uid;
    json["reports"] = device.reports;
    json["discarded_bytes"] = guest.counters.discards.bytes;
  }
  if (all || command == "target") {
    json["target_bytes"] = balloon.target_bytes;
    json["actual_bytes"] = balloon.actual_bytes;
  }
  if (all || command == "hint") {
    json["hinting"] = balloon.hinting;
  }
  if (command == "hint") {
    json["run_bytes"] = balloon.run_bytes;
    json["runs"] = device.hint_runs;
    json["hinted_bytes"] = device.hinted_bytes;
  }
  if (all || command == "hold" || command == "resume") {
    json["holds_discards"] = balloon.holds_discards;
  }
  if (all || command == "rate") {
    json["max_discard_rate"] = balloon.max_discard_rate;
  }
  if (command == "statistics") {
    json["updates"] = device.stats_updates;
    json["interval"] = ToSeconds(balloon.statistics_interval);
    json.update(StatisticsOf(balloon.statistics));
  }
  if (all) {
    json["device_status"] = balloon.status;
    json["accepted"] = FormatBalloonOffer(balloon.accepted_features);
    json["refused_requests"] = guest.counters.requests.refused;
    json["counters"] = CountersOf(guest.counters);
    json["statistics"] = StatisticsOf(balloon.statistics);
  }
  return json;
}

absl::Status Do(Vmm& vmm, const ControlRequest& request) {
  const std::optional<uint64_t> guest = request.guest;
  const std::string& command = request.command;
  if (command == "target") return vmm.SetTarget(guest, *request.bytes);
  if (command == "rate") return vmm.SetMaxDiscardRate(guest, *request.bytes);
  if (command == "hold") return vmm.HoldDiscards(guest, true);
  if (command == "resume") return vmm.HoldDiscards(guest, false);
  if (command == "hint" && request.action == "start") {
    return vmm.StartHinting(guest);
  }
  if (command == "hint" && request.action == "stop") {
    return vmm.StopHinting(guest);
  }
  if (command == "statistics" && request.interval) {
    absl::Status status = vmm.SetStatisticsInterval(
        guest, std::chrono::duration_cast<Nanoseconds>(
                   std::chrono::duration<double>(*request.interval)));
    if (!status.ok()) return status;
  }
  if (command == "statistics" && request.request) {
    return vmm.RequestStatistics(guest);
  }
  return absl::OkStatus();
}

ordered_json Answer(Vmm& vmm, const ControlRequest& request) {
  if (request.command == "metrics") {
    return {{"ok", true}, {"metrics", FormatMetrics(vmm)}};
  }
  if (const absl::Status status = Do(vmm, request); !status.ok()) {
    return Error(absl::StrCat(request.command, ": ", status.message()));
  }
  ordered_json json = {{"ok", true}};
  if (request.command == "status" && !request.guest) {
    json["offered"] = FormatBalloonOffer(vmm.offered());
    json["refused_connections"] = vmm.refused_connections();
    json["all"] = CountersOf(vmm.counters());
  }
  ordered_json& guests = json["guests"] = ordered_json::array();
  for (const VmmGuest& guest : vmm.Guests()) {
    if (request.guest && *request.guest != guest.id) continue;
    guests.push_back(GuestOf(request.command, guest));
  }
  if (request.guest && guests.empty()) {
    return Error(request.command + ": guest " + std::to_string(*request.guest) +
                 ": must be connected");
  }
  return json;
}

}  // namespace

std::string AnswerControl(Vmm& vmm, std::string_view line) {
  const absl::StatusOr<ControlRequest> request = ParseControlRequest(line);
  if (!request.ok()) {
    return Line(Error(absl::StrCat(request.status().message())));
  }
  return Line(Answer(vmm, *request));
}

}  // namespace guestmm
