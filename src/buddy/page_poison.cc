#include "guestmm/buddy/page_poison.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <iterator>
#include <optional>

#include "absl/strings/str_format.h"
#include "guestmm/base/check.h"

namespace guestmm {
namespace {

// For memcmp, which is the fastest way to check a poisoned page.
constexpr std::array<std::byte, kPageSize> kPoisonedPage = [] {
  std::array<std::byte, kPageSize> page{};
  page.fill(PagePoison::kPoison);
  return page;
}();

void Fill(std::span<std::byte> bytes, std::byte value) {
  std::memset(bytes.data(), std::to_integer<int>(value), bytes.size());
}

}  // namespace

std::ostream& operator<<(std::ostream& os, const PageCorruption& corruption) {
  return os << absl::StrFormat(
             "page poison: %s at pfn 0x%x, bytes %d to %d: found 0x%02x first",
             corruption.single_bit ? "single bit error" : "memory corruption",
             corruption.pfn.value(), corruption.first, corruption.last,
             corruption.found);
}

template <typename Visitor>
void PagePoison::ForEachPiece(Pfn pfn, Order order,
                              const Visitor& visit) const {
  const Pfn end = pfn + order.pages();
  while (pfn < end) {
    const auto bytes =
        ram_.Translate({.gpa = ToGpa(pfn), .bytes = order.bytes()});
    if (bytes) {
      visit(pfn, bytes->bytes());
      pfn += order.pages();
    } else {
      GUESTMM_CHECK(order > Order(0)) << pfn << " is not in guest RAM";
      order = Order(order.value() - 1);
    }
  }
}

absl::Status PagePoison::FillFresh(PfnRange range) {
  for (Pfn pfn = range.start; pfn < range.end; pfn += PageCount(1)) {
    const auto bytes = ram_.Translate({.gpa = ToGpa(pfn), .bytes = kPageSize});
    if (!bytes) {
      return absl::InvalidArgumentError(absl::StrFormat(
          "memory of pages [0x%x, 0x%x): pfn 0x%x must be in the guest RAM of "
          "the page poison",
          range.start.value(), range.end.value(), pfn.value()));
    }
    if (options_.mode == PagePoisonMode::kPoison) Fill(bytes->bytes(), kPoison);
  }
  return absl::OkStatus();
}

void PagePoison::FillFreed(Pfn pfn, Order order) {
  if (options_.mode == PagePoisonMode::kOff) return;
  const std::byte value =
      options_.mode == PagePoisonMode::kPoison ? kPoison : std::byte{0};
  ForEachPiece(pfn, order,
               [&](Pfn, std::span<std::byte> bytes) { Fill(bytes, value); });
}

void PagePoison::PrepareAllocated(Pfn pfn, Order order) {
  const bool check = options_.mode == PagePoisonMode::kPoison;
  const bool clear =
      options_.init_on_alloc && options_.mode != PagePoisonMode::kInitOnFree;
  if (!check && !clear) return;
  ForEachPiece(pfn, order, [&](Pfn first, std::span<std::byte> bytes) {
    if (check) Check(first, bytes);
    if (clear) Fill(bytes, std::byte{0});
  });
}

void PagePoison::Check(Pfn pfn, std::span<const std::byte> bytes) {
  for (; !bytes.empty(); bytes = bytes.subspan(kPageSize)) {
    const auto page = bytes.first<kPageSize>();
    if (std::memcmp(page.data(), kPoisonedPage.data(), kPageSize) != 0)
        [[unlikely]] {
      Report(pfn, page);
    }
    pfn += PageCount(1);
  }
}

void PagePoison::Report(Pfn pfn, std::span<const std::byte> page) {
  const auto wrong = [](std::byte byte) { return byte != kPoison; };
  const auto first = std::find_if(page.begin(), page.end(), wrong);
  // A concurrent write has restored the bytes.
  if (first == page.end()) return;
  const auto behind = std::find_if(page.rbegin(), page.rend(), wrong).base();
  corrupted_pages_.fetch_add(1, std::memory_order_relaxed);
  LockHolder hold(lock_);
  if (corruptions_.size() == kMostRemembered) return;
  const auto found = std::to_integer<uint8_t>(*first);
  corruptions_.push_back(
      {.pfn = pfn,
       .first = static_cast<uint32_t>(first - page.begin()),
       .last = static_cast<uint32_t>(behind - page.begin() - 1),
       .found = found,
       .single_bit = std::next(first) == behind &&
                     std::has_single_bit(static_cast<uint8_t>(
                         found ^ std::to_integer<uint8_t>(kPoison)))});
}

std::vector<PageCorruption> PagePoison::corruptions() const {
  LockHolder hold(lock_);
  return corruptions_;
}

}  // namespace guestmm
