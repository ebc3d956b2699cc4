// The cost of a policy's hooks to a vCPU that allocates and frees: without
// reporting, and with each policy and a reporter that never runs, so that only
// the hooks are timed. Metadata only.

#include <benchmark/benchmark.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "guestmm/base/clock.h"
#include "guestmm/buddy/page_allocator.h"
#include "guestmm/reporting/policies.h"
#include "guestmm/reporting/reporter.h"

namespace guestmm {
namespace {

// Has a clock, and never runs any work.
class StandingQueue final : public Workqueue {
 public:
  Nanoseconds Now() const override { return clock_.Now(); }
  bool Queue(Work&, Nanoseconds) override { return true; }
  void CancelSync(Work&) override {}
  bool MayWait() const override { return true; }
  bool WaitUntil(absl::FunctionRef<bool()> condition, Nanoseconds) override {
    return condition();
  }

 private:
  MonotonicClock clock_;
};

// Is never sent a report.
class SilentDevice final : public ReportingDevice {
 public:
  size_t max_report_entries() const override { return 32; }
  absl::Status Report(std::span<const GpaRange>, Client&) override {
    return absl::UnavailableError("never asked");
  }
};

// Allocates a GiB in blocks of an order, then frees them in the same order.
// Counts ns for each allocation and each free.
void BM_Hooks(benchmark::State& state, int order_value,
              const std::string& policy) {
  const Order order(order_value);
  constexpr Pfn kEnd = ToPfn(Gpa(4 * kGiB));
  const auto allocator =
      PageAllocator::Create({.memory = {{Pfn(0), kEnd}}}).value();
  StandingQueue queue;
  SilentDevice device;
  std::optional<Reporter> reporter;
  if (policy != "off") {
    reporter.emplace(*allocator, queue,
                     *MakePolicy({.name = policy}, PolicyContext(Order(0))));
    if (!reporter->Enable(device).ok()) state.SkipWithError("not enabled");
  }
  const uint64_t count = kGiB / order.bytes();
  std::vector<Pfn> blocks(count);
  Nanoseconds allocating{0};
  Nanoseconds freeing{0};
  const MonotonicClock clock;
  for (auto _ : state) {
    const Nanoseconds began = clock.Now();
    for (Pfn& pfn : blocks) pfn = *allocator->Allocate(0, order);
    const Nanoseconds between = clock.Now();
    for (const Pfn pfn : blocks) allocator->Free(0, pfn, order);
    freeing += clock.Now() - between;
    allocating += between - began;
  }
  const auto each = [&](Nanoseconds time) {
    return static_cast<double>(time.count()) /
           static_cast<double>(count * state.iterations());
  };
  state.counters["ns/allocate"] = each(allocating);
  state.counters["ns/free"] = each(freeing);
}

void RegisterBenchmarks() {
  std::vector<std::string> policies = PolicyNames();
  policies.insert(policies.begin(), "off");
  for (const int order : {0, 3, 9}) {
    for (const std::string& policy : policies) {
      benchmark::RegisterBenchmark(
          ("BM_Hooks/order" + std::to_string(order) + "_" + policy).c_str(),
          BM_Hooks, order, policy);
    }
  }
}

}  // namespace
}  // namespace guestmm

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  guestmm::RegisterBenchmarks();
  benchmark::RunSpecifiedBenchmarks();
}
