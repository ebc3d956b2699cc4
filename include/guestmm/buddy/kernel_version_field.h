#ifndef GUESTMM_BUDDY_KERNEL_VERSION_FIELD_H_
#define GUESTMM_BUDDY_KERNEL_VERSION_FIELD_H_

#include "guestmm/base/export.h"
#include "guestmm/base/fields.h"
#include "guestmm/buddy/placement.h"

namespace GUESTMM_EXPORT guestmm {

// The kind of a Field that is a KernelVersion: "5.3", "6.1" or "6.12".
inline FieldKind KernelVersionKind() {
  return FieldKind::Choice(
      {kKernelVersionNames.begin(), kKernelVersionNames.end()});
}

}  // namespace guestmm

#endif  // GUESTMM_BUDDY_KERNEL_VERSION_FIELD_H_
