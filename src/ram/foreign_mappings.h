#ifndef GUESTMM_SRC_RAM_FOREIGN_MAPPINGS_H_
#define GUESTMM_SRC_RAM_FOREIGN_MAPPINGS_H_

#include <cstddef>

namespace guestmm {

// The process's mappings of foreign guest RAM, for lookup by a signal handler.
// Thread-safe.

// False if the table is full.
bool AddForeignMapping(std::byte* start, size_t bytes);
// Removes a mapping or a part of one. Must be called before it is unmapped, so
// that a new mapping at the same address is not mistaken for it.
void RemoveForeignMapping(std::byte* start, size_t bytes);

}  // namespace guestmm

#endif  // GUESTMM_SRC_RAM_FOREIGN_MAPPINGS_H_
