#include "guestmm/reporting/linux_policy.h"

#include <utility>

#include "guestmm/base/check.h"

namespace guestmm {
namespace {

// A pass takes 1/kPassesForAList of a list.
constexpr uint64_t kPassesForAList = 16;

}  // namespace

const Fields<LinuxOptions>& LinuxFields() {
  static const Fields<LinuxOptions> fields = {
      {"order", &LinuxOptions::order, FieldKind::Orders(),
       "Smallest block that is reported"},
      {"capacity", &LinuxOptions::capacity,
       FieldKind::Count(1, kMaxReportCapacity), "Most blocks in one report"},
      {"delay", &LinuxOptions::delay,
       FieldKind::Seconds(Nanoseconds(0), kMaxReportDelay),
       "Seconds from a request to its pass"},
  };
  return fields;
}

LinuxPolicy::LinuxPolicy(const LinuxOptions& options,
                         std::optional<ResumedReporting> resumed)
    : options_(options), resumed_(resumed) {
  const absl::Status status = LinuxFields().Check(options);
  GUESTMM_CHECK(status.ok()) << status.message();
}

std::vector<std::pair<std::string_view, uint64_t>> LinuxPolicy::parameters()
    const {
  const auto delay =
      std::chrono::duration_cast<std::chrono::milliseconds>(options_.delay);
  return {{"order", static_cast<uint64_t>(options_.order.value())},
          {"delay_ms", static_cast<uint64_t>(delay.count())},
          {"capacity", options_.capacity}};
}

absl::Status LinuxPolicy::Enable(const ReportingEnvironment& environment) {
  zones_ = environment.zones;
  first_delay_ = resumed_ ? resumed_->next_pass : options_.delay;
  state_ = first_delay_ ? State::kRequested : State::kIdle;
  return absl::OkStatus();
}

void LinuxPolicy::Disable() {
  zones_ = {};
  state_ = State::kIdle;
  in_pass_ = false;
}

// The caller that finds the state idle gets a pass scheduled. NextPass finds a
// request that is made during a pass. While one is outstanding, a free only
// reads.
bool LinuxPolicy::BlockFreed(ReportableZone&, Pfn, Order) {
  return state_.load() != State::kRequested &&
         state_.exchange(State::kRequested) == State::kIdle;
}

std::optional<Nanoseconds> LinuxPolicy::NextPass() {
  if (state_ != State::kRequested) return std::nullopt;
  return std::exchange(first_delay_, std::nullopt).value_or(options_.delay);
}

// page_reporting_process.
bool LinuxPolicy::NextBatch(Scatterlist& list) {
  if (!in_pass_) {
    state_ = State::kActive;
    in_pass_ = true;
    pass_ = {};
  }
  while (pass_.zone < zones_.size()) {
    Blocks taken;
    taken.reserve(options_.capacity);
    if (!TakeFromZone(zones_[pass_.zone], taken)) {
      // The last, partial report is sent before the next zone is visited.
      pass_ = {.zone = pass_.zone + 1};
    }
    if (taken.empty()) continue;
    // The kernel fills its scatterlist from the end down.
    for (auto block = taken.rbegin(); block != taken.rend(); ++block) {
      list.Add(std::move(*block));
    }
    return true;
  }
  in_pass_ = false;
  // Unless a pass was requested meanwhile.
  State active = State::kActive;
  state_.compare_exchange_strong(active, State::kIdle);
  return false;
}

// page_reporting_process_zone.
bool LinuxPolicy::TakeFromZone(ReportableZone& zone, Blocks& taken) {
  if (!pass_.order) {
    const PageCount one_report = options_.order.pages() * options_.capacity;
    if (!zone.WatermarkOk(Order(0), zone.watermarks().low + one_report)) {
      return false;
    }
    pass_.order = options_.order;
  }
  std::optional<Order>& order = pass_.order;
  for (; *order <= zone.max_order(); order = Order(order->value() + 1)) {
    for (; pass_.type < kMigrateTypes; ++pass_.type) {
      if (pass_.type == static_cast<int>(MigrateType::kIsolate)) continue;
      if (TakeFromList(zone, taken)) return true;
    }
    pass_.type = 0;
  }
  return false;
}

// page_reporting_cycle, up to a report, and again after it is done. The kernel
// does both in one hold of the lock; here they are two.
bool LinuxPolicy::TakeFromList(ReportableZone& zone, Blocks& taken) {
  const Order order = *pass_.order;
  const auto type = static_cast<MigrateType>(pass_.type);
  std::optional<int64_t>& budget = pass_.budget;
  if (!budget && !zone.HasFreeBlock(order, type)) return false;

  ZoneLockGuard hold(zone);
  if (!budget) {
    const uint64_t share = options_.capacity * kPassesForAList;
    budget =
        static_cast<int64_t>((zone.free_blocks(order) + share - 1) / share);
  }
  std::optional<Pfn> next;
  for (std::optional<Pfn> at = zone.FirstFreeBlock(order, type); at;
       at = next) {
    next = zone.NextFreeBlock(*at, order, type);
    if (zone.IsReported(*at)) continue;
    const bool spent = *budget < 0;
    if (!spent && taken.size() < options_.capacity) {
      if (std::optional<IsolatedBlock> block = zone.Isolate(*at)) {
        taken.push_back(*std::move(block));
        continue;
      }
    }
    // The next walk begins here, not with the blocks that were skipped.
    zone.RotateFreeList(order, type, *at);
    if (spent) {
      state_ = State::kRequested;
    } else if (taken.size() == options_.capacity) {
      --*budget;
      return true;
    }
    break;
  }
  budget.reset();
  return false;
}

// page_reporting_drain.
void LinuxPolicy::ReturnBatch(Scatterlist& list, bool acknowledged) {
  std::vector<IsolatedBlock> blocks = list.TakeAll();
  // The rest waits for the next free, which requests a pass.
  if (!acknowledged) pass_.zone = zones_.size();
  if (blocks.empty()) return;
  ReportableZone& zone = ZoneOf(zones_, blocks.front());
  ZoneLockGuard hold(zone);
  for (IsolatedBlock& block : blocks) {
    const Pfn pfn = block.pfn();
    const Order order = block.order();
    // If the block merged, the host has only a part of the result.
    if (zone.Return(std::move(block), ReturnTo::kTail) == order &&
        acknowledged) {
      zone.MarkReported(pfn);
    }
  }
}

}  // namespace guestmm
