#ifndef GUESTMM_MACHINE_BACKING_H_
#define GUESTMM_MACHINE_BACKING_H_

#include <cstdint>
#include <optional>

#include "guestmm/base/export.h"
#include "guestmm/base/units.h"
#include "guestmm/ram/guest_ram.h"

namespace GUESTMM_EXPORT guestmm {

// The memory behind a guest's pages, as its vCPUs use it: real RAM, or in
// virtual time a model of it. All vCPUs use it at once.
class Backing {
 public:
  virtual ~Backing() = default;

  // A vCPU allocated a block; none: memory was out.
  virtual void OnAllocated(int /*vcpu*/, std::optional<Pfn> /*pfn*/,
                           Order /*order*/) {}
  // A vCPU freed a block.
  virtual void OnFreed(int /*vcpu*/, Pfn /*pfn*/, Order /*order*/) {}

  // As Vcpu::Touch and Vcpu::FindCorrupted.
  virtual void Touch(int vcpu, Pfn pfn, Order order, uint64_t stamp) = 0;
  virtual std::optional<Pfn> FindCorrupted(int vcpu, Pfn pfn, Order order,
                                           uint64_t stamp) const = 0;
};

// Guest RAM itself.
class RamBacking : public Backing {
 public:
  // `ram` must outlive this.
  explicit RamBacking(const GuestRam& ram) : ram_(ram) {}

  void Touch(int vcpu, Pfn pfn, Order order, uint64_t stamp) override;
  std::optional<Pfn> FindCorrupted(int vcpu, Pfn pfn, Order order,
                                   uint64_t stamp) const override;

 private:
  const GuestRam& ram_;
};

}  // namespace guestmm

#endif  // GUESTMM_MACHINE_BACKING_H_
