// The options of a replay: their names, texts and bounds.

#include <chrono>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "guestmm/base/option_error.h"
#include "guestmm/buddy/kernel_version_field.h"
#include "guestmm/experiment/replay/replay.h"
#include "guestmm/host/accounting/host_info.h"
#include "guestmm/mechanism/mechanism_spec.h"
#include "guestmm/trace/trace_event.h"
#include "src/experiment/replay/replayed_guest.h"

namespace guestmm {
namespace {

// Checks that "real" can be replayed.
absl::Status CheckReal(const Recording& recording,
                       const ReplayOptions& options) {
  if (recording.reports.empty()) {
    return OptionError(Name(options.policy_option), kMechanismReal,
                       "must have a recording of what the guest's kernel "
                       "reported (reports.csv)");
  }
  if (options.placement != ReplayPlacement::kRecorded) {
    return OptionError("placement", Name(options.placement),
                       "must be recorded with the policy real, as pages lie "
                       "elsewhere than where they were reported");
  }
  return absl::OkStatus();
}

}  // namespace

std::string_view Name(ReplayPlacement placement) {
  return placement == ReplayPlacement::kRecorded ? "recorded" : "native";
}

std::string_view Name(ReplayMode mode) {
  return mode == ReplayMode::kVirtual ? "virtual" : "real";
}

const Fields<ReplayOptions>& ReplayFields() {
  using Options = ReplayOptions;
  using std::chrono::hours;
  using std::chrono::milliseconds;
  static const Fields<Options> fields = {
      {"mode", &Options::mode,
       FieldKind::Choice({std::string(Name(ReplayMode::kVirtual)),
                          std::string(Name(ReplayMode::kReal))}),
       "Resident memory: virtual, computed by a model, or real, in RAM"},
      {"placement", &Options::placement,
       FieldKind::Choice({std::string(Name(ReplayPlacement::kRecorded)),
                          std::string(Name(ReplayPlacement::kNative))}),
       "recorded: allocations get the trace's pages; native: pages that the "
       "modelled allocator picks"},
      {"kernel", &Options::kernel, KernelVersionKind(),
       "Kernel whose rules of per-CPU lists are followed: 6.1, 6.12, or "
       "recorded, that of the recording's uname and without it 6.1",
       "recorded"},
      {"granule", &Options::granule, FieldKind::Granule(),
       "Unit in which the host maps the guest's memory: 2MiB with huge pages, "
       "which smaller discards split"},
      {"khugepaged", &Options::khugepaged, FieldKind::Switch(),
       "Whether the host's khugepaged makes split huge pages whole again, 16 "
       "MiB every 10 seconds"},
      {"reportable-order", &Options::reportable_order, FieldKind::Orders(),
       "Order of the smallest free block that counts as reportable"},
      {"speed", &Options::speed, FieldKind::Number(0.01, 1e6),
       "Maximum replay speed, in trace seconds per second; does not affect "
       "results",
       "max"},
      {"seed", &Options::seed, FieldKind::Count(),
       "Seed of the order of events at the same instant"},
      {"sample-interval", &Options::sample_interval,
       FieldKind::Seconds(milliseconds(1), hours(1)),
       "Time between samples, initially; it doubles beyond 200,000 samples"},
      {"frame-interval", &Options::frame_interval,
       FieldKind::Seconds(Nanoseconds(0), hours(1)),
       "Least time between frames, initially; it doubles beyond 1,200 frames; "
       "0: no frames"},
      {"tail", &Options::tail,
       FieldKind::Seconds(Nanoseconds(0), kLongestReplay),
       "Time to continue after the trace's end"},
      {"skip-bad", &Options::read, &TraceReadOptions::skip_bad,
       FieldKind::Count(), "The most malformed lines to skip"},
  };
  return fields;
}

absl::StatusOr<std::vector<uint32_t>> ParseTouch(std::string_view text) {
  std::vector<uint32_t> touch;
  if (text == "all") return touch;
  std::string name;
  uint32_t flags = 0;
  for (size_t i = 0; i <= text.size(); ++i) {
    if (i < text.size() && text[i] != ',' && text[i] != '|') {
      name += text[i];
      continue;
    }
    const uint32_t its = GfpFlags::Parse(name);
    if (its == 0 || (its & GfpFlags::kUnknown) != 0) {
      return OptionError(
          "touch", text,
          absl::StrCat("must be all, or gfp flags as in "
                       "GFP_HIGHUSER_MOVABLE,GFP_KERNEL|__GFP_ZERO; \"",
                       name, "\" is none"));
    }
    flags |= its;
    name.clear();
    if (i < text.size() && text[i] == '|') continue;
    touch.push_back(flags);
    flags = 0;
  }
  return touch;
}

std::string FormatTouch(const std::vector<uint32_t>& touch) {
  if (touch.empty()) return "all";
  return absl::StrJoin(touch, ",", [](std::string* out, uint32_t flags) {
    *out += GfpFlags::Format(flags);
  });
}

uint64_t MostMemoryBytes(const ReplayResult& result) {
  uint64_t now = result.memory_bytes;
  uint64_t most = now;
  for (const MemoryChange& change : result.memory_changes) {
    now = change.removed ? now - change.range.bytes : now + change.range.bytes;
    most = std::max(most, now);
  }
  return most;
}

absl::Status CheckReplay(const Recording& recording,
                         const ReplayOptions& options,
                         const absl::StatusOr<uint64_t>& available) {
  absl::Status status = ReplayFields().Check(options);
  if (!status.ok()) return status;
  if (options.kernel == KernelVersion::kV5_3) {
    return OptionError("kernel", "5.3",
                       "must be 6.1 or 6.12, whose lists are followed");
  }
  if (options.policy == kMechanismReal) {
    status = CheckReal(recording, options);
    if (!status.ok()) return status;
  }
  if (MemoryMap::WholePages(recording.memory).empty()) {
    return absl::InvalidArgumentError(
        "the recording must have a memory map (iomem), which says where the "
        "guest's RAM is");
  }
  if (options.mode == ReplayMode::kVirtual) {
    return CheckKhugepaged(options.granule, options.khugepaged);
  }
  status = CheckRealHost(options.granule, options.khugepaged);
  if (!status.ok()) return status;
  const uint64_t guest = MemoryMap::WholePages(recording.AllMemory()).bytes();
  const uint64_t needed = guest + kMachineReserve;
  const absl::StatusOr<uint64_t> allowed = AllowedMemory(available);
  if (!allowed.ok()) return allowed.status();
  if (needed > *allowed) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "--real: the guest's %s and %s besides must be available on this "
        "machine, which has %s",
        FormatBytes(guest), FormatBytes(kMachineReserve),
        FormatBytes(*allowed)));
  }
  return absl::OkStatus();
}

}  // namespace guestmm
