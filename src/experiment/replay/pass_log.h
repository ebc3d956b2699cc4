#ifndef GUESTMM_SRC_EXPERIMENT_REPLAY_PASS_LOG_H_
#define GUESTMM_SRC_EXPERIMENT_REPLAY_PASS_LOG_H_

#include <memory>
#include <utility>
#include <vector>

#include "guestmm/base/clock.h"
#include "guestmm/experiment/replay/replay.h"
#include "guestmm/reporting/reporting_policy.h"
#include "src/reporting/forwarding_policy.h"

namespace guestmm {

// Forwards to a policy and logs the reporter's passes. On one thread.
class PassLog final : public ForwardingPolicy {
 public:
  // `clock`, which the passes' times are by, and `passes` must outlive this.
  PassLog(std::unique_ptr<ReportingPolicy> policy, const Clock& clock,
          std::vector<ReplayPass>& passes)
      : ForwardingPolicy(std::move(policy)), clock_(clock), passes_(passes) {}

  void Disable() override {
    ForwardingPolicy::Disable();
    in_pass_ = false;
  }
  bool NextBatch(Scatterlist& list) override {
    const Nanoseconds now = clock_.Now();
    if (!in_pass_) passes_.push_back({.start = now});
    passes_.back().end = now;
    in_pass_ = ForwardingPolicy::NextBatch(list);
    return in_pass_;
  }
  void ReturnBatch(Scatterlist& list, bool acknowledged) override {
    ReplayPass& pass = passes_.back();
    pass.end = clock_.Now();
    if (acknowledged) {
      pass.reports += list.ranges().size();
      for (const GpaRange& range : list.ranges()) pass.bytes += range.bytes;
    }
    ForwardingPolicy::ReturnBatch(list, acknowledged);
  }

 private:
  const Clock& clock_;
  std::vector<ReplayPass>& passes_;
  // False once NextBatch has returned false.
  bool in_pass_ = false;
};

}  // namespace guestmm

#endif  // GUESTMM_SRC_EXPERIMENT_REPLAY_PASS_LOG_H_
