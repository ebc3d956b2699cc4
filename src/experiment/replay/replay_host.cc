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
      backing_(ram_.get(), ledger_, clock, LedgerBacking::InUse::kTracked),
      hypervisor_(ram_ == nullptr
                      ? nullptr
                      : std::make_unique<DiscardingHypervisor>(*ram_)),
      resident_(clock.Now()),
      in_use_(clock.Now()) {}

void ReplayHost::OnInUseAtFirst(Pfn pfn, Order order) {
  backing_.OnAllocated(kReplayVcpu, pfn, order);
  backing_.Touch(kReplayVcpu, pfn, order, kReplayStamp);
}

bool ReplayHost::Touches(uint32_t gfp) const {
  const auto has_all = [gfp](uint32_t flags) { return (gfp & flags) == flags; };
  return touch_.empty() || std::any_of(touch_.begin(), touch_.end(), has_all);
}

void ReplayHost::OnAllocated(Pfn pfn, Order order, uint32_t gfp) {
  Integrate();
  backing_.OnAllocated(kReplayVcpu, pfn, order);
  if (Touches(gfp)) backing_.Touch(kReplayVcpu, pfn, order, kReplayStamp);
}

void ReplayHost::OnFreed(Pfn pfn, Order order) {
  Integrate();
  status_.Update(backing_.CheckInUse(PagesOf(pfn, order), kReplayStamp));
  backing_.OnFreed(kReplayVcpu, pfn, order);
}

void ReplayHost::OnMoved(Pfn from, Pfn to) {
  Integrate();
  backing_.OnAllocated(kReplayVcpu, to, Order(0));
  if (ledger_.InUse(from)) {
    backing_.Touch(kReplayVcpu, to, Order(0), kReplayStamp);
  }
}

void ReplayHost::OnUnplugged(PfnRange pages) {
  Integrate();
  ledger_.OnUnplugged(pages);
  const GpaRange range = {ToGpa(pages.start), pages.pages().bytes()};
  if (hypervisor_ != nullptr) {
    status_.Update(hypervisor_->Discard(std::span(&range, 1)));
  }
}

void ReplayHost::OnReported(std::span<const GpaRange> ranges) {
  Integrate();
  ledger_.OnReported(ranges, clock_.Now());
  if (hypervisor_ != nullptr) status_.Update(hypervisor_->Discard(ranges));
}

void ReplayHost::OnCollapsed(Pfn pfn) {
  Integrate();
  ledger_.OnCollapsed(pfn);
}

void ReplayHost::CheckContents() {
  for (const GpaRange& region : regions_) {
    status_.Update(backing_.CheckInUse(PagesOf(region), kReplayStamp));
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
  Integrate();
  return {.resident = resident_.page_microseconds(),
          .in_use = in_use_.page_microseconds()};
}

void ReplayHost::Integrate() {
  resident_.Add(ledger_.resident_pages(), clock_.Now());
  in_use_.Add(backing_.in_use(), clock_.Now());
}

}  // namespace guestmm
