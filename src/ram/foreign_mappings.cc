#include "src/ram/foreign_mappings.h"

#include <sys/mman.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdint>
#include <cstring>

#include "absl/base/thread_annotations.h"
#include "guestmm/base/check.h"
#include "guestmm/base/lock.h"
#include "guestmm/ram/foreign_fault_guard.h"

namespace guestmm {
namespace {

// [start, end); unused, or being changed, while `start` is 0.
struct Mapping {
  std::atomic<uintptr_t> start{0};
  std::atomic<uintptr_t> end{0};
};

// Half of the mappings that Linux lets a process have by default.
std::array<Mapping, 32768> g_mappings;
Mutex g_changes;
// Of SIGBUS.
struct sigaction g_handler_before = {};

void Set(Mapping& mapping, uintptr_t start, uintptr_t end) {
  mapping.start.store(0);
  mapping.end.store(end);
  mapping.start.store(start);
}

bool Add(uintptr_t start, uintptr_t end)
    ABSL_EXCLUSIVE_LOCKS_REQUIRED(g_changes) {
  for (Mapping& mapping : g_mappings) {
    if (mapping.start.load() != 0) continue;
    Set(mapping, start, end);
    return true;
  }
  return false;
}

// A handler: nothing here but system calls and atomics.
void HandleSigbus(int signal, siginfo_t* info, void* /*context*/) {
  const int error = errno;
  const auto address = reinterpret_cast<uintptr_t>(info->si_addr);
  for (const Mapping& mapping : g_mappings) {
    const uintptr_t start = mapping.start.load();
    const uintptr_t end = mapping.end.load();
    if (start == 0 || address < start || address >= end ||
        mapping.start.load() != start) {
      continue;
    }
    if (mmap(reinterpret_cast<void*>(start), end - start,
             PROT_READ | PROT_WRITE,
             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1,
             0) != MAP_FAILED) {
      errno = error;
      return;
    }
  }
  // Faults again when this returns, and is handled as it was before.
  sigaction(signal, &g_handler_before, nullptr);
}

}  // namespace

bool AddForeignMapping(const std::byte* start, size_t bytes) {
  LockHolder hold(g_changes);
  const auto address = reinterpret_cast<uintptr_t>(start);
  return Add(address, address + bytes);
}

void RemoveForeignMapping(const std::byte* start, size_t bytes) {
  const auto from = reinterpret_cast<uintptr_t>(start);
  const uintptr_t to = from + bytes;
  LockHolder hold(g_changes);
  for (Mapping& mapping : g_mappings) {
    const uintptr_t before = mapping.start.load();
    const uintptr_t after = mapping.end.load();
    if (before == 0 || after <= from || to <= before) continue;
    // Not within two of them: regions are removed one by one.
    mapping.start.store(0);
    if (before < from) Add(before, from);
    // If there is no room for a second rest, that has no guard.
    if (to < after) Add(to, after);
    return;
  }
}

void GuardAgainstForeignFaults() {
  struct sigaction handler = {};
  handler.sa_sigaction = HandleSigbus;
  handler.sa_flags = SA_SIGINFO;
  GUESTMM_CHECK(sigaction(SIGBUS, &handler, &g_handler_before) == 0)
      << "sigaction: " << std::strerror(errno);
}

}  // namespace guestmm
