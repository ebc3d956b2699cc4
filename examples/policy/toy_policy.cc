// The command guestmm with one more policy, "toy", which reports each block of
// 2 MiB a second after it was freed. docs/write-a-policy.md explains it.
//   toy_policy compare --policies off,toy,linux --workloads burst

#include <chrono>
#include <deque>
#include <map>

#include "guestmm/commands/guestmm_main.h"
#include "guestmm/reporting/policies.h"

using namespace guestmm;

class ToyPolicy final : public ReportingPolicy {
 public:
  std::string_view name() const override { return "toy"; }
  Order min_order() const override { return kPageblockOrder; }
  size_t capacity() const override { return 32; }
  Nanoseconds delay() const override { return std::chrono::seconds(1); }

  absl::Status Enable(const ReportingEnvironment& environment) override {
    zones_ = environment.zones;
    for (ReportableZone& zone : zones_) freed_[&zone];
    return absl::OkStatus();
  }
  void Disable() override { freed_.clear(); }
  bool BlockFreed(ReportableZone& zone, Pfn pfn, Order) override {
    freed_.at(&zone).push_back(pfn);
    return true;  // requests a pass
  }
  bool NextBatch(Scatterlist& list) override {
    for (auto& [zone, freed] : freed_) {
      ZoneLockGuard hold(*zone);
      for (; !freed.empty() && !list.full(); freed.pop_front()) {
        // It may be in use again, or part of a larger block.
        if (!zone->FreeBlockAt(freed.front())) continue;
        if (auto block = zone->Isolate(freed.front())) {
          list.Add(*std::move(block));
        }
      }
      if (!list.empty()) return true;
    }
    return false;
  }
  void ReturnBatch(Scatterlist& list, bool /*acknowledged*/) override {
    ReportableZone& zone = ZoneOf(zones_, list.blocks().front());
    ZoneLockGuard hold(zone);
    for (auto& block : list.TakeAll()) zone.Return(std::move(block));
  }

 private:
  std::span<ReportableZone> zones_;
  std::map<ReportableZone*, std::deque<Pfn>>
      freed_;  // each under its zone's lock
};

int main(int argc, char** argv) {
  RegisterPolicy("toy", [](auto&) { return std::make_unique<ToyPolicy>(); });
  return tools::GuestmmMain(argc, argv);
}
