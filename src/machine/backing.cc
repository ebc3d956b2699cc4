#include "guestmm/machine/backing.h"

#include <cstddef>
#include <cstring>
#include <optional>
#include <utility>

#include "guestmm/base/check.h"

namespace guestmm {
namespace {

// Differs for each page and stamp, and is never zero, as a discarded page
// reads.
uint64_t Value(Pfn pfn, uint64_t stamp) {
  return (pfn.value() * 0x9e3779b97f4a7c15 ^ stamp) | 1;
}

Translation Translate(const GuestRam& ram, Pfn pfn, Order order) {
  auto block = ram.Translate({.gpa = ToGpa(pfn), .bytes = order.bytes()});
  GUESTMM_CHECK(block.has_value())
      << "block at " << pfn << ", " << order << ", is not in guest RAM";
  return *std::move(block);
}

}  // namespace

void RamBacking::Touch(int, Pfn pfn, Order order, uint64_t stamp) {
  const Translation block = Translate(ram_, pfn, order);
  std::byte* page = block.bytes().data();
  for (const Pfn end = pfn + order.pages(); pfn < end; pfn += PageCount(1)) {
    const uint64_t value = Value(pfn, stamp);
    std::memcpy(page, &value, sizeof(value));
    page += kPageSize;
    std::memcpy(page - sizeof(value), &value, sizeof(value));
  }
}

std::optional<Pfn> RamBacking::FindCorrupted(int, Pfn pfn, Order order,
                                             uint64_t stamp) const {
  const Translation block = Translate(ram_, pfn, order);
  const std::byte* page = block.bytes().data();
  for (const Pfn end = pfn + order.pages(); pfn < end; pfn += PageCount(1)) {
    const uint64_t value = Value(pfn, stamp);
    if (std::memcmp(page, &value, sizeof(value)) != 0) return pfn;
    page += kPageSize;
    if (std::memcmp(page - sizeof(value), &value, sizeof(value)) != 0) {
      return pfn;
    }
  }
  return std::nullopt;
}

}  // namespace guestmm
