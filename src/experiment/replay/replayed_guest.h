#ifndef GUESTMM_SRC_EXPERIMENT_REPLAY_REPLAYED_GUEST_H_
#define GUESTMM_SRC_EXPERIMENT_REPLAY_REPLAYED_GUEST_H_

// The guest of a recording: its memory, its allocator, and the state of its
// reporter when the trace begins.

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "absl/status/statusor.h"
#include "guestmm/base/clock.h"
#include "guestmm/buddy/page_allocator.h"
#include "guestmm/trace/recording.h"

namespace guestmm {

// The rules of the recorded kernel's per-CPU lists: 6.12's since 6.7, else
// 6.1's, which are also those of an unknown kernel.
KernelVersion KernelOf(const Recording& recording);

// Makes the guest's allocator, by the rules of `kernel` and with the recorded
// watermarks. All its memory is free; what arrives later is absent, and may be
// hot-added in blocks of kMaxOrder (HotpluggedMemory). The error of
// PageAllocator::Create.
absl::StatusOr<std::unique_ptr<PageAllocator>> MakeReplayedGuest(
    const Recording& recording, KernelVersion kernel);

// True if the guest's reporter had no pass to make at the start: each zone with
// reported blocks has reported all its free blocks of the largest order. Such a
// block is only made by a free, which asks for a pass; a smaller one without a
// mark may be the rest of a reported one. Zones without any mark are too small
// to be reported.
bool WasSettled(const PageAllocator& allocator);

// The time from `start` until the real reporter's next pass was due, if its
// last pass before had left work over: one `delay` after that pass
// (reports.csv). Absent if there is no report before `start`, or it is a delay
// or more ago: then the reporter was at rest when the last delay before `start`
// began, and when it was asked since is not known.
std::optional<Nanoseconds> TimeToNextPass(const Recording& recording,
                                          Nanoseconds start, Nanoseconds delay);

}  // namespace guestmm

#endif  // GUESTMM_SRC_EXPERIMENT_REPLAY_REPLAYED_GUEST_H_
