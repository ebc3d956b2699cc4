#ifndef GUESTMM_TESTS_TESTING_COUNTING_BACKING_H_
#define GUESTMM_TESTS_TESTING_COUNTING_BACKING_H_

// A guest whose use of memory is only recorded.

#include <cstdint>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "guestmm/base/units.h"
#include "guestmm/machine/backing.h"
#include "guestmm/machine/real/guest.h"

namespace guestmm {

// Records what vCPUs do. Not thread-safe.
class CountingBacking final : public Backing {
 public:
  void OnAllocated(int, std::optional<Pfn> pfn, Order order) override {
    if (pfn) {
      allocated_.push_back({*pfn, order});
      held_ += order.pages();
    } else {
      ++failed_;
    }
  }
  void OnFreed(int, Pfn pfn, Order order) override {
    freed_.push_back({pfn, order});
    held_ -= order.pages();
  }
  void Touch(int, Pfn, Order order, uint64_t) override {
    touched_ += order.pages();
  }
  std::optional<Pfn> FindCorrupted(int, Pfn, Order, uint64_t) const override {
    return std::nullopt;
  }

  using Sequence = std::vector<std::pair<Pfn, Order>>;
  const Sequence& allocated() const { return allocated_; }
  const Sequence& freed() const { return freed_; }
  uint64_t failed() const { return failed_; }
  PageCount touched() const { return touched_; }
  PageCount held() const { return held_; }

 private:
  Sequence allocated_;
  Sequence freed_;
  uint64_t failed_ = 0;
  PageCount touched_;
  PageCount held_;
};

struct CountingGuest {
  explicit CountingGuest(uint64_t bytes, int vcpus = 1) {
    GuestOptions options;
    options.vcpus = vcpus;
    options.memory = MemoryMap::Pc(bytes);
    options.make_backing = [this](const GuestRam&) {
      auto made = std::make_unique<CountingBacking>();
      backing = made.get();
      return made;
    };
    guest = Guest::Create(options).value();
  }

  Vcpu& vcpu() { return guest->vcpu(0); }

  // Owned by the guest.
  CountingBacking* backing = nullptr;
  std::unique_ptr<Guest> guest;
};

}  // namespace guestmm

#endif  // GUESTMM_TESTS_TESTING_COUNTING_BACKING_H_
