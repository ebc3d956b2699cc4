#ifndef GUESTMM_BASE_UNITS_H_
#define GUESTMM_BASE_UNITS_H_

// The units of guest memory as types: a frame number cannot be mistaken for an
// address, nor a count of pages for a count of blocks.
//
//   Pfn    a page frame number             Gpa        a guest-physical address
//   Order  log2 of a block's pages         PageCount  a number of pages
//
//   Pfn(512) + PageCount(3)  is a Pfn      Pfn(512) + Pfn(3)  does not compile

#include <compare>
#include <cstdint>
#include <optional>
#include <ostream>
#include <string>
#include <string_view>

#include "guestmm/base/export.h"

namespace GUESTMM_EXPORT guestmm {

inline constexpr uint64_t kKiB = uint64_t{1} << 10;
inline constexpr uint64_t kMiB = uint64_t{1} << 20;
inline constexpr uint64_t kGiB = uint64_t{1} << 30;
inline constexpr uint64_t kTiB = uint64_t{1} << 40;

// Guest pages are 4 KiB, as on x86. The host's page size may differ: see
// HostPageSize() (guestmm/ram/guest_ram.h).
inline constexpr int kPageShift = 12;
inline constexpr uint64_t kPageSize = uint64_t{1} << kPageShift;

// A number of guest pages.
class PageCount {
 public:
  constexpr PageCount() = default;
  constexpr explicit PageCount(uint64_t pages) : pages_(pages) {}

  constexpr uint64_t value() const { return pages_; }
  constexpr uint64_t bytes() const { return pages_ << kPageShift; }

  constexpr auto operator<=>(const PageCount&) const = default;
  constexpr PageCount& operator+=(PageCount other) {
    pages_ += other.pages_;
    return *this;
  }
  // REQUIRES: other <= *this.
  constexpr PageCount& operator-=(PageCount other) {
    pages_ -= other.pages_;
    return *this;
  }
  friend constexpr PageCount operator+(PageCount a, PageCount b) {
    return a += b;
  }
  friend constexpr PageCount operator-(PageCount a, PageCount b) {
    return a -= b;
  }
  friend constexpr PageCount operator*(PageCount a, uint64_t times) {
    return PageCount(a.pages_ * times);
  }

 private:
  uint64_t pages_ = 0;
};

// log2 of the pages in a buddy block: order 9 is 512 pages, 2 MiB.
class Order {
 public:
  constexpr Order() = default;
  constexpr explicit Order(int order) : order_(static_cast<uint8_t>(order)) {}

  constexpr int value() const { return order_; }
  // The same, unsigned, for packing into a word.
  constexpr uint64_t bits() const { return order_; }
  constexpr PageCount pages() const { return PageCount(uint64_t{1} << order_); }
  constexpr uint64_t bytes() const { return pages().bytes(); }

  constexpr auto operator<=>(const Order&) const = default;

 private:
  uint8_t order_ = 0;
};

// The largest order of Linux's buddy (MAX_ORDER - 1 before 6.4): 4 MiB.
inline constexpr Order kMaxOrder{10};
// pageblock_order on x86: 2 MiB, one huge page.
inline constexpr Order kPageblockOrder{9};
// SECTION_SIZE_BITS on x86: 128 MiB, also the unit of memory hotplug.
inline constexpr Order kSectionOrder{15};

// A page frame number: the index of a page in guest-physical memory.
class Pfn {
 public:
  constexpr Pfn() = default;
  constexpr explicit Pfn(uint64_t pfn) : pfn_(pfn) {}

  constexpr uint64_t value() const { return pfn_; }
  constexpr bool IsAligned(Order order) const {
    return (pfn_ & (order.pages().value() - 1)) == 0;
  }
  constexpr Pfn AlignDown(Order order) const {
    return Pfn(pfn_ & ~(order.pages().value() - 1));
  }
  constexpr Pfn AlignUp(Order order) const {
    return Pfn(pfn_ + order.pages().value() - 1).AlignDown(order);
  }
  // The block this one merges with at `order`.
  constexpr Pfn Buddy(Order order) const {
    return Pfn(pfn_ ^ order.pages().value());
  }

  constexpr auto operator<=>(const Pfn&) const = default;
  constexpr Pfn& operator+=(PageCount pages) {
    pfn_ += pages.value();
    return *this;
  }
  friend constexpr Pfn operator+(Pfn pfn, PageCount pages) {
    return pfn += pages;
  }
  friend constexpr Pfn operator-(Pfn pfn, PageCount pages) {
    return Pfn(pfn.pfn_ - pages.value());
  }
  // REQUIRES: b <= a.
  friend constexpr PageCount operator-(Pfn a, Pfn b) {
    return PageCount(a.pfn_ - b.pfn_);
  }

 private:
  uint64_t pfn_ = 0;
};

// A guest-physical address, in bytes.
class Gpa {
 public:
  constexpr Gpa() = default;
  constexpr explicit Gpa(uint64_t address) : address_(address) {}

  constexpr uint64_t value() const { return address_; }
  constexpr bool IsAligned(uint64_t bytes) const {
    return (address_ & (bytes - 1)) == 0;
  }

  constexpr auto operator<=>(const Gpa&) const = default;
  friend constexpr Gpa operator+(Gpa gpa, uint64_t bytes) {
    return Gpa(gpa.address_ + bytes);
  }
  // The distance in bytes. REQUIRES: b <= a.
  friend constexpr uint64_t operator-(Gpa a, Gpa b) {
    return a.address_ - b.address_;
  }

 private:
  uint64_t address_ = 0;
};

constexpr Gpa ToGpa(Pfn pfn) { return Gpa(pfn.value() << kPageShift); }
// The page that holds `gpa`.
constexpr Pfn ToPfn(Gpa gpa) { return Pfn(gpa.value() >> kPageShift); }

// A run of guest-physical addresses [gpa, gpa + bytes). May be empty.
struct GpaRange {
  Gpa gpa;
  uint64_t bytes = 0;

  constexpr bool operator==(const GpaRange&) const = default;
};

// A run of page frames [start, end).
struct PfnRange {
  Pfn start;
  Pfn end;

  constexpr PageCount pages() const { return end - start; }
  constexpr bool Contains(Pfn pfn) const { return start <= pfn && pfn < end; }
  constexpr bool operator==(const PfnRange&) const = default;
};

// The pages of a block.
constexpr PfnRange PagesOf(Pfn pfn, Order order) {
  return {.start = pfn, .end = pfn + order.pages()};
}
// The pages of a range of addresses. REQUIRES: they are whole pages.
constexpr PfnRange PagesOf(const GpaRange& range) {
  return {.start = ToPfn(range.gpa), .end = ToPfn(range.gpa + range.bytes)};
}

// "4.50 GiB", "512.00 MiB", "17 B": two decimals from KiB upwards.
std::string FormatBytes(uint64_t bytes);

// Parses a size as people write it: "4096", "0x1000", "256MiB", "5 GiB", "64k";
// "1.5GiB" to the nearest byte. K, M, G, T, in either case, are KiB and so on.
// None for any other text, "0.3B" and "5GB" included, and for 2^64 or more.
std::optional<uint64_t> ParseBytes(std::string_view text);

std::ostream& operator<<(std::ostream& os, PageCount pages);
std::ostream& operator<<(std::ostream& os, Order order);
std::ostream& operator<<(std::ostream& os, Pfn pfn);
std::ostream& operator<<(std::ostream& os, Gpa gpa);
std::ostream& operator<<(std::ostream& os, const GpaRange& range);

}  // namespace guestmm

#endif  // GUESTMM_BASE_UNITS_H_
