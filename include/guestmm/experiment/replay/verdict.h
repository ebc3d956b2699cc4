#ifndef GUESTMM_EXPERIMENT_REPLAY_VERDICT_H_
#define GUESTMM_EXPERIMENT_REPLAY_VERDICT_H_

// What replays of one recording say about its guest, how far the recording can
// be trusted, and what to type to learn more.

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "guestmm/base/export.h"
#include "guestmm/experiment/replay/replay.h"
#include "guestmm/trace/recording.h"

namespace GUESTMM_EXPORT guestmm {

// Bytes of the memory map by their use at the start (/proc/kpageflags).
struct MemoryUse {
  uint64_t anonymous = 0;
  uint64_t page_cache = 0;
  uint64_t slab = 0;
  // The kernel's other pages, and pages in use in another way.
  uint64_t other = 0;
  uint64_t free = 0;
  uint64_t unmanaged = 0;  // UnmanagedBytes::at_start
};
// Absent without kpageflags.start.
std::optional<MemoryUse> MemoryUseAtStart(const Recording& recording,
                                          const UnmanagedBytes& unmanaged);

struct ReplayVerdict {
  std::optional<MemoryUse> memory;
  // kGood without a doubt. kPoor if a doubt can change what the figures say.
  enum class Trust { kGood, kLimited, kPoor };
  Trust trust = Trust::kGood;
  // Why the recording cannot be trusted more, one line each.
  std::vector<std::string> doubts;
  // What to type to change the above, and what for.
  struct Advice {
    std::string purpose;
    std::string command;
  };
  std::vector<Advice> advice;
};
// "good", "limited", "poor".
std::string_view Name(ReplayVerdict::Trust trust);

// REQUIRES: `results` are replays of `recording`, and not empty.
ReplayVerdict JudgeReplays(const Recording& recording,
                           std::span<const ReplayResult> results);

}  // namespace guestmm

#endif  // GUESTMM_EXPERIMENT_REPLAY_VERDICT_H_
