#ifndef GUESTMM_TESTS_EXPERIMENT_COMPARE_PLANTED_POLICIES_H_
#define GUESTMM_TESTS_EXPERIMENT_COMPARE_PLANTED_POLICIES_H_

// Policies with one known fault each, which a comparison must show, and the
// same policy without a fault.

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <set>
#include <string_view>
#include <utility>
#include <vector>

#include "guestmm/reporting/policies.h"
#include "guestmm/reporting/reporting_policy.h"

namespace guestmm {

enum class Fault {
  kNone,
  kForgets,  // never reports one block in ten, chosen by its pfn
  kRepeats,  // reports blocks again that are reported
};

// Scans all free blocks of order 9 and above once a second and reports those
// that are not marked as reported.
class SweepingPolicy final : public ReportingPolicy {
 public:
  explicit SweepingPolicy(Fault fault) : fault_(fault) {}

  std::string_view name() const override { return "sweeping"; }
  Order min_order() const override { return kPageblockOrder; }
  size_t capacity() const override { return 16; }
  absl::Status Enable(const ReportingEnvironment& environment) override {
    environment_.emplace(environment);
    return absl::OkStatus();
  }
  void Disable() override {}
  bool BlockFreed(Zone&, Pfn, Order) override { return false; }
  std::optional<Nanoseconds> NextPass() override {
    seen_.clear();
    return std::chrono::seconds(1);
  }
  bool NextBatch(Scatterlist& list) override {
    for (const std::unique_ptr<Zone>& zone : environment_->zones) {
      ZoneLockGuard hold(*zone, environment_->holds);
      for (const Pfn pfn : Wanted(*zone)) {
        if (list.full()) return true;
        seen_.insert(pfn);
        if (std::optional<IsolatedBlock> block = zone->Isolate(pfn)) {
          list.Add(*std::move(block));
        }
      }
    }
    return !list.empty();
  }
  void ReturnBatch(Scatterlist& list, bool) override {
    for (IsolatedBlock& block : list.TakeAll()) {
      Zone& zone = block.zone();
      const Pfn pfn = block.pfn();
      const Order order = block.order();
      ZoneLockGuard hold(zone, environment_->holds);
      if (zone.Return(std::move(block)) == order) zone.MarkReported(pfn);
    }
  }

 private:
  std::vector<Pfn> Wanted(const Zone& zone) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(zone.lock()) {
    std::vector<Pfn> wanted;
    for (int order = 9; order <= zone.max_order().value(); ++order) {
      for (int type = 0; type < kRequestTypes; ++type) {
        zone.ForEachFreeBlock(
            Order(order), static_cast<MigrateType>(type),
            [&](Pfn pfn)
                ABSL_NO_THREAD_SAFETY_ANALYSIS {  // runs with the lock held
                  const bool forgotten = fault_ == Fault::kForgets &&
                                         (pfn.value() >> order) % 10 == 0;
                  const bool done = fault_ == Fault::kRepeats
                                        ? seen_.contains(pfn)
                                        : zone.IsReported(pfn);
                  if (!forgotten && !done) wanted.push_back(pfn);
                });
      }
    }
    return wanted;
  }

  const Fault fault_;
  std::optional<ReportingEnvironment> environment_;
  std::set<Pfn> seen_;  // in this pass
};

// Reports every free block, of any order, as soon as it is freed.
class EagerPolicy final : public ReportingPolicy {
 public:
  std::string_view name() const override { return "eager"; }
  Order min_order() const override { return Order(0); }
  size_t capacity() const override { return 32; }
  absl::Status Enable(const ReportingEnvironment& environment) override {
    holds_ = environment.holds;
    return absl::OkStatus();
  }
  void Disable() override { freed_.clear(); }
  bool BlockFreed(Zone& zone, Pfn pfn, Order) override {
    freed_.emplace_back(&zone, pfn);
    return true;
  }
  bool NextBatch(Scatterlist& list) override {
    while (!list.full() && !freed_.empty()) {
      const auto [zone, pfn] = freed_.back();
      freed_.pop_back();
      ZoneLockGuard hold(*zone, holds_);
      if (!zone->FreeBlockAt(pfn)) continue;
      if (std::optional<IsolatedBlock> block = zone->Isolate(pfn)) {
        list.Add(*std::move(block));
      }
    }
    return !list.empty();
  }
  void ReturnBatch(Scatterlist& list, bool) override {
    for (IsolatedBlock& block : list.TakeAll()) {
      Zone& zone = block.zone();
      ZoneLockGuard hold(zone, holds_);
      zone.Return(std::move(block));
    }
  }

 private:
  LockHoldObserver* holds_ = nullptr;
  std::vector<std::pair<Zone*, Pfn>> freed_;
};

// The granule that the newest policy "observed" was made with.
inline std::optional<Order>& ObservedGranule() {
  static std::optional<Order> granule;
  return granule;
}

// Registers sweeping, forgetful, repeating, eager, and observed, which is
// sweeping that records its granule. Idempotent.
inline void RegisterPlantedPolicies() {
  static const bool registered = [] {
    const auto sweeping = [](Fault fault) {
      return [fault](const PolicyParameters&)
                 -> absl::StatusOr<std::unique_ptr<ReportingPolicy>> {
        return std::make_unique<SweepingPolicy>(fault);
      };
    };
    RegisterPolicy("sweeping", sweeping(Fault::kNone));
    RegisterPolicy("forgetful", sweeping(Fault::kForgets));
    RegisterPolicy("repeating", sweeping(Fault::kRepeats));
    RegisterPolicy("eager",
                   [](const PolicyParameters&)
                       -> absl::StatusOr<std::unique_ptr<ReportingPolicy>> {
                     return std::make_unique<EagerPolicy>();
                   });
    RegisterPolicy("observed",
                   [](const PolicyParameters& parameters)
                       -> absl::StatusOr<std::unique_ptr<ReportingPolicy>> {
                     ObservedGranule() = parameters.granule;
                     return std::make_unique<SweepingPolicy>(Fault::kNone);
                   });
    return true;
  }();
  static_cast<void>(registered);
}

}  // namespace guestmm

#endif  // GUESTMM_TESTS_EXPERIMENT_COMPARE_PLANTED_POLICIES_H_
