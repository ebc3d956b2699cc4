#ifndef GUESTMM_SRC_EXPERIMENT_REPLAY_REPLAYED_GUEST_H_
#define GUESTMM_SRC_EXPERIMENT_REPLAY_REPLAYED_GUEST_H_

// The guest of a recording, as far as it is not what the trace did to it.

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "guestmm/buddy/memory_layout.h"
#include "guestmm/buddy/page_allocator.h"
#include "guestmm/trace/recording.h"

namespace guestmm {

// Its allocator, by the rules of Linux 6.1 and with its watermarks, all of
// whose memory is free. The error of PageAllocator::Create.
absl::StatusOr<std::unique_ptr<PageAllocator>> MakeReplayedGuest(
    const Recording& recording);

// Whether the guest's reporter was at rest at first. Only a free, which asks
// for a pass, makes a block of the largest order; a smaller one without a mark
// may be the rest of one that had it. Zones without any mark are those that are
// too small to be reported.
bool WasSettled(const PageAllocator& allocator);

}  // namespace guestmm

#endif  // GUESTMM_SRC_EXPERIMENT_REPLAY_REPLAYED_GUEST_H_
