#include "guestmm/ram/memory_source.h"

#include <ostream>

namespace guestmm {

std::string_view Name(MemorySource source) {
  switch (source) {
    case MemorySource::kAnonymous:
      return "anonymous memory";
    case MemorySource::kSharedMemfd:
      return "shared memfd";
    case MemorySource::kHugetlb:
      return "hugetlb memfd";
    case MemorySource::kPrivateFile:
      return "private file";
  }
  return "unknown";
}

std::ostream& operator<<(std::ostream& out, MemorySource source) {
  return out << Name(source);
}

}  // namespace guestmm
