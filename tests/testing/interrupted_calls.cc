#include "tests/testing/interrupted_calls.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstdarg>
#include <utility>

#include "guestmm/base/check.h"

namespace guestmm {
namespace {

thread_local InterruptedCalls* g_interrupted = nullptr;

}  // namespace

InterruptedCalls::InterruptedCalls() {
  GUESTMM_CHECK(g_interrupted == nullptr);
  g_interrupted = this;
}

InterruptedCalls::~InterruptedCalls() { g_interrupted = nullptr; }

bool InterruptedCalls::Fails(const char* name, int error) {
  // Its own calls are not interrupted.
  InterruptedCalls* const self = std::exchange(g_interrupted, nullptr);
  if (self == nullptr) return false;
  const bool fails = ++self->calls_[name] % 3 != 0;
  g_interrupted = self;
  if (fails) errno = error;
  return fails;
}

}  // namespace guestmm

using guestmm::InterruptedCalls;

extern "C" {

int open(const char* path, int flags, ...) {
  if (InterruptedCalls::Fails("open", EINTR)) return -1;
  va_list arguments;
  va_start(arguments, flags);
  const mode_t mode = (flags & O_CREAT) != 0 ? va_arg(arguments, mode_t) : 0;
  va_end(arguments);
  return static_cast<int>(syscall(SYS_openat, AT_FDCWD, path, flags, mode));
}

ssize_t read(int fd, void* to, size_t bytes) {
  if (InterruptedCalls::Fails("read", EINTR)) return -1;
  return syscall(SYS_read, fd, to, bytes);
}

ssize_t pread(int fd, void* to, size_t bytes, off_t offset) {
  if (InterruptedCalls::Fails("pread", EINTR)) return -1;
  return syscall(SYS_pread64, fd, to, bytes, offset);
}

int ftruncate(int fd, off_t bytes) noexcept {
  if (InterruptedCalls::Fails("ftruncate", EINTR)) return -1;
  return static_cast<int>(syscall(SYS_ftruncate, fd, bytes));
}

int fallocate(int fd, int mode, off_t offset, off_t bytes) {
  if (InterruptedCalls::Fails("fallocate", EINTR)) return -1;
  return static_cast<int>(syscall(SYS_fallocate, fd, mode, offset, bytes));
}

int madvise(void* start, size_t bytes, int advice) noexcept {
  if (InterruptedCalls::Fails("madvise", EINTR)) return -1;
  return static_cast<int>(syscall(SYS_madvise, start, bytes, advice));
}

int mincore(void* start, size_t bytes, unsigned char* in_core) noexcept {
  if (InterruptedCalls::Fails("mincore", EAGAIN)) return -1;
  return static_cast<int>(syscall(SYS_mincore, start, bytes, in_core));
}

}  // extern "C"
