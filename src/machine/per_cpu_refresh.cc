#include "src/machine/per_cpu_refresh.h"

namespace guestmm {

PerCpuRefresh::PerCpuRefresh(FrameAllocator& allocator, Workqueue& queue)
    : allocator_(allocator),
      queue_(queue),
      work_([this] { Run(); }, Work::Kind::kDeferrable) {
  queue_.Queue(work_, kInterval);
}

PerCpuRefresh::~PerCpuRefresh() { queue_.CancelSync(work_); }

void PerCpuRefresh::Run() {
  for (int cpu = 0; cpu < allocator_.cpus(); ++cpu) {
    allocator_.RefreshPerCpuPages(cpu);
  }
  queue_.Queue(work_, kInterval);
}

}  // namespace guestmm
