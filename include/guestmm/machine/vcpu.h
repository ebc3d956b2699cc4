#ifndef GUESTMM_MACHINE_VCPU_H_
#define GUESTMM_MACHINE_VCPU_H_

#include <cstdint>
#include <functional>
#include <optional>
#include <utility>

#include "guestmm/base/export.h"
#include "guestmm/base/units.h"
#include "guestmm/frame/frame_allocator.h"
#include "guestmm/frame/gfp.h"
#include "guestmm/machine/backing.h"

namespace GUESTMM_EXPORT guestmm {

// A processor of the guest, as its kernel and programs use it: allocates,
// frees and writes to pages. Not thread-safe.
class Vcpu {
 public:
  // Both must outlive this. REQUIRES: 0 <= id < allocator.cpus().
  Vcpu(int id, FrameAllocator& allocator, Backing& backing)
      : id_(id), allocator_(allocator), backing_(backing) {}

  int id() const { return id_; }

  // Allocates a block of `order`; none if memory is out, or if the vCPU is
  // blocked(). Its contents are undefined.
  std::optional<Pfn> Allocate(Order order, Gfp gfp = kGfpUser) {
    const std::optional<Pfn> pfn = allocator_.Allocate(id_, order, gfp);
    if (!pfn && !blocked()) [[unlikely]]
      retry_when_ = allocator_.WhenToRetry(id_, order, gfp);
    backing_.OnAllocated(id_, pfn, order);
    return pfn;
  }
  // True from a request that has to wait where the vCPU must not, as in a step
  // in virtual time, until TakeBlockedOn. The step then ends without giving up
  // anything it holds; the machine repeats it once the request is worth another
  // try.
  bool blocked() const { return retry_when_ != nullptr; }
  // Ends blocked(); returns the function that is true once the request is worth
  // another try (FrameAllocator::WhenToRetry). Null unless blocked.
  std::function<bool()> TakeBlockedOn() {
    return std::exchange(retry_when_, nullptr);
  }
  // REQUIRES: `pfn` was allocated at `order`, on any vCPU (CHECKed).
  void Free(Pfn pfn, Order order) {
    allocator_.Free(id_, pfn, order);
    backing_.OnFreed(id_, pfn, order);
  }

  // Writes a value made of `stamp` and the page's number to the start and the
  // end of each page of the block, so that the host must back it.
  void Touch(Pfn pfn, Order order, uint64_t stamp) {
    backing_.Touch(id_, pfn, order, stamp);
  }
  // Returns the first page of the block that does not hold what Touch wrote;
  // none if all do.
  std::optional<Pfn> FindCorrupted(Pfn pfn, Order order, uint64_t stamp) const {
    return backing_.FindCorrupted(id_, pfn, order, stamp);
  }

 private:
  const int id_;
  FrameAllocator& allocator_;
  Backing& backing_;
  std::function<bool()> retry_when_;
};

}  // namespace guestmm

#endif  // GUESTMM_MACHINE_VCPU_H_
