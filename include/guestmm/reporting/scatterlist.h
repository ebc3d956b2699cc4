#ifndef GUESTMM_REPORTING_SCATTERLIST_H_
#define GUESTMM_REPORTING_SCATTERLIST_H_

#include <cstddef>
#include <span>
#include <utility>
#include <vector>

#include "guestmm/base/check.h"
#include "guestmm/base/units.h"
#include "guestmm/buddy/isolated_block.h"

namespace guestmm {

// The isolated blocks of one report, in the order in which they were added, and
// where they lie. REQUIRES at destruction: empty.
class Scatterlist {
 public:
  explicit Scatterlist(size_t capacity) : capacity_(capacity) {
    blocks_.reserve(capacity);
    ranges_.reserve(capacity);
  }

  size_t capacity() const { return capacity_; }
  size_t size() const { return blocks_.size(); }
  bool empty() const { return blocks_.empty(); }
  bool full() const { return size() == capacity_; }

  // REQUIRES: !full().
  void Add(IsolatedBlock block) {
    GUESTMM_CHECK(!full()) << "a scatterlist of " << capacity_ << " is full";
    ranges_.push_back(block.range());
    blocks_.push_back(std::move(block));
  }

  // What to tell the device.
  std::span<const GpaRange> ranges() const { return ranges_; }
  std::span<const IsolatedBlock> blocks() const { return blocks_; }

  // Takes every block out; the list is then empty.
  std::vector<IsolatedBlock> TakeAll() {
    ranges_.clear();
    std::vector<IsolatedBlock> blocks = std::move(blocks_);
    blocks_.clear();
    blocks_.reserve(capacity_);
    return blocks;
  }

 private:
  const size_t capacity_;
  std::vector<IsolatedBlock> blocks_;
  std::vector<GpaRange> ranges_;
};

}  // namespace guestmm

#endif  // GUESTMM_REPORTING_SCATTERLIST_H_
