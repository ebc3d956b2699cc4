#ifndef GUESTMM_TESTS_TESTING_SYSTEM_CALL_TRAP_H_
#define GUESTMM_TESTS_TESTING_SYSTEM_CALL_TRAP_H_

#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <optional>
#include <vector>

#include "guestmm/base/check.h"

namespace guestmm {

// Answers chosen system calls in the kernel's place, to inject what a test
// cannot bring about: a call that is interrupted, or that fails. By seccomp,
// and SIGSYS, for one thread and those that it creates from then on. For
// x86-64.
class SystemCallTrap {
 public:
  struct Call {
    long number;
    std::array<unsigned long, 5> arguments;
  };
  // The result of a call, or minus an errno; nullopt lets the kernel do it.
  // Called in a signal handler.
  using Answer = std::optional<long> (*)(const Call&);

  // From now on `answer` is asked about the calling thread's system calls of
  // these numbers, of at most 5 arguments. False, with no effect, if the
  // kernel does not permit that: a reason for GTEST_SKIP.
  static bool Install(std::initializer_list<int> numbers, Answer answer) {
    answer_ = answer;
    struct sigaction action = {};
    action.sa_sigaction = OnTrap;
    action.sa_flags = SA_SIGINFO;
    GUESTMM_CHECK(sigaction(SIGSYS, &action, nullptr) == 0);

    // The low half of the sixth argument, which is unused, tells the calls of
    // OnTrap from others.
    constexpr auto kNumber = static_cast<uint32_t>(offsetof(seccomp_data, nr));
    constexpr auto kSixth =
        static_cast<uint32_t>(offsetof(seccomp_data, args[5]));
    std::vector<sock_filter> filter = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, kSixth),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, kPass, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, kNumber)};
    for (const int number : numbers) {
      filter.push_back(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K,
                                static_cast<uint32_t>(number), 0, 1));
      filter.push_back(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP));
    }
    filter.push_back(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW));
    const sock_fprog program = {
        .len = static_cast<unsigned short>(filter.size()),
        .filter = filter.data()};
    return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
           prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0;
  }

 private:
  static constexpr uint32_t kPass = 0x7e57ca11;

  static void OnTrap(int, siginfo_t* info, void* context) {
    const int saved = errno;
    gregset_t& registers = static_cast<ucontext_t*>(context)->uc_mcontext.gregs;
    const auto argument = [&](int name) {
      return static_cast<unsigned long>(registers[name]);
    };
    const Call call = {info->si_syscall,
                       {argument(REG_RDI), argument(REG_RSI), argument(REG_RDX),
                        argument(REG_R10), argument(REG_R8)}};
    std::optional<long> result = answer_.load()(call);
    if (!result) {
      result = syscall(call.number, call.arguments[0], call.arguments[1],
                       call.arguments[2], call.arguments[3], call.arguments[4],
                       static_cast<unsigned long>(kPass));
      if (*result < 0) result = -errno;
    }
    registers[REG_RAX] = *result;
    errno = saved;
  }

  static inline std::atomic<Answer> answer_ = nullptr;
};

}  // namespace guestmm

#endif  // GUESTMM_TESTS_TESTING_SYSTEM_CALL_TRAP_H_
