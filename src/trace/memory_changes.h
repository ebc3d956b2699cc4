#ifndef GUESTMM_SRC_TRACE_MEMORY_CHANGES_H_
#define GUESTMM_SRC_TRACE_MEMORY_CHANGES_H_

// Finds out which memory a recorded guest gets and loses.

#include <optional>
#include <vector>

#include "guestmm/base/units.h"
#include "guestmm/trace/recording.h"

namespace guestmm::trace {

// Sets `arriving`, `leaving` and `offlined` of a recording of which the files
// about memory and zones were read. `memory_at_end` and `last` are those of
// iomem.end and kpageflags.end. No effect without a memory map.
void FindMemoryChanges(
    const std::optional<std::vector<GpaRange>>& memory_at_end,
    const std::optional<RecordedPages>& last, Recording& recording);

}  // namespace guestmm::trace

#endif  // GUESTMM_SRC_TRACE_MEMORY_CHANGES_H_
