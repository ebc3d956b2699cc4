#include "guestmm/workload/sandbox_workload.h"

#include <algorithm>
#include <chrono>

#include "src/workload/draws.h"

namespace guestmm {
namespace {

constexpr uint64_t kMapped = AddressSpace::kMostMixed;
// At its peak a burst maps 200 MiB per second.
constexpr std::chrono::milliseconds kChurnPause(10);

}  // namespace

SandboxWorkload::SandboxWorkload(const SandboxOptions& options, uint64_t seed)
    : options_(options),
      random_(seed),
      steady_(seed),
      burst_(seed),
      files_(seed),
      idle_(random_.Next()) {}

std::optional<Nanoseconds> SandboxWorkload::Step(Vcpu& vcpu) {
  switch (phase_) {
    case Phase::kStart:
      return Start(vcpu);
    case Phase::kGrow:
      return Grow(vcpu);
    case Phase::kChurn:
      return Churn(vcpu);
    case Phase::kFree:
      return Free(vcpu);
    case Phase::kIdle:
      return Idle(vcpu);
  }
  return std::nullopt;
}

uint64_t SandboxWorkload::work() const {
  return (steady_.touched() + burst_.touched() + files_.touched()).value();
}

Nanoseconds SandboxWorkload::Start(Vcpu& vcpu) {
  const uint64_t target = ShareOf(options_.bytes, options_.steady_share);
  const uint64_t bytes = std::min(kMapped, target - steady_.bytes());
  const bool all = steady_.MapMixed(vcpu, random_, bytes);
  if (vcpu.blocked()) return Nanoseconds(0);
  if (!all || steady_.bytes() >= target) StartBurst();
  return Nanoseconds(0);
}

void SandboxWorkload::StartBurst() {
  phase_ = Phase::kGrow;
  const double spread = options_.burst_spread * (2 * DrawShare(random_) - 1);
  target_bytes_ =
      std::max(ShareOf(options_.bytes,
                       std::clamp(options_.burst_share + spread, 0.0, 1.0)),
               allocated_bytes());
  const uint64_t steps = (target_bytes_ - allocated_bytes()) / kMapped + 1;
  grow_pause_ = options_.grow_time / steps;
}

Nanoseconds SandboxWorkload::Grow(Vcpu& vcpu) {
  // Files that were read in a step that was blocked may exceed the target.
  const uint64_t held = std::min(allocated_bytes(), target_bytes_);
  const uint64_t bytes = std::min(kMapped, target_bytes_ - held);
  const uint64_t before = burst_.bytes();
  const bool all = burst_.MapMixed(vcpu, random_, bytes);
  ReadFiles(vcpu, vcpu.blocked() ? burst_.bytes() - before : bytes);
  if (vcpu.blocked()) return grow_pause_;
  if (!all || allocated_bytes() >= target_bytes_) {
    phase_ = Phase::kChurn;
    phase_left_ =
        DrawTime(random_, options_.min_churn_time, options_.max_churn_time);
  }
  return grow_pause_;
}

void SandboxWorkload::ReadFiles(Vcpu& vcpu, uint64_t mapped_bytes) {
  const uint64_t most = ShareOf(options_.bytes, options_.max_file_share);
  files_due_ +=
      static_cast<double>(mapped_bytes) * options_.files_of_burst / kPageSize;
  while (files_due_ >= 1 && !vcpu.blocked()) {
    if (files_.bytes() < most) files_.Take(vcpu, Order(0));
    if (!vcpu.blocked()) --files_due_;
  }
}

Nanoseconds SandboxWorkload::Churn(Vcpu& vcpu) {
  burst_.Unmap(vcpu, random_.Below(burst_.mappings().size()));
  const uint64_t held = std::min(allocated_bytes(), target_bytes_);
  burst_.MapMixed(vcpu, random_, std::min(kMapped, target_bytes_ - held));
  if (vcpu.blocked()) return kChurnPause;
  phase_left_ -= kChurnPause;
  if (phase_left_ <= Nanoseconds(0)) phase_ = Phase::kFree;
  return kChurnPause;
}

Nanoseconds SandboxWorkload::Free(Vcpu& vcpu) {
  burst_.UnmapNewest(vcpu);
  if (burst_.empty()) {
    phase_ = Phase::kIdle;
    phase_left_ =
        DrawTime(random_, options_.min_idle_time, options_.max_idle_time);
  }
  return Nanoseconds(0);
}

Nanoseconds SandboxWorkload::Idle(Vcpu& vcpu) {
  const Nanoseconds quiet = idle_.Step(vcpu).value();
  if (vcpu.blocked()) return quiet;
  phase_left_ -= quiet;
  if (phase_left_ <= Nanoseconds(0)) StartBurst();
  return quiet;
}

}  // namespace guestmm
