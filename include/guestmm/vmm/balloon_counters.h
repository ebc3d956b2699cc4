#ifndef GUESTMM_VMM_BALLOON_COUNTERS_H_
#define GUESTMM_VMM_BALLOON_COUNTERS_H_

#include <cstdint>
#include <span>
#include <string_view>

#include "guestmm/base/export.h"
#include "guestmm/virtio/device/balloon_device.h"

namespace GUESTMM_EXPORT guestmm {

// One of BalloonDeviceCounters, for results and metrics.
struct BalloonCounterField {
  std::string_view name;  // as the member: "skipped_empty"
  std::string_view text;
  uint64_t BalloonDeviceCounters::*member;
};

// All of them but skipped_tables.
std::span<const BalloonCounterField> BalloonCounterFields();

// The words of TableFault in names: "loop", …; empty for kNone.
std::string_view TableFaultName(size_t fault);

BalloonDeviceCounters& operator+=(BalloonDeviceCounters& sum,
                                  const BalloonDeviceCounters& other);

}  // namespace guestmm

#endif  // GUESTMM_VMM_BALLOON_COUNTERS_H_
