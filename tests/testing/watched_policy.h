#ifndef GUESTMM_TESTS_TESTING_WATCHED_POLICY_H_
#define GUESTMM_TESTS_TESTING_WATCHED_POLICY_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "guestmm/reporting/reporting_policy.h"
#include "guestmm/reporting/v12_policy.h"

namespace guestmm {

// v12, but a test may step in.
class WatchedPolicy final : public ReportingPolicy {
 public:
  explicit WatchedPolicy(const V12Options& options) : v12_(options) {}

  // Before each batch is made; when the policy is enabled, but no zone has the
  // reporter for its observer yet.
  std::function<void()> on_next_batch = [] {};
  std::function<void()> on_enabled = [] {};

  std::string_view name() const override { return "watched"; }
  Order min_order() const override { return v12_.min_order(); }
  size_t capacity() const override { return v12_.capacity(); }
  absl::Status Enable(const ReportingEnvironment& environment) override {
    absl::Status status = v12_.Enable(environment);
    on_enabled();
    return status;
  }
  void Disabling() override { v12_.Disabling(); }
  void Disable() override { v12_.Disable(); }
  bool BlockFreed(Zone& zone, Pfn pfn, Order order) override
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(zone.lock()) {
    return v12_.BlockFreed(zone, pfn, order);
  }
  void MemoryOnline(Zone& zone, PfnRange range) override {
    v12_.MemoryOnline(zone, range);
  }
  void MemoryOffline(Zone& zone, PfnRange range) override {
    v12_.MemoryOffline(zone, range);
  }
  bool NextBatch(Scatterlist& list) override {
    on_next_batch();
    return v12_.NextBatch(list);
  }
  void ReturnBatch(Scatterlist& list, bool acknowledged) override {
    v12_.ReturnBatch(list, acknowledged);
  }
  absl::Status CheckInvariants() const override {
    return v12_.CheckInvariants();
  }

 private:
  V12Policy v12_;
};

}  // namespace guestmm

#endif  // GUESTMM_TESTS_TESTING_WATCHED_POLICY_H_
