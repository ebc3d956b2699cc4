#ifndef GUESTMM_SRC_RAM_FOREIGN_MAPPINGS_H_
#define GUESTMM_SRC_RAM_FOREIGN_MAPPINGS_H_

#include <cstddef>
#include <span>

#include "absl/functional/function_ref.h"

namespace guestmm {

// The process's mappings of foreign guest RAM, for lookup by a signal handler.
// Thread-safe, but one mapping is changed by one thread at a time.

// False if the table is full.
bool AddForeignMapping(std::byte* start, size_t bytes);

// Removes a mapping or a part of one, which `unmap` unmaps. At every moment the
// parts before and after it are found as they are, or with it as the mapping
// that they were. When `unmap` is called, none of its bytes is found or in use,
// so a new mapping at its address is not mistaken for it. If `unmap` returns
// false, all is as before. Returns false in that case, and if the table has no
// room for one more part, without calling `unmap`.
bool RemoveForeignMapping(std::byte* start, size_t bytes,
                          absl::FunctionRef<bool()> unmap);

// Calls `use` with the mapping at `address`, or the part of it that remains,
// and returns its result; false if there is none. It is not unmapped before
// `use` returns, which must not take long. Async-signal-safe if `use` is.
bool UseForeignMapping(const std::byte* address,
                       absl::FunctionRef<bool(std::span<std::byte>)> use);

}  // namespace guestmm

#endif  // GUESTMM_SRC_RAM_FOREIGN_MAPPINGS_H_
