#include "guestmm/workload/interleaved_workload.h"

#include <algorithm>
#include <chrono>
#include <utility>

namespace guestmm {
namespace {

constexpr std::chrono::microseconds kPageTime(1);

}  // namespace

InterleavedWorkload::InterleavedWorkload(
    std::vector<std::unique_ptr<Workload>> workloads) {
  for (std::unique_ptr<Workload>& workload : workloads) {
    members_.push_back({std::move(workload), now_});
  }
}

std::optional<Nanoseconds> InterleavedWorkload::Step(Vcpu& vcpu) {
  Member* const member = Next();
  if (member == nullptr) return std::nullopt;
  now_ = std::max(now_, *member->due);
  const uint64_t work_before = member->workload->work();
  const std::optional<Nanoseconds> quiet = member->workload->Step(vcpu);
  const uint64_t touched = member->workload->work() - work_before;
  now_ += kPageTime * std::max<uint64_t>(touched, 1);
  if (vcpu.blocked()) return Nanoseconds(0);
  member->due.reset();
  if (quiet) member->due = now_ + *quiet;
  const Member* const next = Next();
  if (next == nullptr) return std::nullopt;
  return std::max(*next->due - now_, Nanoseconds(0));
}

InterleavedWorkload::Member* InterleavedWorkload::Next() {
  Member* next = nullptr;
  for (Member& member : members_) {
    if (!member.due) continue;
    if (next == nullptr || *member.due < *next->due) next = &member;
  }
  return next;
}

uint64_t InterleavedWorkload::work() const {
  uint64_t sum = 0;
  for (const Member& member : members_) sum += member.workload->work();
  return sum;
}

}  // namespace guestmm
