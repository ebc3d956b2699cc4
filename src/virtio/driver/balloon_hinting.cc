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
  context_.allocator.RemoveReclaimer(*this);
  Blocks blocks;
  {
    LockHolder hold(lock_);
    blocks = TakeBlocks(blocks_.size());
  }
  Free(context_.cpu, blocks);
}

BalloonHinting::Blocks BalloonHinting::TakeBlocks(size_t most) {
  const size_t count = std::min(most, blocks_.size());
  const auto first = blocks_.end() - static_cast<ptrdiff_t>(count);
  Blocks taken(first, blocks_.end());
  blocks_.erase(first, blocks_.end());
  page_count_.Set((order_.pages() * blocks_.size()).value());
  return taken;
}

void BalloonHinting::Step(uint32_t command) {
  Blocks out;
  {
    LockHolder hold(lock_);
    const uint16_t before = queue_->ring().outstanding();
    // The host wants something else, or there are no more blocks (§5.5.6.5.1).
    if (is_running_ && (command != run_ || SendBlocks())) {
      SendCommand(kStopAt, kHintStop);
      is_running_ = false;
    }
    // Until the device has used a hint it may still discard the block, and
    // until then it owns the words of the commands.
    const bool is_idle = !is_running_ && queue_->ring().outstanding() == 0;
    const bool begins = is_idle && command >= kFirstHintRun && command != run_;
    if (is_idle && (begins || command == kHintDone)) {
      out = TakeBlocks(blocks_.size());
    }
    if (begins) {
      run_ = command;
      is_running_ = true;
      SendCommand(kRunAt, command);
    }
    if (queue_->ring().outstanding() > before) queue_->Kick();
  }
  if (command != kHintDone) Initialize(out);
  Free(context_.cpu, out);
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
    if (!used->has_value()) return has_news;
    has_news = true;
  }
}

PageCount BalloonHinting::Reclaim(int cpu, PageCount wanted) {
  Blocks out;
  {
    LockHolder hold(lock_);
    if (is_running_ || queue_->ring().outstanding() != 0) return PageCount(0);
    const uint64_t block_pages = order_.pages().value();
    out = TakeBlocks((wanted.value() + block_pages - 1) / block_pages);
  }
  Initialize(out);
  Free(cpu, out);
  return order_.pages() * out.size();
}

void BalloonHinting::Initialize(const Blocks& blocks) {
  for (const Pfn block : blocks) {
    // Translate page by page: a block may span regions.
    const PfnRange pages = PagesOf(block, order_);
    for (Pfn pfn = pages.start; pfn < pages.end; pfn += PageCount(1)) {
      const auto memory = context_.ram.Translate({ToGpa(pfn), kPageSize});
      std::memset(memory->bytes().data(), 0, kPageSize);
    }
  }
}

void BalloonHinting::Free(int cpu, const Blocks& blocks) {
  for (const Pfn pfn : blocks) context_.allocator.Free(cpu, pfn, order_);
}

}  // namespace guestmm
