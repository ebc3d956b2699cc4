#include "src/virtio/driver/balloon_hinting.h"

#include <algorithm>
#include <cstring>
#include <utility>

namespace guestmm {
namespace {

// Takes free memory only, without reclaim
// (VIRTIO_BALLOON_FREE_PAGE_ALLOC_FLAG).
constexpr Gfp kGfpHint = {.type = MigrateType::kMovable,
                          .highest = ZoneType::kMovable,
                          .may_reclaim = false};

constexpr uint64_t kRunAt = 0;
constexpr uint64_t kStopAt = sizeof(uint32_t);

}  // namespace

BalloonHinting::BalloonHinting(const DriverContext& context,
                               std::unique_ptr<DriverVirtqueue> queue)
    : context_(context),
      order_(context.allocator.max_order()),
      queue_(std::move(queue)) {
  context_.allocator.AddReclaimer(*this);
}

BalloonHinting::~BalloonHinting() {
  {
    LockHolder hold(lock_);
    Free(context_.cpu, blocks_.size(), Contents::kLeave);
  }
  // Wakes what waits for them.
  context_.allocator.RemoveReclaimer(*this);
}

void BalloonHinting::Step(uint32_t command) {
  LockHolder hold(lock_);
  const uint16_t before = queue_->ring().outstanding();
  // The host wants something else, or there are no more blocks (§5.5.6.5.1).
  if (is_running_ && (command != run_ || SendBlocks())) {
    SendCommand(kStopAt, kHintStop);
    is_running_ = false;
  }
  // Until the device has used a hint it may still discard the block, and
  // until then it owns the words of the commands.
  if (!is_out()) {
    const bool begins = command >= kFirstHintRun && command != run_;
    if (begins || command == kHintDone) {
      Free(context_.cpu, blocks_.size(),
           command == kHintDone ? Contents::kLeave : Contents::kInitialize);
    }
    if (begins) {
      run_ = command;
      is_running_ = true;
      SendCommand(kRunAt, command);
    }
  }
  if (queue_->ring().outstanding() > before) queue_->Kick();
}

void BalloonHinting::SendCommand(uint64_t offset, uint32_t command) {
  std::memcpy(queue_->buffer().data() + offset, &command, sizeof(command));
  queue_->OfferToRead(queue_->BufferRange(offset, sizeof(command)));
}

bool BalloonHinting::SendBlocks() {
  // One descriptor is reserved for STOP.
  while (queue_->ring().free_descriptors() > 1) {
    const std::optional<Pfn> pfn =
        context_.allocator.Allocate(context_.cpu, order_, kGfpHint);
    if (!pfn) return true;
    queue_->OfferToWrite({ToGpa(*pfn), order_.bytes()});
    blocks_.push_back(*pfn);
    page_count_.Set((order_.pages() * blocks_.size()).value());
  }
  return false;
}

absl::StatusOr<bool> BalloonHinting::HandleUsed() {
  LockHolder hold(lock_);
  bool has_news = false;
  while (true) {
    const auto used = queue_->ring().GetUsed();
    if (!used.ok()) return used.status();
    if (!used->has_value()) break;
    has_news = true;
  }
  if (has_news) ++returns_;
  return has_news;
}

PageCount BalloonHinting::Reclaim(int cpu, PageCount wanted) {
  LockHolder hold(lock_);
  if (is_out()) return PageCount(0);
  const uint64_t block_pages = order_.pages().value();
  return order_.pages() * Free(cpu,
                               (wanted.value() + block_pages - 1) / block_pages,
                               Contents::kInitialize);
}

Reclaimer::InFlight BalloonHinting::in_flight() const {
  LockHolder hold(lock_);
  return {.queue = is_out() && !blocks_.empty() ? &context_.workqueue : nullptr,
          .returns = returns_};
}

size_t BalloonHinting::Free(int cpu, size_t most, Contents contents) {
  const size_t count = std::min(most, blocks_.size());
  for (size_t i = 0; i < count; ++i) {
    if (contents == Contents::kInitialize) Initialize(blocks_.back());
    context_.allocator.Free(cpu, blocks_.back(), order_);
    blocks_.pop_back();
  }
  page_count_.Set((order_.pages() * blocks_.size()).value());
  return count;
}

void BalloonHinting::Initialize(Pfn block) {
  // Translate page by page: a block may span regions.
  const PfnRange pages = PagesOf(block, order_);
  for (Pfn pfn = pages.start; pfn < pages.end; pfn += PageCount(1)) {
    const auto memory = context_.ram.Translate({ToGpa(pfn), kPageSize});
    std::memset(memory->bytes().data(), 0, kPageSize);
  }
}

}  // namespace guestmm
