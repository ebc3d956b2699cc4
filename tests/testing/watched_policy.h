#ifndef GUESTMM_TESTS_TESTING_WATCHED_POLICY_H_
#define GUESTMM_TESTS_TESTING_WATCHED_POLICY_H_

#include <functional>
#include <memory>

#include "guestmm/reporting/reporting_policy.h"
#include "guestmm/reporting/v12_policy.h"
#include "src/reporting/forwarding_policy.h"

namespace guestmm {

// v12 with hooks for a test.
class WatchedPolicy final : public ForwardingPolicy {
 public:
  explicit WatchedPolicy(const V12Options& options)
      : ForwardingPolicy(std::make_unique<V12Policy>(options)) {}

  // Called before each batch is made.
  std::function<void()> on_next_batch = [] {};
  // Called when the policy is enabled and the reporter does not observe the
  // zones yet.
  std::function<void()> on_enabled = [] {};

  absl::Status Enable(const ReportingEnvironment& environment) override {
    absl::Status status = ForwardingPolicy::Enable(environment);
    on_enabled();
    return status;
  }
  bool NextBatch(Scatterlist& list) override {
    on_next_batch();
    return ForwardingPolicy::NextBatch(list);
  }
};

}  // namespace guestmm

#endif  // GUESTMM_TESTS_TESTING_WATCHED_POLICY_H_
