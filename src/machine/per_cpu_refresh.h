#ifndef GUESTMM_SRC_MACHINE_PER_CPU_REFRESH_H_
#define GUESTMM_SRC_MACHINE_PER_CPU_REFRESH_H_

#include <chrono>

#include "guestmm/base/clock.h"
#include "guestmm/base/workqueue.h"
#include "guestmm/frame/frame_allocator.h"

namespace guestmm {

// Refreshes the per-CPU pages of every vCPU once a second while it exists, as a
// deferrable work. The kernel refreshes each vCPU at a time of its own, and an
// idle one later (vmstat_update).
class PerCpuRefresh {
 public:
  // vmstat_interval.
  static constexpr std::chrono::seconds kInterval{1};

  // The arguments must outlive this.
  PerCpuRefresh(FrameAllocator& allocator, Workqueue& queue);
  ~PerCpuRefresh();
  PerCpuRefresh(const PerCpuRefresh&) = delete;
  PerCpuRefresh& operator=(const PerCpuRefresh&) = delete;

 private:
  void Run();

  FrameAllocator& allocator_;
  Workqueue& queue_;
  Work work_;
};

}  // namespace guestmm

#endif  // GUESTMM_SRC_MACHINE_PER_CPU_REFRESH_H_
