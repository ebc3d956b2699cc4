// To be preloaded: makes the monotonic clock of a program go on by a
// millisecond with each reading. With GUESTMM_MADE_CLOCK=unsteady every fourth
// takes ten, as of a process that another one keeps from its processor.

#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <ctime>

namespace {

std::atomic<long> readings{0};

bool IsUnsteady() {
  const char* const kind = std::getenv("GUESTMM_MADE_CLOCK");
  return kind != nullptr && std::strcmp(kind, "unsteady") == 0;
}

}  // namespace

extern "C" int clock_gettime(clockid_t id, timespec* time) noexcept {
  if (id != CLOCK_MONOTONIC) {
    return static_cast<int>(syscall(SYS_clock_gettime, id, time));
  }
  const long n = readings.fetch_add(1) + 1;
  const long ms = 1'000'000 + n + (IsUnsteady() ? n / 4 * 9 : 0);
  time->tv_sec = ms / 1000;
  time->tv_nsec = ms % 1000 * 1'000'000;
  return 0;
}
