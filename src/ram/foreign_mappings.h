#ifndef GUESTMM_SRC_RAM_FOREIGN_MAPPINGS_H_
#define GUESTMM_SRC_RAM_FOREIGN_MAPPINGS_H_

#include <cstddef>

namespace guestmm {

// Where this process has mapped foreign guest RAM, for a signal handler to look
// up. Safe from any thread.

// False if there are too many already.
bool AddForeignMapping(std::byte* start, size_t bytes);
// A mapping or a part of one. To be called before it is unmapped, so that what
// takes its place is not taken for it.
void RemoveForeignMapping(std::byte* start, size_t bytes);

}  // namespace guestmm

#endif  // GUESTMM_SRC_RAM_FOREIGN_MAPPINGS_H_
