#include "src/machine/model/model_device.h"

#include <optional>
#include <utility>

#include "absl/strings/str_format.h"
#include "guestmm/base/check.h"
#include "guestmm/reporting/policies.h"

namespace guestmm {

ModelDevice::ModelDevice(const ModelDeviceOptions& options,
                         Workqueue& workqueue, HostLedger& ledger)
    : costs_(options.costs),
      times_(options.times),
      locks_(options.locks),
      workqueue_(workqueue),
      ledger_(ledger),
      discard_([this](std::span<const GpaRange> ranges) {
        ledger_.OnReported(ranges, workqueue_.Now());
      }),
      end_([this] { End(); }) {}

size_t ModelDevice::max_report_entries() const { return kMaxReportCapacity; }

absl::Status ModelDevice::Report(std::span<const GpaRange> ranges,
                                 Client& client) {
  GUESTMM_CHECK(client_ == nullptr)
      << "a report came before the last one ended";
  client_ = &client;
  ranges_.assign(ranges.begin(), ranges.end());
  uint64_t took = costs_.report + costs_.kick;
  if (locks_ != nullptr) took += locks_->ReporterLag();
  if (times_ != nullptr) {
    times_->DelayAnyone(CostKind::kIsolation, costs_.report);
    times_->DelayAnyone(CostKind::kDiscard, costs_.kick);
  }
  ++kicks_;
  calls_ = 0;
  for (const PfnRange& run : JoinRanges(ranges)) {
    ++calls_;
    took += DiscardTime(run);
  }
  workqueue_.Queue(end_, Nanoseconds(took));
  return absl::OkStatus();
}

uint64_t ModelDevice::DiscardTime(PfnRange run) const {
  const HostMappings mapped = ledger_.MappedIn(run);
  const Order granule = ledger_.granule();
  const bool huge = granule == kPageblockOrder;
  return costs_.discard_call + mapped.pages * costs_.discard_4k +
         mapped.granules * (huge
                                ? costs_.discard_2m
                                : granule.pages().value() * costs_.discard_4k) +
         (huge ? ledger_.SplitBy(run) * costs_.split_2m : 0);
}

void ModelDevice::End() {
  if (const std::optional<Pfn> lost = ledger_.FirstInUse(ranges_);
      lost && status_.ok()) {
    status_ = absl::DataLossError(absl::StrFormat(
        "page 0x%x was in use when the host discarded it", lost->value()));
  }
  discard_(ranges_);
  ++scatterlists_;
  discard_calls_ += calls_;
  if (logging_) {
    for (const GpaRange& range : ranges_) {
      log_.push_back({.time = workqueue_.Now(), .range = range});
    }
  }
  on_discard_(ranges_);
  if (times_ != nullptr) {
    times_->DelayRunning(CostKind::kDiscard,
                         calls_ * costs_.discard_interruption);
    times_->DelayAnyone(CostKind::kDiscard, costs_.interrupt);
  }
  std::exchange(client_, nullptr)->ReportDone(absl::OkStatus());
}

}  // namespace guestmm
