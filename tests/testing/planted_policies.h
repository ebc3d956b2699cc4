#ifndef GUESTMM_TESTS_TESTING_PLANTED_POLICIES_H_
#define GUESTMM_TESTS_TESTING_PLANTED_POLICIES_H_

// Policies with one known fault each, which an experiment must show, and one
// without a fault.

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <set>
#include <span>
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

// What the policies below have in common.
class PlantedPolicy : public ReportingPolicy {
 public:
  absl::Status Enable(const ReportingEnvironment& environment) override {
    zones_ = environment.zones;
    return absl::OkStatus();
  }
  void Disable() override {}
  // Marks nothing as reported.
  void ReturnBatch(Scatterlist& list, bool) override {
    for (IsolatedBlock& block : list.TakeAll()) {
      ReportableZone& zone = ZoneOf(zones_, block);
      ZoneLockGuard hold(zone);
      zone.Return(std::move(block));
    }
  }

 protected:
  std::span<ReportableZone> zones_;
};

// Scans all free blocks of order 9 and above once a second and reports those
// that are not marked as reported.
class SweepingPolicy final : public PlantedPolicy {
 public:
  explicit SweepingPolicy(Fault fault) : fault_(fault) {}

  std::string_view name() const override { return "sweeping"; }
  Order min_order() const override { return kPageblockOrder; }
  size_t capacity() const override { return 16; }
  bool BlockFreed(ReportableZone&, Pfn, Order) override { return false; }
  std::optional<Nanoseconds> NextPass() override {
    seen_.clear();
    return std::chrono::seconds(1);
  }
  bool NextBatch(Scatterlist& list) override {
    for (ReportableZone& zone : zones_) {
      ZoneLockGuard hold(zone);
      for (const Pfn pfn : Wanted(zone)) {
        if (list.full()) return true;
        seen_.insert(pfn);
        if (std::optional<IsolatedBlock> block = zone.Isolate(pfn)) {
          list.Add(*std::move(block));
        }
      }
    }
    return !list.empty();
  }
  void ReturnBatch(Scatterlist& list, bool) override {
    for (IsolatedBlock& block : list.TakeAll()) {
      ReportableZone& zone = ZoneOf(zones_, block);
      const Pfn pfn = block.pfn();
      const Order order = block.order();
      ZoneLockGuard hold(zone);
      if (zone.Return(std::move(block)) == order) zone.MarkReported(pfn);
    }
  }

 private:
  std::vector<Pfn> Wanted(const ReportableZone& zone) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(zone.lock()) {
    std::vector<Pfn> wanted;
    for (int order = 9; order <= zone.max_order().value(); ++order) {
      for (int type = 0; type < kRequestTypes; ++type) {
        const auto list = static_cast<MigrateType>(type);
        for (std::optional<Pfn> pfn = zone.FirstFreeBlock(Order(order), list);
             pfn; pfn = zone.NextFreeBlock(*pfn, Order(order), list)) {
          const bool forgotten =
              fault_ == Fault::kForgets && (pfn->value() >> order) % 10 == 0;
          const bool done = fault_ == Fault::kRepeats ? seen_.contains(*pfn)
                                                      : zone.IsReported(*pfn);
          if (!forgotten && !done) wanted.push_back(*pfn);
        }
      }
    }
    return wanted;
  }

  const Fault fault_;
  std::set<Pfn> seen_;  // in this pass
};

// Reports every free block, of any order, as soon as it is freed.
class EagerPolicy final : public PlantedPolicy {
 public:
  std::string_view name() const override { return "eager"; }
  Order min_order() const override { return Order(0); }
  size_t capacity() const override { return 32; }
  void Disable() override { freed_.clear(); }
  bool BlockFreed(ReportableZone& zone, Pfn pfn, Order) override {
    freed_.emplace_back(&zone, pfn);
    return true;
  }
  bool NextBatch(Scatterlist& list) override {
    while (!list.full() && !freed_.empty()) {
      const auto [zone, pfn] = freed_.back();
      freed_.pop_back();
      ZoneLockGuard hold(*zone);
      if (!zone->FreeBlockAt(pfn)) continue;
      if (std::optional<IsolatedBlock> block = zone->Isolate(pfn)) {
        list.Add(*std::move(block));
      }
    }
    return !list.empty();
  }

 private:
  std::vector<std::pair<ReportableZone*, Pfn>> freed_;
};

// Takes a block back from its report as soon as another is freed, before the
// report has ended.
class HastyPolicy final : public PlantedPolicy {
 public:
  std::string_view name() const override { return "hasty"; }
  Order min_order() const override { return kPageblockOrder; }
  size_t capacity() const override { return 1; }
  bool BlockFreed(ReportableZone& zone, Pfn pfn, Order) override
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(zone.lock()) {
    if (in_flight_ == nullptr) {
      freed_ = {&zone, pfn};
      return true;
    }
    for (IsolatedBlock& block : in_flight_->TakeAll()) {
      zone.Return(std::move(block));
    }
    return false;
  }
  bool NextBatch(Scatterlist& list) override {
    if (freed_.first == nullptr) return false;
    ReportableZone& zone = *std::exchange(freed_.first, nullptr);
    ZoneLockGuard hold(zone);
    if (std::optional<IsolatedBlock> block = zone.Isolate(freed_.second)) {
      list.Add(*std::move(block));
      in_flight_ = &list;
    }
    return !list.empty();
  }
  void ReturnBatch(Scatterlist& list, bool acknowledged) override {
    in_flight_ = nullptr;
    PlantedPolicy::ReturnBatch(list, acknowledged);
  }

 private:
  std::pair<ReportableZone*, Pfn> freed_ = {};
  Scatterlist* in_flight_ = nullptr;
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
      return [fault](auto&) { return std::make_unique<SweepingPolicy>(fault); };
    };
    RegisterPolicy("sweeping", sweeping(Fault::kNone));
    RegisterPolicy("forgetful", sweeping(Fault::kForgets));
    RegisterPolicy("repeating", sweeping(Fault::kRepeats));
    RegisterPolicy("eager",
                   [](auto&) { return std::make_unique<EagerPolicy>(); });
    RegisterPolicy("observed", [](const PolicyContext& context) {
      ObservedGranule() = context.granule;
      return std::make_unique<SweepingPolicy>(Fault::kNone);
    });
    return true;
  }();
  static_cast<void>(registered);
}

// Registers hasty, which loses the contents of memory.
inline void RegisterHastyPolicy() {
  RegisterPolicy("hasty",
                 [](auto&) { return std::make_unique<HastyPolicy>(); });
}

}  // namespace guestmm

#endif  // GUESTMM_TESTS_TESTING_PLANTED_POLICIES_H_
