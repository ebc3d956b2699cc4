#ifndef GUESTMM_BENCH_BUDDY_BENCH_ALLOCATORS_H_
#define GUESTMM_BENCH_BUDDY_BENCH_ALLOCATORS_H_

// The allocators that benchmarks compare, with one interface: 4 GiB of pages
// without memory behind them, two vCPUs.
//
//   Guestmm    the library (PageAllocator) with the per-CPU lists of Linux
//              5.3
//   Guestmm61  the same with those of 6.1, of orders 0 to 3 and 9
//   Guestmm612 the same with those of 6.12, whose size follows the load
//   List       the yardstick, list_allocator.h
//   Nothing    no allocator: the cost of the loops

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "bench/buddy/list_allocator.h"
#include "benchmark/benchmark.h"
#include "guestmm/base/units.h"
#include "guestmm/buddy/page_allocator.h"

namespace guestmm::bench {

inline constexpr uint64_t kPages = 4 * kGiB / kPageSize;
inline constexpr uint64_t kNoPage = ~uint64_t{0};

template <KernelVersion kPerCpuLists>
class Library {
 public:
  uint64_t Allocate(int cpu, int order) {
    const std::optional<Pfn> pfn = allocator_->Allocate(cpu, Order(order));
    return pfn ? pfn->value() : kNoPage;
  }
  void Free(int cpu, uint64_t pfn, int order) {
    allocator_->Free(cpu, Pfn(pfn), Order(order));
  }
  void Drain() { allocator_->DrainPerCpuPages(); }
  uint64_t MetadataBytes() const {
    return allocator_->pages().ResidentBytes().value_or(0);
  }

 private:
  // No watermarks, so that all of the memory can be allocated.
  std::unique_ptr<PageAllocator> allocator_ =
      PageAllocator::Create({.memory = {{Pfn(kPages), Pfn(2 * kPages)}},
                             .cpus = 2,
                             .min_free_kbytes = 0,
                             .per_cpu_lists = kPerCpuLists})
          .value();
};
using Guestmm = Library<KernelVersion::kV5_3>;
using Guestmm61 = Library<KernelVersion::kV6_1>;
using Guestmm612 = Library<KernelVersion::kV6_12>;

class List : public ListAllocator {
 public:
  List() : ListAllocator(kPages) {}
};

class Nothing {
 public:
  uint64_t Allocate(int cpu, int order) {
    uint64_t pfn = kPages / 2 * static_cast<uint64_t>(cpu);
    benchmark::DoNotOptimize(pfn);
    benchmark::DoNotOptimize(order);
    return pfn;
  }
  void Free(int cpu, uint64_t pfn, int order) {
    benchmark::DoNotOptimize(cpu);
    benchmark::DoNotOptimize(pfn);
    benchmark::DoNotOptimize(order);
  }
  void Drain() {}
  static constexpr uint64_t MetadataBytes() { return 0; }
};

// Touches everything once before anything is measured.
template <typename Allocator>
class Warm {
 public:
  Warm() {
    std::vector<uint64_t> pages(kPages);
    for (uint64_t& page : pages) page = allocator_.Allocate(0, 0);
    for (const uint64_t page : pages) allocator_.Free(0, page, 0);
    allocator_.Drain();
  }
  Allocator* operator->() { return &allocator_; }
  Allocator& operator*() { return allocator_; }

 private:
  Allocator allocator_;
};

}  // namespace guestmm::bench

#endif  // GUESTMM_BENCH_BUDDY_BENCH_ALLOCATORS_H_
