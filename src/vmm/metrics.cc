#include "guestmm/vmm/metrics.h"

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <string_view>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"
#include "guestmm/vmm/balloon_counters.h"

namespace guestmm {
namespace {

// A label's value.
std::string Quote(const std::string& text) {
  return absl::StrCat(
      "\"",
      absl::StrReplaceAll(text,
                          {{"\\", "\\\\"}, {"\"", "\\\""}, {"\n", "\\n"}}),
      "\"");
}

// Builds the text, metric by metric.
class Text {
 public:
  // Begins a metric: its samples follow. `type`: counter or gauge.
  void Metric(std::string_view name, std::string_view type,
              std::string_view help) {
    name_ = absl::StrCat("guestmm_vmm_", std::string(name));
    absl::StrAppend(&text_, "# HELP ", name_, " ", std::string(help), "\n",
                    "# TYPE ", name_, " ", std::string(type), "\n");
  }
  void Sample(uint64_t value) {
    absl::StrAppend(&text_, name_, " ", value, "\n");
  }
  // Of a guest. `labels`: further ones, each with a comma before it.
  void Sample(const VmmGuest& guest, uint64_t value,
              const std::string& labels = "") {
    absl::StrAppend(&text_, name_, "{guest=\"", guest.id, "\"", labels, "} ",
                    value, "\n");
  }

  std::string text() && { return std::move(text_); }

 private:
  std::string name_;
  std::string text_;
};

void AppendSums(Vmm& vmm, size_t guests, Text& text) {
  const VmmCounters all = vmm.counters();
  text.Metric("guests", "gauge", "Guests connected");
  text.Sample(guests);
  text.Metric("refused_connections_total", "counter",
              "Connections that were refused");
  text.Sample(vmm.refused_connections());
  text.Metric("all_guests_discards_total", "counter",
              "Batches given to the host to discard, also of guests that left");
  text.Sample(all.discards.reports);
  text.Metric("all_guests_discarded_bytes_total", "counter",
              "Bytes discarded, resident or not, also of guests that left");
  text.Sample(all.discards.bytes);
  text.Metric("all_guests_discard_failures_total", "counter",
              "Ranges that the host refused to discard, also of guests that "
              "left");
  text.Sample(all.discards.failures);
  text.Metric("all_guests_refused_requests_total", "counter",
              "Requests refused, also of guests that left");
  text.Sample(all.requests.refused);
}

struct Value {
  std::string_view name;
  std::string_view type;
  std::string_view help;
  uint64_t (*of)(const VmmGuest&);
};

constexpr Value kValues[] = {
    {"requests_total", "counter", "vhost-user messages received",
     [](const VmmGuest& guest) { return guest.counters.requests.messages; }},
    {"discards_total", "counter", "Batches given to the host to discard",
     [](const VmmGuest& guest) { return guest.counters.discards.reports; }},
    {"discarded_bytes_total", "counter", "Bytes discarded, resident or not",
     [](const VmmGuest& guest) { return guest.counters.discards.bytes; }},
    {"discard_failures_total", "counter",
     "Ranges that the host refused to discard",
     [](const VmmGuest& guest) { return guest.counters.discards.failures; }},
    {"balloon_target_bytes", "gauge", "Size that the balloon should have",
     [](const VmmGuest& guest) { return guest.balloon.target_bytes; }},
    {"balloon_actual_bytes", "gauge",
     "Size of the balloon according to the guest",
     [](const VmmGuest& guest) { return guest.balloon.actual_bytes; }},
    {"hinting", "gauge", "1 while a hinting run has not ended",
     [](const VmmGuest& guest) { return uint64_t{guest.balloon.hinting}; }},
    {"holds_discards", "gauge", "1 while discards are on hold",
     [](const VmmGuest& guest) {
       return uint64_t{guest.balloon.holds_discards};
     }},
    {"max_discard_rate_bytes_per_second", "gauge",
     "Largest rate of discards, 0 for no limit",
     [](const VmmGuest& guest) { return guest.balloon.max_discard_rate; }},
    {"device_status", "gauge", "Status bits of the virtio device",
     [](const VmmGuest& guest) { return uint64_t{guest.balloon.status}; }},
};

void AppendBalloons(const std::vector<VmmGuest>& guests, Text& text) {
  for (const BalloonCounterField& field : BalloonCounterFields()) {
    text.Metric(absl::StrCat("balloon_", std::string(field.name), "_total"),
                "counter", field.text);
    for (const VmmGuest& guest : guests) {
      text.Sample(guest, guest.counters.discards.device.*field.member);
    }
  }
  text.Metric("balloon_skipped_tables_total", "counter",
              "Indirect tables skipped");
  for (const VmmGuest& guest : guests) {
    const auto& tables = guest.counters.discards.device.skipped_tables;
    for (size_t fault = 1; fault < tables.size(); ++fault) {
      text.Sample(
          guest, tables[fault],
          absl::StrCat(",fault=\"", std::string(TableFaultName(fault)), "\""));
    }
  }
}

// One metric for each: units differ.
void AppendStatistics(const std::vector<VmmGuest>& guests, Text& text) {
  for (uint16_t tag = 0; tag < kBalloonStats; ++tag) {
    const auto stat = static_cast<BalloonStat>(tag);
    text.Metric(
        absl::StrCat("guest_memory_", std::string(BalloonStatName(stat)),
                     IsBytes(stat) ? "_bytes" : ""),
        "gauge", "According to the guest; absent if it did not say");
    for (const VmmGuest& guest : guests) {
      const std::optional<uint64_t> value = guest.balloon.statistics[stat];
      if (value) text.Sample(guest, *value);
    }
  }
}

}  // namespace

std::string_view BalloonStatName(BalloonStat stat) {
  static constexpr std::array<std::string_view, kBalloonStats> kNames = {
      "swap_in",          "swap_out",     "major_faults",
      "minor_faults",     "free",         "total",
      "available",        "caches",       "hugetlb_allocations",
      "hugetlb_failures", "oom_kills",    "alloc_stalls",
      "async_scans",      "direct_scans", "async_reclaims",
      "direct_reclaims"};
  return kNames[static_cast<size_t>(stat)];
}

bool IsBytes(BalloonStat stat) {
  switch (stat) {
    case BalloonStat::kSwapIn:
    case BalloonStat::kSwapOut:
    case BalloonStat::kFree:
    case BalloonStat::kTotal:
    case BalloonStat::kAvailable:
    case BalloonStat::kCaches:
      return true;
    default:
      return false;
  }
}

std::string FormatMetrics(Vmm& vmm) {
  const std::vector<VmmGuest> guests = vmm.Guests();
  Text text;
  AppendSums(vmm, guests.size(), text);
  text.Metric("guest_info", "gauge", "1; the labels describe the guest");
  for (const VmmGuest& guest : guests) {
    text.Sample(guest, 1,
                absl::StrFormat(",pid=\"%d\",uid=\"%d\"", guest.peer.pid,
                                guest.peer.uid));
  }
  for (const Value& value : kValues) {
    text.Metric(value.name, value.type, value.help);
    for (const VmmGuest& guest : guests) {
      text.Sample(guest, value.of(guest));
    }
  }
  text.Metric("refused_requests_total", "counter", "Requests refused, by name");
  for (const VmmGuest& guest : guests) {
    for (const auto& [name, count] : guest.counters.requests.refused_by) {
      text.Sample(guest, count, absl::StrCat(",request=", Quote(name)));
    }
  }
  AppendBalloons(guests, text);
  AppendStatistics(guests, text);
  return std::move(text).text();
}

}  // namespace guestmm
