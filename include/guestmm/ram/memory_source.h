#ifndef GUESTMM_RAM_MEMORY_SOURCE_H_
#define GUESTMM_RAM_MEMORY_SOURCE_H_

#include <iosfwd>
#include <string_view>

namespace guestmm {

// Where the memory behind guest RAM comes from. The way to give it back to the
// host follows from it (DiscardMethod).
enum class MemorySource {
  // Anonymous memory, this process's alone.
  kAnonymous,
  // A memfd, mapped shared, so that another process can map it too. The memory
  // is the memfd's: it stays although no one has it mapped.
  kSharedMemfd,
  // The same, of whole huge pages of 2 MiB out of the host's pool. As many as
  // a region has are reserved for it, also those that are never used. One that
  // was used and discarded is reserved no more: if the pool has none left when
  // it is used again, that is the end of the process (SIGBUS).
  kHugetlb,
  // A file, mapped private, as that of a snapshot: pages are the file's until
  // they are written to, and then copies, this process's alone. The file must
  // not change while it is mapped; if it gets shorter, what reads behind its
  // end is ended (SIGBUS).
  kPrivateFile,
};

// "anonymous memory", "shared memfd", "hugetlb memfd", "private file".
std::string_view Name(MemorySource source);
std::ostream& operator<<(std::ostream& out, MemorySource source);

}  // namespace guestmm

#endif  // GUESTMM_RAM_MEMORY_SOURCE_H_
