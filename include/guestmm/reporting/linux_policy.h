#ifndef GUESTMM_REPORTING_LINUX_POLICY_H_
#define GUESTMM_REPORTING_LINUX_POLICY_H_

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "guestmm/base/clock.h"
#include "guestmm/base/fields.h"
#include "guestmm/base/units.h"
#include "guestmm/buddy/zone.h"
#include "guestmm/reporting/reporting_policy.h"

namespace guestmm {

struct LinuxOptions {
  // page_reporting_order: the smallest block that is reported.
  Order order = kPageblockOrder;
  // PAGE_REPORTING_DELAY: from a request to its pass.
  Nanoseconds delay = std::chrono::seconds(2);
  // PAGE_REPORTING_CAPACITY: blocks in one report.
  size_t capacity = 32;
};

// order, capacity, delay.
const Fields<LinuxOptions>& LinuxFields();

// The policy that Linux merged in 5.7 (mm/page_reporting.c), with the order as
// an option as since 5.14. docs/policies.md tells what it costs and misses.
//
// It remembers no block: a free block that the host was told of is marked on
// its free list (PageReported), and loses the mark as soon as it is taken,
// split or merged. A freed block of at least `order` asks for a pass, `delay`
// later, which walks the free lists of each zone and reports what is not
// marked: of each list about a sixteenth, and the rest in further passes.
class LinuxPolicy final : public ReportingPolicy {
 public:
  // `resumed`: it was at work before; unset: Enable asks for a first pass.
  // REQUIRES: LinuxFields().Check(options) (CHECKed).
  explicit LinuxPolicy(const LinuxOptions& options,
                       std::optional<ResumedReporting> resumed = {});

  std::string_view name() const override { return "linux"; }
  std::vector<std::pair<std::string_view, uint64_t>> parameters()
      const override;
  Order min_order() const override { return options_.order; }
  size_t capacity() const override { return options_.capacity; }

  // Asks for a first pass, which reports all that is free already and not
  // marked from an earlier time (page_reporting_register), unless resumed.
  absl::Status Enable(const ReportingEnvironment& environment) override;
  // The marks stay on the free lists (page_reporting_unregister).
  void Disable() override;
  bool BlockFreed(Zone& zone, Pfn pfn, Order order) override
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(zone.lock());
  Nanoseconds delay() const override { return options_.delay; }
  // `delay` if a request came during the last pass or the pass left work over.
  std::optional<Nanoseconds> NextPass() override;
  bool NextBatch(Scatterlist& list) override;
  // A report that was not acknowledged ends the pass.
  void ReturnBatch(Scatterlist& list, bool acknowledged) override;

 private:
  // PAGE_REPORTING_IDLE, _REQUESTED, _ACTIVE.
  enum class State { kIdle, kRequested, kActive };

  // Where a pass stands: at a list of a zone.
  struct Pass {
    size_t zone = 0;
    // None before the zone's watermark was looked at.
    std::optional<Order> order = {};
    int type = 0;
    // How many more times the list may be reported from once it has filled a
    // report; none before the list was looked at. Below zero: no more.
    std::optional<int64_t> budget = {};
  };
  using Blocks = std::vector<IsolatedBlock>;

  // Take blocks of a zone, and of the list where the pass stands. True: `taken`
  // is full, and there is more to take. False: there is not.
  bool TakeFromZone(Zone& zone, Blocks& taken);
  bool TakeFromList(Zone& zone, Blocks& taken);

  const LinuxOptions options_;
  const std::optional<ResumedReporting> resumed_;
  std::span<const std::unique_ptr<Zone>> zones_;
  LockHoldObserver* holds_ = nullptr;
  std::atomic<State> state_{State::kIdle};
  // Of the first pass; unset from then on.
  std::optional<Nanoseconds> first_delay_;
  bool in_pass_ = false;
  Pass pass_;
};

}  // namespace guestmm

#endif  // GUESTMM_REPORTING_LINUX_POLICY_H_
