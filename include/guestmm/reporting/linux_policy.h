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
#include "guestmm/base/export.h"
#include "guestmm/base/fields.h"
#include "guestmm/base/units.h"
#include "guestmm/buddy/zone.h"
#include "guestmm/reporting/reporting_policy.h"

namespace GUESTMM_EXPORT guestmm {

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
// an option, as since 5.14. docs/policies.md lists its costs and losses.
//
// It keeps no state for blocks: a reported free block is marked on its free
// list (PageReported), and loses the mark when it is taken, split or merged. A
// freed block of at least `order` requests a pass. The pass starts `delay`
// later, walks the free lists of each zone and reports unmarked blocks: about
// 1/16 of each list, and the rest in further passes.
class LinuxPolicy final : public ReportingPolicy {
 public:
  // `resumed` is the state it starts in; unset: Enable requests a first pass.
  // REQUIRES: LinuxFields().Check(options) (CHECKed).
  explicit LinuxPolicy(const LinuxOptions& options,
                       std::optional<ResumedReporting> resumed = {});

  std::string_view name() const override { return "linux"; }
  std::vector<std::pair<std::string_view, uint64_t>> parameters()
      const override;
  Order min_order() const override { return options_.order; }
  size_t capacity() const override { return options_.capacity; }

  // Requests a first pass, which reports blocks that are free already and not
  // marked from an earlier time (page_reporting_register), unless resumed.
  absl::Status Enable(const ReportingEnvironment& environment) override;
  // The marks stay on the free lists (page_reporting_unregister).
  void Disable() override;
  bool BlockFreed(ReportableZone& zone, Pfn pfn, Order order) override
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

  // The position of a pass: a zone and one of its lists.
  struct Pass {
    size_t zone = 0;
    // Unset until the zone's watermark is checked.
    std::optional<Order> order = {};
    int type = 0;
    // The number of further reports that the list may fill; unset until the
    // list is looked at. Below zero, it may fill no more.
    std::optional<int64_t> budget = {};
  };
  using Blocks = std::vector<IsolatedBlock>;

  // Isolate blocks of a zone, and of the list that the pass is at, into
  // `taken`. Return true if `taken` is full and there is more to take.
  bool TakeFromZone(ReportableZone& zone, Blocks& taken);
  bool TakeFromList(ReportableZone& zone, Blocks& taken);

  const LinuxOptions options_;
  const std::optional<ResumedReporting> resumed_;
  std::span<ReportableZone> zones_;
  std::atomic<State> state_{State::kIdle};
  // From Enable until the first pass; unset once that is scheduled.
  std::optional<Nanoseconds> first_delay_;
  bool in_pass_ = false;
  Pass pass_;
};

}  // namespace guestmm

#endif  // GUESTMM_REPORTING_LINUX_POLICY_H_
