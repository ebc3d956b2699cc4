#ifndef GUESTMM_RAM_ZEROED_ARRAY_H_
#define GUESTMM_RAM_ZEROED_ARRAY_H_

#include <algorithm>
#include <cstddef>
#include <new>
#include <type_traits>
#include <utility>

#include "absl/status/statusor.h"
#include "guestmm/base/export.h"
#include "guestmm/ram/reserved_array.h"

namespace GUESTMM_EXPORT guestmm {

// A fixed number of elements in a ReservedArray: for one element a page, of
// which a run uses a few.
template <typename T>
class ZeroedArray {
 public:
  // All are zero. Throws std::bad_alloc, as std::vector does.
  explicit ZeroedArray(size_t size) : memory_(Reserve(size)) {}

  // REQUIRES: index < size.
  T& operator[](size_t index) { return static_cast<T*>(memory_.data())[index]; }
  const T& operator[](size_t index) const {
    return static_cast<const T*>(memory_.data())[index];
  }

 private:
  static_assert(std::is_trivial_v<T>, "zero bytes must be a value");

  static ReservedArray Reserve(size_t size) {
    absl::StatusOr<ReservedArray> memory =
        ReservedArray::Create(std::max<size_t>(size, 1) * sizeof(T));
    if (!memory.ok()) throw std::bad_alloc();
    return *std::move(memory);
  }

  ReservedArray memory_;
};

}  // namespace guestmm

#endif  // GUESTMM_RAM_ZEROED_ARRAY_H_
