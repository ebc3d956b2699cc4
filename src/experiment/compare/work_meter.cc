#include "src/experiment/compare/work_meter.h"

#include <algorithm>
#include <utility>

namespace guestmm {

MeteredWorkload::MeteredWorkload(Workload& workload, Now now,
                                 std::optional<WorkAmount::Part> part)
    : workload_(workload),
      now_(std::move(now)),
      part_(part),
      work_(workload.work()),
      worked_at_(now_()) {
  LockHolder hold(mutex_);
  Reach();
}

std::optional<Nanoseconds> MeteredWorkload::Step(Vcpu& vcpu) {
  const Nanoseconds began = now_();
  {
    LockHolder hold(mutex_);
    if (end_ && began >= end_->when) return std::nullopt;
  }
  const std::optional<Nanoseconds> quiet = workload_.Step(vcpu);
  LockHolder hold(mutex_);
  if (const uint64_t work = workload_.work(); work != work_) {
    work_ = work;
    worked_at_ = began;
    Reach();
  }
  // A workload that ends by itself has no more to do.
  if (!quiet && !vcpu.blocked() && part_ && !end_) end_ = Here();
  return quiet;
}

uint64_t MeteredWorkload::work() const {
  LockHolder hold(mutex_);
  return work_;
}

void MeteredWorkload::MarkWarmup() {
  LockHolder hold(mutex_);
  warmup_ = Here();
}

void MeteredWorkload::MarkEnd() {
  LockHolder hold(mutex_);
  if (!end_) end_ = Here();
}

std::optional<Nanoseconds> MeteredWorkload::end() const {
  LockHolder hold(mutex_);
  if (!end_) return std::nullopt;
  return end_->when;
}

WorkAmount::Part MeteredWorkload::part() const {
  LockHolder hold(mutex_);
  return {.warmup = warmup_.value_or(Mark{}).at,
          .end = end_.value_or(Mark{}).at};
}

uint64_t MeteredWorkload::measured_work() const {
  LockHolder hold(mutex_);
  return warmup_ ? end_.value_or(Here()).at.work - warmup_->at.work : 0;
}

Nanoseconds MeteredWorkload::measured_time() const {
  LockHolder hold(mutex_);
  return warmup_ ? end_.value_or(Here()).when - warmup_->when : Nanoseconds(0);
}

MeteredWorkload::Mark MeteredWorkload::Here() const {
  const Nanoseconds now = now_();
  return {.at = {.work = work_, .since = now - worked_at_}, .when = now};
}

void MeteredWorkload::Reach() {
  if (!part_) return;
  const auto reach = [work = work_, worked_at = worked_at_](
                         const WorkMark& goal, std::optional<Mark>& mark) {
    if (mark || work < goal.work) return;
    mark = {.at = {.work = work, .since = goal.since},
            .when = worked_at + goal.since};
  };
  reach(part_->warmup, warmup_);
  reach(part_->end, end_);
}

WorkMeter::WorkMeter(const GuestLoad& load, const MeteredWorkload::Now& now,
                     const WorkAmount* amount) {
  for (const std::unique_ptr<Workload>& workload : load.by_vcpu) {
    const size_t i = by_vcpu_.size();
    by_vcpu_.push_back(nullptr);
    if (workload == nullptr) continue;
    by_vcpu_.back() = std::make_unique<MeteredWorkload>(
        *workload, now,
        amount != nullptr ? std::optional(amount->by_vcpu[i]) : std::nullopt);
  }
}

std::vector<Workload*> WorkMeter::workloads() const {
  std::vector<Workload*> workloads;
  for (const auto& workload : by_vcpu_) workloads.push_back(workload.get());
  return workloads;
}

void WorkMeter::MarkWarmup() {
  for (const auto& workload : by_vcpu_) {
    if (workload != nullptr) workload->MarkWarmup();
  }
}

void WorkMeter::MarkEnd() {
  for (const auto& workload : by_vcpu_) {
    if (workload != nullptr) workload->MarkEnd();
  }
}

std::optional<Nanoseconds> WorkMeter::end() const {
  Nanoseconds end{0};
  for (const auto& workload : by_vcpu_) {
    if (workload == nullptr) continue;
    const std::optional<Nanoseconds> its = workload->end();
    if (!its) return std::nullopt;
    end = std::max(end, *its);
  }
  return end;
}

WorkAmount WorkMeter::amount() const {
  WorkAmount amount;
  for (const auto& workload : by_vcpu_) {
    amount.by_vcpu.push_back(workload != nullptr ? workload->part()
                                                 : WorkAmount::Part{});
  }
  return amount;
}

uint64_t WorkMeter::work() const {
  uint64_t work = 0;
  for (const auto& workload : by_vcpu_) {
    if (workload != nullptr) work += workload->measured_work();
  }
  return work;
}

double WorkMeter::seconds() const {
  double sum = 0;
  size_t count = 0;
  for (const auto& workload : by_vcpu_) {
    if (workload == nullptr) continue;
    sum += ToSeconds(workload->measured_time());
    ++count;
  }
  return count > 0 ? sum / static_cast<double>(count) : 0;
}

}  // namespace guestmm
