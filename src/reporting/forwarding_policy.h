#ifndef GUESTMM_SRC_REPORTING_FORWARDING_POLICY_H_
#define GUESTMM_SRC_REPORTING_FORWARDING_POLICY_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "guestmm/reporting/reporting_policy.h"

namespace guestmm {

// A decorator that forwards every call to `policy`. Subclasses override some.
class ForwardingPolicy : public ReportingPolicy {
 public:
  explicit ForwardingPolicy(std::unique_ptr<ReportingPolicy> policy)
      : policy_(std::move(policy)) {}

  std::string_view name() const override { return policy_->name(); }
  std::vector<std::pair<std::string_view, uint64_t>> parameters()
      const override {
    return policy_->parameters();
  }
  Order min_order() const override { return policy_->min_order(); }
  size_t capacity() const override { return policy_->capacity(); }
  size_t reports() const override { return policy_->reports(); }
  TakenBlocks taken_blocks() const override { return policy_->taken_blocks(); }
  absl::Status Enable(const ReportingEnvironment& environment) override {
    return policy_->Enable(environment);
  }
  void Disabling() override { policy_->Disabling(); }
  void Disable() override { policy_->Disable(); }
  bool BlockFreed(ReportableZone& zone, Pfn pfn, Order order) override
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(zone.lock()) {
    return policy_->BlockFreed(zone, pfn, order);
  }
  void BlocksTaken(ReportableZone& zone, std::span<const PfnRange> runs,
                   Order order) override
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(zone.lock()) {
    policy_->BlocksTaken(zone, runs, order);
  }
  void MemoryOnline(ReportableZone& zone, PfnRange range) override {
    policy_->MemoryOnline(zone, range);
  }
  void MemoryOffline(ReportableZone& zone, PfnRange range) override {
    policy_->MemoryOffline(zone, range);
  }
  Nanoseconds delay() const override { return policy_->delay(); }
  std::optional<Nanoseconds> NextPass() override { return policy_->NextPass(); }
  bool NextBatch(Scatterlist& list) override {
    return policy_->NextBatch(list);
  }
  void ReturnBatch(Scatterlist& list, bool acknowledged) override {
    policy_->ReturnBatch(list, acknowledged);
  }
  absl::Status CheckInvariants() const override {
    return policy_->CheckInvariants();
  }

 private:
  const std::unique_ptr<ReportingPolicy> policy_;
};

}  // namespace guestmm

#endif  // GUESTMM_SRC_REPORTING_FORWARDING_POLICY_H_
