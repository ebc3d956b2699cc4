#ifndef GUESTMM_TOOLS_GUESTMM_INFO_JSON_H_
#define GUESTMM_TOOLS_GUESTMM_INFO_JSON_H_

#include <string>

#include "guestmm/buddy/page_allocator.h"

namespace guestmm::tools {

// What buddyinfo, pagetypeinfo, zoneinfo and vmstat say of `allocator`, as
// JSON: docs/info.schema.json.
std::string InfoJson(const PageAllocator& allocator);

}  // namespace guestmm::tools

#endif  // GUESTMM_TOOLS_GUESTMM_INFO_JSON_H_
