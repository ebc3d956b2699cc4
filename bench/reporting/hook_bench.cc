// The cost of a policy's hooks to a vCPU that allocates and frees, beside the
// same without reporting. The reporter never runs, so that only the hooks are
// timed. Metadata only.

#include <benchmark/benchmark.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "guestmm/base/check.h"
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

// A guest of 4 GiB with a policy, or, with "off", without reporting.
class Reporting {
 public:
  explicit Reporting(const std::string& policy)
      : allocator_(
            PageAllocator::Create({.memory = {{Pfn(0), ToPfn(Gpa(4 * kGiB))}}})
                .value()) {
    if (policy == "off") return;
    reporter_.emplace(*allocator_, queue_,
                      *MakePolicy({.name = policy}, PolicyContext(Order(0))));
    GUESTMM_CHECK(reporter_->Enable(device_).ok()) << "not enabled";
  }

  // The ns that an allocation and a free took.
  struct Times {
    double allocate;
    double free;
  };
  // Allocates `blocks`, then frees them in the same order.
  Times Run(Order order, std::span<Pfn> blocks) {
    const MonotonicClock clock;
    const Nanoseconds began = clock.Now();
    for (Pfn& pfn : blocks) pfn = *allocator_->Allocate(0, order);
    const Nanoseconds between = clock.Now();
    for (const Pfn pfn : blocks) allocator_->Free(0, pfn, order);
    const Nanoseconds end = clock.Now();
    const auto each = [&](Nanoseconds time) {
      return static_cast<double>(time.count()) /
             static_cast<double>(blocks.size());
    };
    return {.allocate = each(between - began), .free = each(end - between)};
  }

 private:
  const std::unique_ptr<PageAllocator> allocator_;
  StandingQueue queue_;
  SilentDevice device_;
  std::optional<Reporter> reporter_;
};

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

// A GiB in blocks of an order, in each iteration without reporting and with the
// policy: ns/allocate and ns/free with the policy, and what of that the hook
// takes; medians.
void BM_Hooks(benchmark::State& state, int order_value,
              const std::string& policy) {
  const Order order(order_value);
  Reporting without("off");
  Reporting with(policy);
  std::vector<Pfn> blocks(kGiB / order.bytes());
  std::vector<double> allocate;
  std::vector<double> free;
  std::vector<double> hook_allocate;
  std::vector<double> hook_free;
  for (auto _ : state) {
    const Reporting::Times off = without.Run(order, blocks);
    const Reporting::Times on = with.Run(order, blocks);
    allocate.push_back(on.allocate);
    free.push_back(on.free);
    hook_allocate.push_back(on.allocate - off.allocate);
    hook_free.push_back(on.free - off.free);
  }
  state.counters["ns/allocate"] = Median(allocate);
  state.counters["ns/free"] = Median(free);
  state.counters["hook/allocate"] = Median(hook_allocate);
  state.counters["hook/free"] = Median(hook_free);
}

void RegisterBenchmarks() {
  for (const int order : {0, 3, 9}) {
    for (const std::string& policy : PolicyNames()) {
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
