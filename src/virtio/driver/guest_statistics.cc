#include "src/virtio/driver/guest_statistics.h"

#include <cstring>
#include <numeric>

namespace guestmm {
namespace {

BalloonStatistics Measure(const PageAllocator& allocator) {
  const PageCounts counts = allocator.Counts();
  const VmStat events = allocator.vmstat();
  BalloonStatistics statistics;
  statistics[BalloonStat::kFree] = (counts.free + counts.cached).bytes();
  statistics[BalloonStat::kTotal] = counts.managed.bytes();
  statistics[BalloonStat::kAvailable] = allocator.FreePagesAboveLow().bytes();
  statistics[BalloonStat::kAllocStall] = std::accumulate(
      events.allocstall.begin(), events.allocstall.end(), uint64_t{0});
  statistics[BalloonStat::kDirectReclaim] = events.pgsteal_direct;
  return statistics;
}

}  // namespace

void GuestStatistics::Offer() {
  const BalloonStatistics statistics = Measure(context_.allocator);
  std::byte* const start = queue_->buffer().data();
  std::byte* to = start;
  for (uint16_t tag = 0; tag < kBalloonStats; ++tag) {
    const std::optional<uint64_t> value =
        statistics[static_cast<BalloonStat>(tag)];
    if (!value) continue;
    std::memcpy(to, &tag, sizeof(tag));
    std::memcpy(to + sizeof(tag), &*value, sizeof(*value));
    to += kBalloonStatBytes;
  }
  queue_->OfferToRead(
      queue_->BufferRange(0, static_cast<uint64_t>(to - start)));
}

absl::Status GuestStatistics::HandleUsed() {
  while (true) {
    const auto used = queue_->ring().GetUsed();
    if (!used.ok()) return used.status();
    if (!used->has_value()) return absl::OkStatus();
    Offer();
    Kick();
  }
}

}  // namespace guestmm
