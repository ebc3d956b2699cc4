// What a replay may be asked for.

#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "guestmm/base/check.h"
#include "guestmm/experiment/replay/replay.h"
#include "guestmm/mechanism/experiment.h"
#include "guestmm/trace/trace_event.h"
#include "src/experiment/replay/replayed_guest.h"

namespace guestmm {
namespace {

// Slower than a hundredth no one waits for, and faster than the machine no one
// waits at all.
constexpr double kLowestSpeed = 0.01;
constexpr double kHighestSpeed = 1e6;

// What a machine must have beside a real guest: metadata and this program.
constexpr uint64_t kReplayMachineReserve = 256 * kMiB;

// What kPolicyReal needs.
absl::Status CheckReal(const Recording& recording,
                       const ReplayOptions& options) {
  if (recording.reports.empty()) {
    return absl::InvalidArgumentError(
        "policy real: the recording does not tell what its guest's kernel "
        "reported (reports.csv)");
  }
  if (options.placement != Placement::kRecorded) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "policy real: with placement %s pages lie elsewhere than where they "
        "were reported; allowed is %s",
        Name(options.placement), Name(Placement::kRecorded)));
  }
  return absl::OkStatus();
}

}  // namespace

std::string_view Name(Placement placement) {
  return placement == Placement::kRecorded ? "recorded" : "native";
}

PolicyParameters PolicyParametersOf(const ReplayOptions& options) {
  PolicyParameters parameters = options.policy_parameters;
  if (!parameters.granule) parameters.granule = options.granule;
  return parameters;
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
      return absl::InvalidArgumentError(
          absl::StrCat(std::string(text), ": there is no gfp flag \"", name,
                       "\"; allowed is all, or names, as in "
                       "GFP_HIGHUSER_MOVABLE,GFP_KERNEL|__GFP_ZERO"));
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
    return absl::InvalidArgumentError(
        absl::StrFormat("tail %.1f s: allowed is 0 to %.0f s",
                        ToSeconds(options.tail), ToSeconds(kLongestReplay)));
  }
  if (options.speed &&
      !(*options.speed >= kLowestSpeed && *options.speed <= kHighestSpeed)) {
    return absl::InvalidArgumentError(
        absl::StrFormat("speed %g: allowed is %g to %.0f", *options.speed,
                        kLowestSpeed, kHighestSpeed));
  }
  if (options.policy == kPolicyReal) {
    const absl::Status status = CheckReal(recording, options);
    if (!status.ok()) return status;
  }
  const MemoryMap memory = MemoryMap::WholePages(recording.memory);
  if (memory.empty()) {
    return absl::InvalidArgumentError(
        "the recording has no memory map (iomem): where the guest's RAM is "
        "must be known");
  }
  const uint64_t needed = memory.bytes() + kReplayMachineReserve;
  if (options.mode == ReplayMode::kReal && needed > available_bytes) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "a real guest of %s needs %s; allowed is what this machine has "
        "available, %s",
        FormatBytes(memory.bytes()), FormatBytes(needed),
        FormatBytes(available_bytes)));
  }
  return absl::OkStatus();
}

}  // namespace guestmm
