// guestmm: the command line of the library's experiments.

#include <malloc.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>

#include "guestmm/commands/guestmm_main.h"

int main(int argc, char** argv) {
  // Keeps what is freed, up to this much, so that it need not be faulted in
  // again: a recording's files, a trace's window and a guest's tables follow
  // each other, each of some MiB. The first of it is in huge pages: for runs of
  // a tenth of a second faults are a third.
  constexpr int kKept = 64 << 20;
  mallopt(M_TRIM_THRESHOLD, kKept);
  mallopt(M_MMAP_THRESHOLD, kKept / 2);
  constexpr size_t kHuge = size_t{16} << 20;
  if (void* const first = std::malloc(kHuge)) {
    const auto page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
    const uintptr_t start =
        (reinterpret_cast<uintptr_t>(first) + page - 1) / page * page;
    madvise(reinterpret_cast<void*>(start), kHuge - page, MADV_HUGEPAGE);
    std::free(first);
  }
  return guestmm::tools::GuestmmMain(argc, argv);
}
