#include "src/experiment/replay/replay_host.h"

#include <algorithm>
#include <chrono>
#include <sstream>
#include <utility>

namespace guestmm {
namespace {

// One stamp is enough, as a page that lost its contents has none.
constexpr uint64_t kReplayStamp = 1;

}  // namespace

absl::StatusOr<std::unique_ptr<ReplayHost>> ReplayHost::Create(
    const MemoryMap& memory, const ReplayOptions& options) {
  std::unique_ptr<ReplayHost> host(new ReplayHost(memory.back().end, options));
  if (options.mode == ReplayMode::kVirtual) return host;
  host->regions_ = memory.regions();
  absl::StatusOr<std::unique_ptr<GuestRam>> ram = GuestRam::Create(
      {.regions = host->regions_,
       .huge_pages = options.granule == Order(0) ? HugePages::kForbid
                                                 : HugePages::kAdvise});
  if (!ram.ok()) return ram.status();
  host->ram_ = *std::move(ram);
  host->pages_.emplace(*host->ram_);
  host->hypervisor_ = std::make_unique<DiscardingHypervisor>(*host->ram_);
  return host;
}

ReplayHost::ReplayHost(Pfn end, const ReplayOptions& options)
    : touch_(options.touch), ledger_(end, options.granule) {}

void ReplayHost::OnInUseAtFirst(Pfn pfn, Order order) {
  ledger_.OnAllocated(pfn, order);
  Touch(pfn, order, Nanoseconds(0));
}

void ReplayHost::OnAllocated(Pfn pfn, Order order, uint32_t gfp,
                             Nanoseconds now) {
  Integrate(now);
  ledger_.OnAllocated(pfn, order);
  const auto has_all = [gfp](uint32_t flags) { return (gfp & flags) == flags; };
  if (touch_.empty() || std::any_of(touch_.begin(), touch_.end(), has_all)) {
    Touch(pfn, order, now);
  }
}

void ReplayHost::OnFreed(Pfn pfn, Order order, Nanoseconds now) {
  Integrate(now);
  if (pages_) CheckContents(PagesOf(pfn, order));
  in_use_ -= ledger_.InUsePages(pfn, order);
  ledger_.OnFreed(pfn, order);
}

void ReplayHost::OnReported(std::span<const GpaRange> ranges, Nanoseconds now) {
  Integrate(now);
  ledger_.OnReported(ranges, now);
  if (hypervisor_ != nullptr) status_.Update(hypervisor_->Discard(ranges));
}

void ReplayHost::CheckContents() {
  for (const GpaRange& region : regions_) CheckContents(PagesOf(region));
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

ReplayResult::Footprint ReplayHost::FootprintUntil(Nanoseconds now) {
  Integrate(now);
  return footprint_;
}

void ReplayHost::Integrate(Nanoseconds now) {
  const auto now_us = static_cast<uint64_t>(
      std::chrono::duration_cast<std::chrono::microseconds>(now).count());
  // In 64 bits a guest of 1 TiB would have 19 hours.
  const auto passed =
      static_cast<double>(now_us - std::exchange(integrated_us_, now_us));
  footprint_.resident +=
      static_cast<double>(ledger_.resident_pages().value()) * passed;
  footprint_.in_use += static_cast<double>(in_use_.value()) * passed;
}

void ReplayHost::Touch(Pfn pfn, Order order, Nanoseconds now) {
  in_use_ += order.pages() - ledger_.InUsePages(pfn, order);
  ledger_.OnTouched(pfn, order, now);
  if (pages_) pages_->Touch(0, pfn, order, kReplayStamp);
}

void ReplayHost::CheckContents(PfnRange pages) {
  for (Pfn page = pages.start; page < pages.end; page += PageCount(1)) {
    if (ledger_.InUse(page) &&
        pages_->FindCorrupted(0, page, Order(0), kReplayStamp)) {
      std::ostringstream text;
      text << page << " was in use, and lost its contents";
      status_.Update(absl::DataLossError(text.str()));
      return;
    }
  }
}

}  // namespace guestmm
