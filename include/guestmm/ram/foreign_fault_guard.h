#ifndef GUESTMM_RAM_FOREIGN_FAULT_GUARD_H_
#define GUESTMM_RAM_FOREIGN_FAULT_GUARD_H_

namespace guestmm {

// Keeps this process alive when it reads foreign guest RAM (AdoptRegion) that
// the host has no page for: of huge pages, one that the guest discarded while
// the pool has none left. The region it is in is then replaced, as a whole, by
// fresh memory of this process' own: it is lost to that guest, which has done
// this to itself, and to no one else. Any other SIGBUS is handled as it was
// before, which by default ends the process.
//
// Installs a handler for SIGBUS: for a program to call, once, not for a
// library.
void GuardAgainstForeignFaults();

}  // namespace guestmm

#endif  // GUESTMM_RAM_FOREIGN_FAULT_GUARD_H_
