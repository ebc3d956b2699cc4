#ifndef GUESTMM_BENCH_BUDDY_SLICES_H_
#define GUESTMM_BENCH_BUDDY_SLICES_H_

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <vector>

#include "benchmark/benchmark.h"

namespace guestmm::bench {

// Times operations in slices of 2,040, so that the median is robust against
// noise from other load on the machine.
class Slices {
 public:
  static constexpr size_t kOperations = 2040;

  // Calls `step(i)` for i in [0, steps), each of `operations` operations.
  // Returns the elapsed seconds.
  template <typename Step>
  double Run(size_t steps, size_t operations, Step step) {
    using Clock = std::chrono::steady_clock;
    const size_t per_slice = kOperations / operations;
    double seconds = 0;
    for (size_t i = 0; i < steps;) {
      const size_t end = std::min(i + per_slice, steps);
      const size_t done = (end - i) * operations;
      const Clock::time_point start = Clock::now();
      for (; i < end; ++i) step(i);
      const std::chrono::duration<double> elapsed = Clock::now() - start;
      seconds += elapsed.count();
      // The rest may be too short to time as a last slice.
      if (done >= kOperations / 2) {
        per_operation_.push_back(elapsed.count() / static_cast<double>(done));
      }
      operations_ += done;
    }
    seconds_ += seconds;
    return seconds;
  }

  // Adds the slices of another thread.
  void Merge(const Slices& other) {
    per_operation_.insert(per_operation_.end(), other.per_operation_.begin(),
                          other.per_operation_.end());
    seconds_ += other.seconds_;
    operations_ += other.operations_;
  }

  // Sets the counters `ns` (nanoseconds per operation, median of slices) and
  // `mean_ns`, and the iterations' items.
  void Report(benchmark::State& state) {
    if (per_operation_.empty()) return;
    const auto middle = per_operation_.begin() +
                        static_cast<ptrdiff_t>(per_operation_.size() / 2);
    std::nth_element(per_operation_.begin(), middle, per_operation_.end());
    state.counters["ns"] = *middle * 1e9;
    state.counters["mean_ns"] =
        seconds_ / static_cast<double>(operations_) * 1e9;
  }

 private:
  std::vector<double> per_operation_;
  double seconds_ = 0;
  size_t operations_ = 0;
};

}  // namespace guestmm::bench

#endif  // GUESTMM_BENCH_BUDDY_SLICES_H_
