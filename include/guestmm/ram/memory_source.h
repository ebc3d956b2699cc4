#ifndef GUESTMM_RAM_MEMORY_SOURCE_H_
#define GUESTMM_RAM_MEMORY_SOURCE_H_

#include <iosfwd>
#include <string_view>

#include "guestmm/base/export.h"

namespace GUESTMM_EXPORT guestmm {

// The kind of memory behind guest RAM. It determines how memory is discarded
// (DiscardMethod).
enum class MemorySource {
  // Anonymous memory, private to this process.
  kAnonymous,
  // A memfd, mapped shared, so that another process can map it too. The memory
  // belongs to the memfd and stays allocated even if it is not mapped.
  kSharedMemfd,
  // The same, of huge pages of 2 MiB from the host's pool. Mapping a region
  // reserves all its huge pages. A huge page that was used and discarded is no
  // longer reserved: if the pool is empty when it is touched again, the process
  // gets a SIGBUS.
  kHugetlb,
  // A file, mapped private, such as a snapshot: pages come from the file until
  // they are written to, and are private copies from then on. The file must not
  // change while it is mapped; reading past the end of a truncated file is a
  // SIGBUS.
  kPrivateFile,
};

// "anonymous memory", "shared memfd", "hugetlb memfd", "private file".
std::string_view Name(MemorySource source);
std::ostream& operator<<(std::ostream& out, MemorySource source);

}  // namespace guestmm

#endif  // GUESTMM_RAM_MEMORY_SOURCE_H_
