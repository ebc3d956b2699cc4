// memory_hotplug_threads_test.cc with the reporter of "v12-hotplug", for a
// minute. Meant for ThreadSanitizer.

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "guestmm/base/thread_workqueue.h"
#include "guestmm/base/units.h"
#include "guestmm/reporting/reporter.h"
#include "guestmm/reporting/v12_policy.h"
#include "tests/testing/fake_device.h"
#include "tests/testing/hotplug_churn.h"
#include "tests/testing/page_owners.h"

namespace guestmm::reporter_hotplug_long_test {
namespace {

// Owns reported pages, as the device does, from the report until right before
// its end.
class V12HotplugReporter final : public ChurnReporter {
 public:
  V12HotplugReporter(PageAllocator& allocator, Workqueue& queue,
                     PageOwners& owners)
      : reporter_(allocator, queue,
                  std::make_unique<V12Policy>(V12Options{.order = Order(2),
                                                         .threshold = 2,
                                                         .capacity = 4,
                                                         .hotplug = true})) {
    device_.set_inspect([this, &owners](std::span<const GpaRange> ranges) {
      for (const GpaRange& range : ranges) {
        const PfnRange pages = PagesOf(range);
        for (Pfn pfn = pages.start; pfn < pages.end; pfn += PageCount(1)) {
          if (in_flight_) {
            owners.Give(pfn, Order(0), PageOwners::kReporter);
          } else {
            owners.Take(pfn, Order(0), PageOwners::kReporter);
          }
        }
      }
      if (in_flight_) batches_.fetch_add(1);
      in_flight_ = !in_flight_;
    });
    EXPECT_EQ(reporter_.Enable(device_), absl::OkStatus());
  }
  ~V12HotplugReporter() override {
    EXPECT_EQ(reporter_.Disable(device_), absl::OkStatus());
    EXPECT_EQ(reporter_.policy().CheckInvariants(), absl::OkStatus());
  }

  uint64_t batches() const override { return batches_.load(); }

 private:
  ThreadWorkqueue device_thread_;
  FakeDevice device_{device_thread_};
  Reporter reporter_;
  // Used by one report at a time.
  bool in_flight_ = false;
  std::atomic<uint64_t> batches_{0};
};

TEST(ReporterHotplugLongTest, MemoryComesAndGoesForAMinute) {
  const auto deadline =
      std::chrono::steady_clock::now() + std::chrono::minutes(1);
  std::atomic<bool> over{false};
  const auto go_on = [&](uint64_t step) {
    if (step % 256 == 0 && std::chrono::steady_clock::now() >= deadline) {
      over.store(true, std::memory_order_relaxed);
    }
    return !over.load(std::memory_order_relaxed);
  };
  constexpr HotplugChurnCounts kMuch = {.onlined = 1000,
                                        .offlined = 1000,
                                        .removed = 200,
                                        .refused = 200,
                                        .batches = 200};
  const HotplugChurnCounts counts = RunHotplugChurn(
      {.go_on = go_on,
       .at_least = kMuch,
       .make_reporter = [](PageAllocator& allocator, Workqueue& queue,
                           PageOwners& owners) {
         return std::make_unique<V12HotplugReporter>(allocator, queue, owners);
       }});
  EXPECT_TRUE(counts.Reaches(kMuch));
  RecordProperty("onlined", std::to_string(counts.onlined));
  RecordProperty("batches", std::to_string(counts.batches));
}

}  // namespace
}  // namespace guestmm::reporter_hotplug_long_test
