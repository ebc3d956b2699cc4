#include "src/ram/foreign_mappings.h"

#include <sys/mman.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdint>
#include <cstring>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "guestmm/base/check.h"
#include "guestmm/base/lock.h"
#include "guestmm/ram/foreign_fault_guard.h"

namespace guestmm {
namespace {

// [start, end). Unused while `start` is null; finds nothing while it is empty.
// A change stores one of both, so that every state between is right too;
// tests/models/foreign_mappings.pml has the protocol.
struct Mapping {
  std::atomic<std::byte*> start{nullptr};
  std::atomic<std::byte*> end{nullptr};
};

// Half of the default limit of mappings per process (vm.max_map_count).
std::array<Mapping, 32768> g_mappings;
Mutex g_changes;
// Incremented before each change of an entry in use. A search that has found
// nothing meanwhile begins again: what it seeks may have moved to an entry that
// it had passed.
std::atomic<uint64_t> g_version{0};
// Searches, and uses of what they found, in progress.
std::atomic<int> g_users{0};
// The previous SIGBUS handler.
struct sigaction g_handler_before = {};

// Null if the table is full.
Mapping* Add(std::byte* start, std::byte* end)
    ABSL_EXCLUSIVE_LOCKS_REQUIRED(g_changes) {
  for (Mapping& mapping : g_mappings) {
    if (mapping.start.load() != nullptr) continue;
    mapping.end.store(end);
    mapping.start.store(start);
    return &mapping;
  }
  return nullptr;
}

void Clear(Mapping& mapping) ABSL_EXCLUSIVE_LOCKS_REQUIRED(g_changes) {
  g_version.fetch_add(1);
  mapping.start.store(nullptr);
}

// The entry that has all of [start, end).
Mapping& Covering(const std::byte* start, const std::byte* end)
    ABSL_EXCLUSIVE_LOCKS_REQUIRED(g_changes) {
  for (Mapping& mapping : g_mappings) {
    const std::byte* const from = mapping.start.load();
    if (from != nullptr && from <= start && end <= mapping.end.load()) {
      return mapping;
    }
  }
  GUESTMM_CHECK(false) << "not within one foreign mapping";
  return g_mappings.front();
}

// Empty if there is none. REQUIRES: counted in g_users.
std::span<std::byte> Find(const std::byte* address) {
  while (true) {
    const uint64_t version = g_version.load();
    bool changed = false;
    for (const Mapping& mapping : g_mappings) {
      std::byte* const start = mapping.start.load();
      std::byte* const end = mapping.end.load();
      if (start == nullptr || address < start || end <= address) continue;
      // Both are of one mapping.
      if (mapping.start.load() == start) return {start, end};
      changed = true;
    }
    if (!changed && g_version.load() == version) return {};
  }
}

bool ReplaceByFreshMemory(std::span<std::byte> mapping) {
  if (mmap(mapping.data(), mapping.size(), PROT_READ | PROT_WRITE,
           MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1,
           0) == MAP_FAILED) {
    return false;
  }
  // If this fails, a core dump is larger.
  madvise(mapping.data(), mapping.size(), MADV_DONTDUMP);
  return true;
}

// A signal handler: only system calls and atomics.
void HandleSigbus(int signal, siginfo_t* info, void* /*context*/) {
  const int error = errno;
  // Sent by a process, without an address.
  const bool sent = info->si_code <= 0;
  if (sent || !UseForeignMapping(static_cast<const std::byte*>(info->si_addr),
                                 ReplaceByFreshMemory)) {
    // On return the access faults again, or the signal raised here arrives,
    // and the previous handler runs.
    sigaction(signal, &g_handler_before, nullptr);
    if (sent) raise(signal);
  }
  errno = error;
}

}  // namespace

bool AddForeignMapping(std::byte* start, size_t bytes) {
  LockHolder hold(g_changes);
  return Add(start, start + bytes) != nullptr;
}

bool RemoveForeignMapping(std::byte* start, size_t bytes,
                          absl::FunctionRef<bool()> unmap) {
  std::byte* const end = start + bytes;
  Mapping* mapping = nullptr;
  Mapping* behind = nullptr;
  std::byte* old_start = nullptr;
  std::byte* old_end = nullptr;
  {
    LockHolder hold(g_changes);
    mapping = &Covering(start, end);
    old_start = mapping->start.load();
    old_end = mapping->end.load();
    if (old_start < start && end < old_end) {
      // Before the whole gets smaller, so that it is always in one of them.
      behind = Add(end, old_end);
      if (behind == nullptr) return false;
    }
    g_version.fetch_add(1);
    if (old_start == start && end < old_end) {
      mapping->start.store(end);
    } else {
      mapping->end.store(start);
    }
  }
  // A handler that found it before the change maps over it. The locks are not
  // held: freeing a guest's memory may take seconds.
  while (g_users.load() > 0) std::this_thread::yield();
  const bool unmapped = unmap();
  LockHolder hold(g_changes);
  if (!unmapped) {
    g_version.fetch_add(1);
    mapping->start.store(old_start);
    mapping->end.store(old_end);
    if (behind != nullptr) Clear(*behind);
  } else if (mapping->start.load() == mapping->end.load()) {
    Clear(*mapping);
  }
  return unmapped;
}

bool UseForeignMapping(const std::byte* address,
                       absl::FunctionRef<bool(std::span<std::byte>)> use) {
  g_users.fetch_add(1);
  const std::span<std::byte> mapping = Find(address);
  const bool result = !mapping.empty() && use(mapping);
  g_users.fetch_sub(1);
  return result;
}

void GuardAgainstForeignFaults() {
  struct sigaction handler = {};
  handler.sa_sigaction = HandleSigbus;
  handler.sa_flags = SA_SIGINFO;
  GUESTMM_CHECK(sigaction(SIGBUS, &handler, &g_handler_before) == 0)
      << "sigaction: " << std::strerror(errno);
}

}  // namespace guestmm
