#ifndef GUESTMM_HOST_DISCARD_NULL_HYPERVISOR_H_
#define GUESTMM_HOST_DISCARD_NULL_HYPERVISOR_H_

#include <span>

#include "absl/status/status.h"
#include "guestmm/base/export.h"
#include "guestmm/base/units.h"
#include "guestmm/host/discard/hypervisor.h"

namespace GUESTMM_EXPORT guestmm {

// Accepts every discard and discards nothing: the negative control of an
// experiment.
class NullHypervisor final : public Hypervisor {
 public:
  absl::Status Discard(std::span<const GpaRange>) override {
    return absl::OkStatus();
  }
  DiscardCounters counters() const override { return {}; }
};

}  // namespace guestmm

#endif  // GUESTMM_HOST_DISCARD_NULL_HYPERVISOR_H_
