#include "src/virtio/driver/balloon_inflation.h"

#include <algorithm>
#include <cstring>
#include <span>
#include <utility>

namespace guestmm {
namespace {

// Movable pages, without reclaim and without reserves (GFP_HIGHUSER_MOVABLE |
// __GFP_NORETRY | __GFP_NOMEMALLOC).
constexpr Gfp kGfpBalloon = {.type = MigrateType::kMovable,
                             .highest = ZoneType::kMovable,
                             .may_reclaim = false};

}  // namespace

BalloonInflation::BalloonInflation(const DriverContext& context,
                                   uint64_t features,
                                   std::unique_ptr<DriverVirtqueue> inflate,
                                   std::unique_ptr<DriverVirtqueue> deflate)
    : context_(context),
      must_tell_host_((features & kBalloonFMustTellHost) != 0),
      deflates_on_oom_((features & kBalloonFDeflateOnOom) != 0),
      inflate_(std::move(inflate)),
      deflate_(std::move(deflate)) {
  if (deflates_on_oom_) context_.allocator.AddReclaimer(*this);
}

BalloonInflation::~BalloonInflation() {
  if (deflates_on_oom_) context_.allocator.RemoveReclaimer(*this);
  Pages pages;
  {
    LockHolder hold(lock_);
    pages = std::move(pages_);
    pages.insert(pages.end(), inflating_.begin(), inflating_.end());
    for (const Deflation& deflation : deflations_) {
      pages.insert(pages.end(), deflation.pages.begin(), deflation.pages.end());
    }
  }
  Free(context_.cpu, pages);
}

std::optional<Nanoseconds> BalloonInflation::Step(uint32_t target) {
  uint64_t pages = 0;
  {
    LockHolder hold(lock_);
    if (std::exchange(target_, target) != target) was_reclaimed_ = false;
    const bool is_busy = !inflating_.empty() ||
                         std::any_of(deflations_.begin(), deflations_.end(),
                                     [](const Deflation& deflation) {
                                       return deflation.is_out;
                                     });
    if (is_busy) return std::nullopt;
    pages = pages_.size();
    if (pages < target && was_reclaimed_) return std::nullopt;
  }
  if (pages > target) {
    Deflate(pages - target, Use::kAfterAck);
  } else if (pages < target && !Inflate(target - pages)) {
    return kRetry;
  }
  return std::nullopt;
}

bool BalloonInflation::Inflate(uint64_t most) {
  Pages taken;
  while (taken.size() < std::min<uint64_t>(most, kMaxBalloonPfns)) {
    const std::optional<Pfn> pfn =
        context_.allocator.Allocate(context_.cpu, Order(0), kGfpBalloon);
    if (!pfn) break;
    taken.push_back(*pfn);
  }
  if (taken.empty()) return false;
  LockHolder hold(lock_);
  inflating_ = std::move(taken);
  Send(*inflate_, 0, inflating_);
  return true;
}

BalloonInflation::Pages BalloonInflation::Deflate(uint64_t most, Use use) {
  LockHolder hold(lock_);
  const auto slot = std::find_if(
      deflations_.begin(), deflations_.end(),
      [](const Deflation& deflation) { return !deflation.is_out; });
  if (slot == deflations_.end() || pages_.empty()) return {};
  // Last in, first out (Linux adds and removes at the head of the list).
  const size_t count = std::min<size_t>({pages_.size(), kMaxBalloonPfns, most});
  const auto first = pages_.end() - static_cast<ptrdiff_t>(count);
  Pages out(first, pages_.end());
  pages_.erase(first, pages_.end());
  page_count_.Set(pages_.size());
  slot->is_out = true;
  Send(*deflate_, static_cast<size_t>(slot - deflations_.begin()), out);
  if (use == Use::kAtOnce) return out;
  slot->pages = std::move(out);
  return {};
}

void BalloonInflation::Send(DriverVirtqueue& queue, size_t slot,
                            const Pages& pages) {
  const uint64_t offset = slot * kBufferBytes;
  const uint64_t bytes = pages.size() * sizeof(uint32_t);
  std::byte* to = queue.buffer().data() + offset;
  for (const Pfn pfn : pages) {
    const auto number = static_cast<uint32_t>(pfn.value());
    std::memcpy(to, &number, sizeof(number));
    to += sizeof(number);
  }
  // The queue has as many descriptors as buffers.
  queue.OfferToRead(queue.BufferRange(offset, bytes), slot);
  queue.Kick();
}

absl::StatusOr<bool> BalloonInflation::HandleUsed() {
  bool has_news = false;
  Pages free;
  {
    LockHolder hold(lock_);
    while (true) {
      const auto used = inflate_->ring().GetUsed();
      if (!used.ok()) return used.status();
      if (!used->has_value()) break;
      has_news = true;
      pages_.insert(pages_.end(), inflating_.begin(), inflating_.end());
      inflating_.clear();
      page_count_.Set(pages_.size());
    }
    while (true) {
      const auto used = deflate_->ring().GetUsed();
      if (!used.ok()) return used.status();
      if (!used->has_value()) break;
      has_news = true;
      Deflation& deflation = deflations_[(*used)->token];
      free.insert(free.end(), deflation.pages.begin(), deflation.pages.end());
      deflation = {};
    }
  }
  Free(context_.cpu, free);
  if (has_news) UpdateActual();
  return has_news;
}

PageCount BalloonInflation::Reclaim(int cpu, PageCount wanted) {
  const uint64_t most = std::max<uint64_t>(wanted.value(), 1);
  {
    LockHolder hold(lock_);
    // Balloon is empty: nothing to deflate, and nothing to re-inflate later.
    if (pages_.empty()) return PageCount(0);
    was_reclaimed_ = true;
  }
  if (must_tell_host_) {
    Deflate(most, Use::kAfterAck);
    return PageCount(0);
  }
  const Pages out = Deflate(most, Use::kAtOnce);
  Free(cpu, out);
  return PageCount(out.size());
}

void BalloonInflation::Free(int cpu, const Pages& pages) {
  for (const Pfn pfn : pages) context_.allocator.Free(cpu, pfn, Order(0));
}

void BalloonInflation::UpdateActual() {
  const auto actual = static_cast<uint32_t>(pages().value());
  // An error means that the device is gone, so its configuration is irrelevant.
  context_.device
      .WriteConfig(offsetof(BalloonConfig, actual),
                   std::as_bytes(std::span(&actual, 1)))
      .IgnoreError();
}

}  // namespace guestmm
