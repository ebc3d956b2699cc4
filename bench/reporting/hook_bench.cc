// What the hook costs a vCPU that frees memory: reporting off; v12 on, with its
// reporter never given a turn, so that the hook alone is timed. Metadata only.

#include <benchmark/benchmark.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "guestmm/base/virtual_time.h"
#include "guestmm/buddy/page_allocator.h"
#include "guestmm/reporting/reporter.h"
#include "guestmm/reporting/v12_policy.h"

namespace guestmm {
namespace {

// Takes everything and answers nothing.
class SilentDevice final : public ReportingDevice {
 public:
  size_t max_report_entries() const override { return 16; }
  absl::Status Report(std::span<const GpaRange>, Client&) override {
    return absl::UnavailableError("never asked");
  }
};

enum Reporting { kOff, kV12 };

// Allocates a GiB in blocks of an order, then frees them in the order of their
// allocation; ns are of the frees, each.
void BM_Free(benchmark::State& state, Order order, Reporting reporting) {
  constexpr Pfn kEnd = ToPfn(Gpa(4 * kGiB));
  const auto allocator =
      PageAllocator::Create({.memory = {{Pfn(0), kEnd}}}).value();
  VirtualTime time(1);
  SilentDevice device;
  std::optional<Reporter> reporter;
  if (reporting == kV12) {
    reporter.emplace(*allocator, time,
                     std::make_unique<V12Policy>(V12Options{}));
    if (!reporter->Enable(device).ok()) state.SkipWithError("not enabled");
  }
  const uint64_t count = kGiB / order.bytes();
  std::vector<Pfn> blocks;
  for (auto _ : state) {
    state.PauseTiming();
    blocks.clear();
    for (uint64_t i = 0; i < count; ++i) {
      blocks.push_back(allocator->Allocate(0, order).value());
    }
    state.ResumeTiming();
    for (const Pfn pfn : blocks) allocator->Free(0, pfn, order);
  }
  state.SetItemsProcessed(static_cast<int64_t>(count * state.iterations()));
  state.counters["ns/free"] =
      benchmark::Counter(static_cast<double>(count),
                         benchmark::Counter::kIsIterationInvariantRate |
                             benchmark::Counter::kInvert);
}
BENCHMARK_CAPTURE(BM_Free, order0_off, Order(0), kOff);
BENCHMARK_CAPTURE(BM_Free, order0_v12, Order(0), kV12);
BENCHMARK_CAPTURE(BM_Free, order9_off, Order(9), kOff);
BENCHMARK_CAPTURE(BM_Free, order9_v12, Order(9), kV12);

}  // namespace
}  // namespace guestmm

BENCHMARK_MAIN();
