#include "src/ram/foreign_mappings.h"

#include <sys/mman.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstring>

#include "absl/base/thread_annotations.h"
#include "guestmm/base/check.h"
#include "guestmm/base/lock.h"
#include "guestmm/ram/foreign_fault_guard.h"

namespace guestmm {
namespace {

// [start, end). Unused or being changed while `start` is null.
struct Mapping {
  std::atomic<std::byte*> start{nullptr};
  std::atomic<std::byte*> end{nullptr};
};

// Half of the default limit of mappings per process (vm.max_map_count).
std::array<Mapping, 32768> g_mappings;
Mutex g_changes;
// The previous SIGBUS handler.
struct sigaction g_handler_before = {};

void Set(Mapping& mapping, std::byte* start, std::byte* end) {
  mapping.start.store(nullptr);
  mapping.end.store(end);
  mapping.start.store(start);
}

bool Add(std::byte* start, std::byte* end)
    ABSL_EXCLUSIVE_LOCKS_REQUIRED(g_changes) {
  for (Mapping& mapping : g_mappings) {
    if (mapping.start.load() != nullptr) continue;
    Set(mapping, start, end);
    return true;
  }
  return false;
}

// A signal handler: only system calls and atomics.
void HandleSigbus(int signal, siginfo_t* info, void* /*context*/) {
  const int error = errno;
  const auto* const address = static_cast<const std::byte*>(info->si_addr);
  for (const Mapping& mapping : g_mappings) {
    std::byte* const start = mapping.start.load();
    const std::byte* const end = mapping.end.load();
    if (start == nullptr || address < start || address >= end ||
        mapping.start.load() != start) {
      continue;
    }
    if (mmap(start, static_cast<size_t>(end - start), PROT_READ | PROT_WRITE,
             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1,
             0) != MAP_FAILED) {
      errno = error;
      return;
    }
  }
  // On return the access faults again and the previous handler runs.
  sigaction(signal, &g_handler_before, nullptr);
}

}  // namespace

bool AddForeignMapping(std::byte* start, size_t bytes) {
  LockHolder hold(g_changes);
  return Add(start, start + bytes);
}

void RemoveForeignMapping(std::byte* start, size_t bytes) {
  std::byte* const end = start + bytes;
  LockHolder hold(g_changes);
  for (Mapping& mapping : g_mappings) {
    std::byte* const before = mapping.start.load();
    std::byte* const after = mapping.end.load();
    if (before == nullptr || after <= start || end <= before) continue;
    // The range lies within one mapping: regions are removed one by one.
    mapping.start.store(nullptr);
    if (before < start) Add(before, start);
    // If the table is full, the second remainder is unguarded.
    if (end < after) Add(end, after);
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
