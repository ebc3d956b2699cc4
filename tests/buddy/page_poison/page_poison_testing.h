#ifndef GUESTMM_TESTS_BUDDY_PAGE_POISON_PAGE_POISON_TESTING_H_
#define GUESTMM_TESTS_BUDDY_PAGE_POISON_PAGE_POISON_TESTING_H_

// A guest with real guest RAM.

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>
#include <optional>
#include <vector>

#include "guestmm/buddy/page_allocator.h"
#include "guestmm/buddy/page_poison.h"
#include "guestmm/ram/guest_ram.h"

namespace guestmm {

inline constexpr Order kPage{0};
inline constexpr Order kHuge = kPageblockOrder;
inline constexpr uint8_t kPoison = 0xaa;

// Guest RAM in regions of the given numbers of pages, and an allocator that
// owns all of it.
class PoisonWorld {
 public:
  PoisonWorld(const PagePoisonOptions& options,
              const std::vector<uint64_t>& regions = {1024},
              PageAllocatorOptions allocator = {}) {
    GuestRamOptions ram = {.huge_pages = HugePages::kForbid};
    Pfn end(0);
    for (const uint64_t pages : regions) {
      ram.regions.push_back(
          {.gpa = ToGpa(end), .bytes = PageCount(pages).bytes()});
      end += PageCount(pages);
    }
    ram_ = GuestRam::Create(ram).value();
    poison_ = std::make_unique<PagePoison>(*ram_, options);
    if (allocator.memory.empty()) allocator.memory = {{Pfn(0), end}};
    allocator.min_free_kbytes = 0;
    allocator.poison = poison_.get();
    allocator_ = PageAllocator::Create(allocator).value();
  }

  GuestRam& ram() { return *ram_; }
  PagePoison& poison() { return *poison_; }
  PageAllocator& allocator() { return *allocator_; }

  Pfn Allocate(Order order, int cpu = 0) {
    const std::optional<Pfn> pfn = allocator_->Allocate(cpu, order);
    EXPECT_TRUE(pfn.has_value()) << order;
    return pfn.value_or(Pfn(0));
  }
  void Free(Pfn pfn, Order order, int cpu = 0) {
    allocator_->Free(cpu, pfn, order);
  }

  // The bytes of a page.
  uint8_t* At(Pfn pfn) const {
    const auto bytes = ram_->Translate({.gpa = ToGpa(pfn), .bytes = kPageSize});
    return reinterpret_cast<uint8_t*>(bytes->bytes().data());
  }
  // Calls memset with a variable size: with a constant one it would be inlined,
  // and ThreadSanitizer would not see it.
  void Write(Pfn pfn, Order order, uint8_t value) const {
    for (uint64_t i = 0; i < order.pages().value(); ++i) {
      const volatile size_t bytes = kPageSize;
      std::memset(At(pfn + PageCount(i)), value, bytes);
    }
  }
  bool Holds(Pfn pfn, Order order, uint8_t value) const {
    for (uint64_t i = 0; i < order.pages().value(); ++i) {
      const uint8_t* const page = At(pfn + PageCount(i));
      if (std::count(page, page + kPageSize, value) != kPageSize) return false;
    }
    return true;
  }

  uint64_t ResidentBytes() const { return ram_->ResidentBytes().value(); }

  // Allocates all pages, one by one, and frees them again.
  void AllocateEverything() {
    Gfp gfp = kGfpUser;
    gfp.reserves = Reserves::kAll;
    std::vector<Pfn> pages;
    while (const std::optional<Pfn> pfn = allocator_->Allocate(0, kPage, gfp)) {
      pages.push_back(*pfn);
    }
    EXPECT_EQ(PageCount(pages.size()), allocator_->Counts().managed);
    for (const Pfn pfn : pages) Free(pfn, kPage);
    EXPECT_EQ(allocator_->CheckInvariants(), absl::OkStatus());
  }

 private:
  std::unique_ptr<GuestRam> ram_;
  std::unique_ptr<PagePoison> poison_;
  std::unique_ptr<PageAllocator> allocator_;
};

inline constexpr PagePoisonOptions kPoisoned = {.mode =
                                                    PagePoisonMode::kPoison};
inline constexpr PagePoisonOptions kZeroed = {.mode =
                                                  PagePoisonMode::kInitOnFree};
inline constexpr PagePoisonOptions kCleared = {.init_on_alloc = true};

}  // namespace guestmm

#endif  // GUESTMM_TESTS_BUDDY_PAGE_POISON_PAGE_POISON_TESTING_H_
