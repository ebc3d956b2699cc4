#ifndef GUESTMM_RAM_FOREIGN_FAULT_GUARD_H_
#define GUESTMM_RAM_FOREIGN_FAULT_GUARD_H_

#include "guestmm/base/export.h"

namespace GUESTMM_EXPORT guestmm {

// Keeps this process alive when it accesses foreign guest RAM (AdoptRegion) for
// which the host has no page: a huge page that the guest discarded while the
// pool is empty, or, with ForeignRamOptions::allow_unsealed, what lies past the
// end of a file that got shorter. The whole region, or what remains of it, is
// then replaced by fresh private memory, so only that guest, which caused this,
// loses it; discards there fail from then on. Any other SIGBUS is handled as
// before, which by default ends the process.
//
// Installs a handler for SIGBUS. To be called once, by a program, not by a
// library.
void GuardAgainstForeignFaults();

}  // namespace guestmm

#endif  // GUESTMM_RAM_FOREIGN_FAULT_GUARD_H_
