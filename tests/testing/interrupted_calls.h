#ifndef GUESTMM_TESTS_TESTING_INTERRUPTED_CALLS_H_
#define GUESTMM_TESTS_TESTING_INTERRUPTED_CALLS_H_

#include <map>
#include <string>

namespace guestmm {

// While it exists, system calls of its thread fail as if a signal interrupted
// them, except for every third of each: open, read, pread, ftruncate, fallocate
// and madvise with EINTR, mincore with EAGAIN. The calls are defined by the
// test program, in place of the C library's. One per thread at a time.
class InterruptedCalls {
 public:
  InterruptedCalls();
  ~InterruptedCalls();
  InterruptedCalls(const InterruptedCalls&) = delete;
  InterruptedCalls& operator=(const InterruptedCalls&) = delete;

  // How often the call of that name was made and failed.
  int failures(const std::string& name) const {
    const auto found = calls_.find(name);
    return found == calls_.end() ? 0 : found->second - found->second / 3;
  }

  // True if the call that is made now fails, with `error`.
  static bool Fails(const char* name, int error);

 private:
  std::map<std::string, int> calls_;
};

}  // namespace guestmm

#endif  // GUESTMM_TESTS_TESTING_INTERRUPTED_CALLS_H_
