#ifndef GUESTMM_SRC_EXPERIMENT_REPLAY_REPLAY_SAMPLER_H_
#define GUESTMM_SRC_EXPERIMENT_REPLAY_REPLAY_SAMPLER_H_

#include "guestmm/base/clock.h"
#include "guestmm/buddy/page_allocator.h"
#include "guestmm/experiment/replay/replay.h"
#include "src/experiment/replay/replay_host.h"
#include "src/experiment/replay/unmanaged_memory.h"

namespace guestmm {

// Samples the guest and its host during a replay: ReplayResult::samples, frames
// and buddyinfo. Times are by the trace's clock.
class ReplaySampler {
 public:
  // All must outlive this. The intervals are result.options'.
  ReplaySampler(const PageAllocator& allocator, ReplayHost& host,
                const UnmanagedMemory& unmanaged, ReplayResult& result);

  // Makes the first sample due at `start`.
  void Start(Nanoseconds start) { next_sample_ = start; }
  Nanoseconds next_sample() const { return next_sample_; }

  // Takes the sample that is due now, and makes the next one due.
  void SampleDue(Nanoseconds now);
  // Takes a sample, and a frame if one is due.
  void Sample(Nanoseconds now);
  void AddBuddyInfo(Nanoseconds now);
  // Free memory now, the last moment of a replay whose policy reports blocks of
  // `order` or more.
  FreeAtEnd FreeAtEndOf(Order order) const;

 private:
  ReplayFrame Frame(Nanoseconds now) const;
  BlockState StateOf(Pfn pfn) const;

  const PageAllocator& allocator_;
  ReplayHost& host_;
  const UnmanagedMemory& unmanaged_;
  ReplayResult& result_;
  Nanoseconds sample_interval_;
  Nanoseconds frame_interval_;
  Nanoseconds next_sample_{0};
  Nanoseconds next_frame_{0};
};

}  // namespace guestmm

#endif  // GUESTMM_SRC_EXPERIMENT_REPLAY_REPLAY_SAMPLER_H_
