#include "tools/guestmm/sandbox.h"

#include <fcntl.h>
#include <sys/prctl.h>

#ifdef GUESTMM_SECCOMP
#include <seccomp.h>

#include <cstring>
#include <memory>
#include <type_traits>

#include "absl/strings/str_cat.h"
#endif

namespace guestmm::tools {

void ForbidNewPrivileges() { prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); }

#ifdef GUESTMM_SECCOMP

namespace {

// What the server does after its start, and what glibc does on its behalf:
// memory of guests and its own, sockets that are open, events, threads and
// time. No new sockets; files only for reading (below).
constexpr const char* kAllowed[] = {
    // Memory.
    "brk", "mmap", "munmap", "mremap", "mprotect", "madvise", "mincore",
    "fallocate", "pidfd_open", "process_madvise",
    // Sockets and file descriptors.
    "accept4", "close", "fcntl", "fstat", "fstatfs", "getsockopt", "lseek",
    "newfstatat", "lstat", "pread64", "readlink", "readlinkat", "stat", "statx",
    "read", "readv", "recvfrom", "recvmsg", "sendmsg", "sendto", "shutdown",
    "unlink", "write", "writev",
    // Events.
    "epoll_create1", "epoll_ctl", "epoll_pwait", "epoll_wait", "eventfd2",
    "poll", "ppoll", "timerfd_create", "timerfd_settime",
    // Threads.
    "clone", "clone3", "exit", "exit_group", "futex", "get_robust_list",
    "gettid", "getpid", "membarrier", "rseq", "sched_getaffinity",
    "sched_yield", "set_robust_list", "prctl",
    // Signals, also of abort.
    "rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "rt_sigtimedwait",
    "sigaltstack", "tgkill", "restart_syscall",
    // Time and random numbers.
    "clock_gettime", "clock_getres", "clock_nanosleep", "gettimeofday",
    "getrandom", "nanosleep"};

absl::Status Failed(const char* call, int error) {
  return absl::UnavailableError(
      absl::StrCat(call, " failed: ", std::strerror(-error)));
}

}  // namespace

bool HasSeccomp() { return true; }

absl::Status EnterSeccomp() {
  struct Release {
    void operator()(void* filter) const { seccomp_release(filter); }
  };
  const std::unique_ptr<std::remove_pointer_t<scmp_filter_ctx>, Release> filter(
      seccomp_init(SCMP_ACT_KILL_PROCESS));
  if (filter == nullptr) {
    return absl::UnavailableError("seccomp_init failed");
  }
  // All threads, those that have started too.
  for (const scmp_filter_attr attribute :
       {SCMP_FLTATR_CTL_TSYNC, SCMP_FLTATR_CTL_LOG}) {
    const int error = seccomp_attr_set(filter.get(), attribute, 1);
    if (error != 0) return Failed("seccomp_attr_set", error);
  }
  for (const char* const name : kAllowed) {
    const int call = seccomp_syscall_resolve_name(name);
    // This architecture does not have it.
    if (call == __NR_SCMP_ERROR || call < 0) continue;
    const int error = seccomp_rule_add(filter.get(), SCMP_ACT_ALLOW, call, 0);
    if (error != 0) return Failed(name, error);
  }
  // Each guest's RAM has /proc/self/pagemap open, and malloc looks up the
  // number of processors.
  const scmp_arg_cmp read_only = {.arg = 2,
                                  .op = SCMP_CMP_MASKED_EQ,
                                  .datum_a = O_ACCMODE | O_CREAT | O_TRUNC,
                                  .datum_b = O_RDONLY};
  int error = seccomp_rule_add(filter.get(), SCMP_ACT_ALLOW, SCMP_SYS(openat),
                               1, read_only);
  if (error != 0) return Failed("openat", error);
  error = seccomp_load(filter.get());
  return error == 0 ? absl::OkStatus() : Failed("seccomp_load", error);
}

#else

bool HasSeccomp() { return false; }

absl::Status EnterSeccomp() {
  return absl::UnimplementedError("this guestmm was built without libseccomp");
}

#endif

}  // namespace guestmm::tools
