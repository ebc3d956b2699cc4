#include "src/experiment/replay/replay_host.h"

#include <algorithm>
#include <utility>

namespace guestmm {
namespace {

// There is one vCPU, and one stamp: a page that lost its contents has none.
constexpr int kReplayVcpu = 0;
constexpr uint64_t kReplayStamp = 1;

}  // namespace

absl::StatusOr<std::unique_ptr<ReplayHost>> ReplayHost::Create(
    const MemoryMap& memory, const ReplayOptions& options, const Clock& clock) {
  std::unique_ptr<GuestRam> ram;
  if (options.mode == ReplayMode::kReal) {
    absl::StatusOr<std::unique_ptr<GuestRam>> mapped = GuestRam::Create(
        {.regions = memory.regions(),
         .huge_pages = options.granule == Order(0) ? HugePages::kForbid
                                                   : HugePages::kAdvise});
    if (!mapped.ok()) return mapped.status();
    ram = *std::move(mapped);
  }
  return std::unique_ptr<ReplayHost>(
      new ReplayHost(std::move(ram), memory, options, clock));
}

ReplayHost::ReplayHost(std::unique_ptr<GuestRam> ram, const MemoryMap& memory,
                       const ReplayOptions& options, const Clock& clock)
    : clock_(clock),
      touch_(options.touch),
      regions_(memory.regions()),
      ram_(std::move(ram)),
      ledger_(memory.back().end, options.granule),
      hypervisor_(ram_ == nullptr
                      ? nullptr
                      : std::make_unique<DiscardingHypervisor>(*ram_)),
      resident_(clock.Now()),
      in_use_(clock.Now()) {
  if (ram_ != nullptr) backing_.emplace(*ram_, ledger_, clock);
}

void ReplayHost::Allocate(Pfn pfn, Order order) {
  if (backing_) {
    backing_->OnAllocated(kReplayVcpu, pfn, order);
  } else {
    ledger_.OnAllocated(pfn, order);
  }
}

void ReplayHost::Touch(Pfn pfn, Order order) {
  if (backing_) {
    backing_->Touch(kReplayVcpu, pfn, order, kReplayStamp);
  } else {
    if (!ledger_.OnTouchedResident(pfn, order)) {
      ledger_.OnTouched(pfn, order, clock_.Now());
    }
  }
}

void ReplayHost::OnInUseAtFirst(Pfn pfn, Order order) {
  Allocate(pfn, order);
  Touch(pfn, order);
  Integrate();
}

bool ReplayHost::HasAllOfASet(uint32_t gfp) const {
  return std::any_of(touch_.begin(), touch_.end(),
                     [gfp](uint32_t flags) { return (gfp & flags) == flags; });
}

void ReplayHost::OnAllocated(Pfn pfn, Order order, uint32_t gfp) {
  Allocate(pfn, order);
  if (Touches(gfp)) Touch(pfn, order);
  Integrate();
}

void ReplayHost::OnFreed(Pfn pfn, Order order) {
  if (backing_) {
    status_.Update(backing_->CheckInUse(PagesOf(pfn, order), kReplayStamp));
  }
  ledger_.OnFreed(pfn, order);
  Integrate();
}

void ReplayHost::OnMoved(Pfn from, Pfn to) {
  Allocate(to, Order(0));
  if (ledger_.InUse(from)) {
    Touch(to, Order(0));
  }
  Integrate();
}

void ReplayHost::OnUnplugged(PfnRange pages) {
  ledger_.OnUnplugged(pages);
  Integrate();
  const GpaRange range = {ToGpa(pages.start), pages.pages().bytes()};
  if (hypervisor_ != nullptr) {
    status_.Update(hypervisor_->Discard(std::span(&range, 1)));
  }
}

void ReplayHost::OnReported(std::span<const GpaRange> ranges) {
  ledger_.OnReported(ranges, clock_.Now());
  Integrate();
  if (hypervisor_ != nullptr) status_.Update(hypervisor_->Discard(ranges));
}

void ReplayHost::OnReportedThere(const GpaRange& range, Pfn end) {
  const Pfn range_end = std::min(ToPfn(range.gpa + range.bytes), end);
  std::vector<GpaRange> free;
  for (Pfn pfn = ToPfn(range.gpa + (kPageSize - 1)); pfn < range_end;) {
    const Pfn next =
        std::min(range_end, (pfn + PageCount(1)).AlignUp(ledger_.granule()));
    const GpaRange part = {ToGpa(pfn), (next - pfn).bytes()};
    if (!ledger_.FirstInUse(std::span(&part, 1))) free.push_back(part);
    pfn = next;
  }
  OnReported(free);
}

void ReplayHost::OnCollapsed(Pfn pfn) {
  ledger_.OnCollapsed(pfn);
  Integrate();
}

void ReplayHost::CheckContents() {
  if (!backing_) return;
  for (const GpaRange& region : regions_) {
    status_.Update(backing_->CheckInUse(PagesOf(region), kReplayStamp));
  }
}

uint64_t ReplayHost::ResidentBytes() {
  if (ram_ == nullptr) return ledger_.resident_pages().bytes();
  const absl::StatusOr<uint64_t> bytes = ram_->ResidentBytes();
  status_.Update(bytes.status());
  return bytes.value_or(0);
}

bool ReplayHost::AnyResident(Pfn pfn) {
  if (ram_ == nullptr) {
    return ledger_.ResidentPages(pfn, kPageblockOrder) != PageCount(0);
  }
  const absl::StatusOr<uint64_t> bytes = ram_->ResidentBytes(
      {.gpa = ToGpa(pfn), .bytes = kPageblockOrder.bytes()});
  status_.Update(bytes.status());
  return bytes.value_or(0) != 0;
}

ReplayResult::Footprint ReplayHost::FootprintUntilNow() {
  const Nanoseconds now = clock_.Now();
  return {.resident = resident_.UntilNow(now), .in_use = in_use_.UntilNow(now)};
}

void ReplayHost::Integrate() {
  resident_.Change(ledger_.resident_pages(), clock_);
  in_use_.Change(ledger_.in_use_pages(), clock_);
}

}  // namespace guestmm
