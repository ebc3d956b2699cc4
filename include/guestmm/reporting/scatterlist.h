#ifndef GUESTMM_REPORTING_SCATTERLIST_H_
#define GUESTMM_REPORTING_SCATTERLIST_H_

#include <cstddef>
#include <span>
#include <utility>
#include <vector>

#include "guestmm/base/check.h"
#include "guestmm/base/export.h"
#include "guestmm/base/units.h"
#include "guestmm/buddy/isolated_block.h"

namespace GUESTMM_EXPORT guestmm {

// The isolated blocks of one report, in the order in which they were added, and
// the ranges of them that are reported. REQUIRES at destruction: empty.
class Scatterlist {
 public:
  explicit Scatterlist(size_t capacity) : capacity_(capacity) {
    blocks_.reserve(capacity);
    ranges_.reserve(capacity);
  }

  // Counted in ranges.
  size_t capacity() const { return capacity_; }
  size_t size() const { return ranges_.size(); }
  bool empty() const { return ranges_.empty(); }
  bool full() const { return size() == capacity_; }

  // Adds a block, to be reported whole. REQUIRES: !full().
  void Add(IsolatedBlock block) {
    const GpaRange range = block.range();
    Add(std::move(block), std::span(&range, 1));
  }
  // Adds a block of which only `parts` are to be reported. REQUIRES: at least
  // one part, all in the block; size() + parts.size() <= capacity() (CHECKed).
  void Add(IsolatedBlock block, std::span<const GpaRange> parts) {
    GUESTMM_CHECK(!parts.empty() && size() + parts.size() <= capacity_)
        << parts.size() << " ranges into a scatterlist of " << capacity_
        << ", which has " << size();
    for (const GpaRange& part : parts) {
      GUESTMM_CHECK(block.range().gpa <= part.gpa &&
                    part.gpa + part.bytes <=
                        block.range().gpa + block.range().bytes)
          << part << " is not in the block at " << block.pfn();
      ranges_.push_back(part);
    }
    blocks_.push_back(std::move(block));
  }

  // The ranges to report.
  std::span<const GpaRange> ranges() const { return ranges_; }
  std::span<const IsolatedBlock> blocks() const { return blocks_; }

  // Removes all blocks; the list is then empty.
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
