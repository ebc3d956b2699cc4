#include "guestmm/workload/build_workload.h"

#include <algorithm>
#include <cmath>

#include "src/workload/draws.h"

namespace guestmm {
namespace {

constexpr PageCount kGrowth(64);  // 256 KiB
constexpr uint64_t kProcessMapping = kPageblockOrder.bytes();
constexpr size_t kPhasesOfKernelMemory = 3;
// Blocks of kernel memory freed in one step.
constexpr int kFreedAtATime = 512;

}  // namespace

BuildWorkload::BuildWorkload(const BuildOptions& options, uint64_t seed)
    : options_(options), random_(seed), process_(seed), files_(seed) {
  kernel_.emplace_back();
}

std::optional<Nanoseconds> BuildWorkload::Step(Vcpu& vcpu) {
  if (state_ == State::kStart) StartProcess();
  switch (state_) {
    case State::kStart:
      break;
    case State::kGrow:
      return Grow(vcpu);
    case State::kExit:
      Exit(vcpu);
      break;
    case State::kEndPhase:
      return EndPhase(vcpu);
  }
  return Nanoseconds(0);
}

uint64_t BuildWorkload::work() const {
  PageCount touched = process_.touched() + files_.touched() + kernel_touched_;
  for (const Blocks& phase : kernel_) touched += phase.touched();
  return touched.value();
}

uint64_t BuildWorkload::kernel_bytes() const {
  uint64_t bytes = 0;
  for (const Blocks& phase : kernel_) bytes += phase.bytes();
  return bytes;
}

void BuildWorkload::StartProcess() {
  const auto min = static_cast<double>(options_.min_process_bytes);
  const auto max = static_cast<double>(options_.max_process_bytes);
  const auto bytes =
      static_cast<uint64_t>(min * std::pow(max / min, DrawShare(random_)));
  const uint64_t steps = (bytes + kGrowth.bytes() - 1) / kGrowth.bytes();
  process_target_bytes_ = steps * kGrowth.bytes();
  mapping_left_ = 0;
  state_ = State::kGrow;
}

Nanoseconds BuildWorkload::Grow(Vcpu& vcpu) {
  const uint64_t before = process_.bytes();
  const bool grown = GrowAStep(vcpu);
  const uint64_t bytes = process_.bytes() - before;
  mapping_left_ -= bytes;
  LeaveBehind(vcpu, PageCount(bytes / kPageSize));
  if (vcpu.blocked()) return Nanoseconds(0);
  if (!grown || process_.bytes() >= process_target_bytes_) {
    state_ = State::kExit;
  }
  return DrawTime(random_, options_.min_compute, options_.max_compute);
}

bool BuildWorkload::GrowAStep(Vcpu& vcpu) {
  if (mapping_left_ == 0) {
    process_.Map();
    mapping_left_ =
        std::min(kProcessMapping, process_target_bytes_ - process_.bytes());
    if (mapping_left_ == kProcessMapping &&
        DrawShare(random_) < options_.huge_share &&
        process_.Populate(vcpu, kPageblockOrder)) {
      return true;
    }
    if (vcpu.blocked()) return false;
  }
  // What is left of a step that was blocked is less.
  const uint64_t pages = std::min(kGrowth.bytes(), mapping_left_) / kPageSize;
  for (uint64_t i = 0; i < pages; ++i) {
    if (!process_.Populate(vcpu, Order(0))) return false;
  }
  return true;
}

void BuildWorkload::LeaveBehind(Vcpu& vcpu, PageCount pages) {
  const auto size = static_cast<double>(pages.value());
  kernel_due_ += size * options_.kernel_share;
  files_due_ += size * options_.file_share;
  while (kernel_due_ >= 1 && !vcpu.blocked()) {
    const Gfp gfp = random_.OneIn(2) ? kGfpKernel : kGfpReclaimable;
    if (kernel_bytes() < options_.max_kernel_bytes) {
      kernel_.back().Take(vcpu, Order(0), gfp);
    }
    if (!vcpu.blocked()) --kernel_due_;
  }
  while (files_due_ >= 1 && !vcpu.blocked()) {
    if (files_.bytes() < options_.max_file_bytes) files_.Take(vcpu, Order(0));
    if (!vcpu.blocked()) --files_due_;
  }
}

void BuildWorkload::Exit(Vcpu& vcpu) {
  process_.UnmapNewest(vcpu);
  if (!process_.empty()) return;
  ++processes_done_;
  state_ =
      processes_done_ < options_.processes ? State::kStart : State::kEndPhase;
}

std::optional<Nanoseconds> BuildWorkload::EndPhase(Vcpu& vcpu) {
  if (kernel_.size() == kPhasesOfKernelMemory) {
    Blocks& oldest = kernel_.front();
    for (int i = 0; i < kFreedAtATime && !oldest.empty(); ++i) {
      oldest.FreeOldest(vcpu);
    }
    if (!oldest.empty()) return Nanoseconds(0);
    kernel_touched_ += oldest.touched();
    kernel_.pop_front();
  }
  ++phases_done_;
  if (phases_done_ >= options_.phases) return std::nullopt;
  processes_done_ = 0;
  kernel_.emplace_back();
  state_ = State::kStart;
  return options_.quiet;
}

}  // namespace guestmm
