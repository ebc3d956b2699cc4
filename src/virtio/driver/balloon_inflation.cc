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
      deflates_on_oom_((features & kBalloonFDeflateOnOom) != 0),
      inflate_(std::move(inflate)),
      deflate_(std::move(deflate)) {
  context_.allocator.AddReclaimer(*this);
}

BalloonInflation::~BalloonInflation() {
  {
    LockHolder hold(lock_);
    Free(pages_);
    Free(inflating_);
    Free(deflating_);
  }
  // Wakes what waits for them.
  context_.allocator.RemoveReclaimer(*this);
}

std::optional<Nanoseconds> BalloonInflation::Step(uint32_t target) {
  LockHolder hold(lock_);
  if (std::exchange(target_, target) != target) was_reclaimed_ = false;
  if (!inflating_.empty() || !deflating_.empty()) return std::nullopt;
  const uint64_t pages = pages_.size();
  if (pages > target) {
    Deflate(pages - target);
  } else if (pages < target && !was_reclaimed_ && !Inflate(target - pages)) {
    return kRetry;
  }
  return std::nullopt;
}

bool BalloonInflation::Inflate(uint64_t most) {
  while (inflating_.size() < std::min<uint64_t>(most, kMaxBalloonPfns)) {
    const std::optional<Pfn> pfn =
        context_.allocator.Allocate(context_.cpu, Order(0), kGfpBalloon);
    if (!pfn) break;
    inflating_.push_back(*pfn);
  }
  if (inflating_.empty()) return false;
  Send(*inflate_, inflating_);
  return true;
}

void BalloonInflation::Deflate(uint64_t most) {
  // Last in, first out (Linux adds and removes at the head of the list).
  const size_t count = std::min<size_t>({pages_.size(), kMaxBalloonPfns, most});
  const auto first = pages_.end() - static_cast<ptrdiff_t>(count);
  deflating_.assign(first, pages_.end());
  pages_.erase(first, pages_.end());
  page_count_.Set(pages_.size());
  Send(*deflate_, deflating_);
}

void BalloonInflation::Send(DriverVirtqueue& queue, const Pages& pages) {
  std::byte* to = queue.buffer().data();
  for (const Pfn pfn : pages) {
    const auto number = static_cast<uint32_t>(pfn.value());
    std::memcpy(to, &number, sizeof(number));
    to += sizeof(number);
  }
  // One chain at a time, so a descriptor is free.
  queue.OfferToRead(queue.BufferRange(0, pages.size() * sizeof(uint32_t)));
  queue.Kick();
}

absl::StatusOr<bool> BalloonInflation::HandleUsed() {
  bool has_news = false;
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
      Free(deflating_);
    }
    if (has_news) ++returns_;
  }
  if (has_news) UpdateActual();
  return has_news;
}

PageCount BalloonInflation::Reclaim(int /*cpu*/, PageCount /*wanted*/) {
  LockHolder hold(lock_);
  if (deflates_on_oom_ && deflating_.empty() && !pages_.empty()) {
    was_reclaimed_ = true;
    Deflate(kMaxBalloonPfns);
  }
  return PageCount(0);
}

Reclaimer::InFlight BalloonInflation::in_flight() const {
  LockHolder hold(lock_);
  const bool comes_back = !deflating_.empty() ||
                          pages_.size() + inflating_.size() > target_ ||
                          (deflates_on_oom_ && !inflating_.empty());
  return {.queue = comes_back ? &context_.workqueue : nullptr,
          .returns = returns_};
}

void BalloonInflation::Free(Pages& pages) {
  for (const Pfn pfn : pages) {
    context_.allocator.Free(context_.cpu, pfn, Order(0));
  }
  pages.clear();
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
