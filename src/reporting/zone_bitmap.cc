#include "guestmm/reporting/zone_bitmap.h"

#include <bit>

#include "absl/strings/str_format.h"
#include "guestmm/base/check.h"

namespace guestmm {
namespace {

constexpr uint64_t Mask(uint64_t bit) { return uint64_t{1} << (bit % 64); }

}  // namespace

ZoneBitmap::ZoneBitmap(PfnRange span, Order granularity)
    : granularity_(granularity),
      base_(span.start.AlignDown(granularity)),
      bits_((span.end.AlignUp(granularity) - base_).value() >>
            granularity.value()),
      words_((bits_ + kBitsPerWord - 1) / kBitsPerWord) {}

std::optional<uint64_t> ZoneBitmap::BitOf(Pfn pfn) const {
  if (pfn < base_) return std::nullopt;
  const uint64_t bit = (pfn - base_).value() >> granularity_.value();
  if (bit >= bits_) return std::nullopt;
  return bit;
}

void ZoneBitmap::Set(Pfn pfn) {
  const std::optional<uint64_t> bit = BitOf(pfn);
  if (!bit) return;
  const uint64_t before = words_[*bit / kBitsPerWord].fetch_or(
      Mask(*bit), std::memory_order_relaxed);
  if ((before & Mask(*bit)) == 0) {
    count_.fetch_add(1, std::memory_order_relaxed);
  }
}

void ZoneBitmap::Clear(Pfn pfn) {
  GUESTMM_CHECK(Test(pfn)) << "the bit of " << pfn << " is not set";
  const uint64_t bit = *BitOf(pfn);
  words_[bit / kBitsPerWord].fetch_and(~Mask(bit), std::memory_order_relaxed);
  count_.fetch_sub(1, std::memory_order_relaxed);
}

bool ZoneBitmap::Test(Pfn pfn) const {
  const std::optional<uint64_t> bit = BitOf(pfn);
  return bit && (words_[*bit / kBitsPerWord].load(std::memory_order_relaxed) &
                 Mask(*bit)) != 0;
}

std::optional<Pfn> ZoneBitmap::FindNext(Pfn from) const {
  const Pfn start = from < base_ ? base_ : from.AlignUp(granularity_);
  const std::optional<uint64_t> first = BitOf(start);
  if (!first) return std::nullopt;
  // The bits below the first are not looked at.
  uint64_t mask = ~(Mask(*first) - 1);
  for (uint64_t at = *first / kBitsPerWord; at < words_.size(); ++at) {
    const uint64_t word = words_[at].load(std::memory_order_relaxed) & mask;
    mask = ~uint64_t{0};
    if (word == 0) continue;
    const uint64_t bit =
        at * kBitsPerWord + static_cast<uint64_t>(std::countr_zero(word));
    return base_ + granularity_.pages() * bit;
  }
  return std::nullopt;
}

absl::Status ZoneBitmap::CheckInvariants() const {
  uint64_t set = 0;
  for (const std::atomic<uint64_t>& word : words_) {
    set += static_cast<uint64_t>(
        std::popcount(word.load(std::memory_order_relaxed)));
  }
  if (set == count()) return absl::OkStatus();
  return absl::InternalError(
      absl::StrFormat("R1: %d bits set, %d counted", set, count()));
}

}  // namespace guestmm
