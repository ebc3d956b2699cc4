// The options of a replay: their names, texts and bounds.

#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "guestmm/base/check.h"
#include "guestmm/base/option_error.h"
#include "guestmm/experiment/replay/replay.h"
#include "guestmm/host/accounting/host_info.h"
#include "guestmm/mechanism/experiment.h"
#include "guestmm/trace/trace_event.h"
#include "src/experiment/replay/replayed_guest.h"

namespace guestmm {
namespace {

// Below 0.01x a replay is uselessly slow; above 1e6x pacing has no effect.
constexpr double kLowestSpeed = 0.01;
constexpr double kHighestSpeed = 1e6;

// Checks that the policy "real" can be replayed.
absl::Status CheckReal(const Recording& recording,
                       const ReplayOptions& options) {
  if (recording.reports.empty()) {
    return OptionError("policies", kPolicyReal,
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

absl::Status CheckReplay(const Recording& recording,
                         const ReplayOptions& options,
                         uint64_t available_bytes) {
  GUESTMM_CHECK(options.sample_interval > Nanoseconds(0));
  if (options.tail < Nanoseconds(0) || options.tail > kLongestReplay) {
    return OptionError("tail",
                       absl::StrFormat("%.10g", ToSeconds(options.tail)),
                       absl::StrFormat("must be 0 to %.0f seconds",
                                       ToSeconds(kLongestReplay)));
  }
  if (options.speed &&
      !(*options.speed >= kLowestSpeed && *options.speed <= kHighestSpeed)) {
    return OptionError("speed", absl::StrFormat("%g", *options.speed),
                       absl::StrFormat("must be %g to %.0f, or max",
                                       kLowestSpeed, kHighestSpeed));
  }
  if (options.policy == kPolicyReal) {
    const absl::Status status = CheckReal(recording, options);
    if (!status.ok()) return status;
  }
  const MemoryMap memory = MemoryMap::WholePages(recording.memory);
  if (memory.empty()) {
    return absl::InvalidArgumentError(
        "the recording must have a memory map (iomem), which says where the "
        "guest's RAM is");
  }
  const uint64_t needed = memory.bytes() + kMachineReserve;
  if (options.mode == ReplayMode::kReal && needed > available_bytes) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "--real: the guest's %s and %s besides must be available on this "
        "machine, which has %s",
        FormatBytes(memory.bytes()), FormatBytes(kMachineReserve),
        FormatBytes(available_bytes)));
  }
  return absl::OkStatus();
}

}  // namespace guestmm
