#ifndef GUESTMM_TESTS_TESTING_SIGNALS_H_
#define GUESTMM_TESTS_TESTING_SIGNALS_H_

#include <pthread.h>

#include <atomic>
#include <csignal>
#include <thread>

#include "guestmm/base/check.h"

namespace guestmm {

// While it exists, signals arrive at the thread that made it without a pause.
// Their handler does nothing but interrupt: no system call is restarted.
class SignalStorm {
 public:
  SignalStorm() {
    struct sigaction handler = {};
    handler.sa_handler = [](int) {
      arrived_.fetch_add(1, std::memory_order_relaxed);
    };
    GUESTMM_CHECK(sigaction(SIGUSR1, &handler, &before_) == 0);
    arrived_ = 0;
    sender_ = std::thread([this, target = pthread_self()] {
      while (!over_.load()) {
        pthread_kill(target, SIGUSR1);
        std::this_thread::yield();
      }
    });
  }
  ~SignalStorm() {
    over_ = true;
    sender_.join();
    sigaction(SIGUSR1, &before_, nullptr);
  }
  SignalStorm(const SignalStorm&) = delete;
  SignalStorm& operator=(const SignalStorm&) = delete;

  int arrived() const { return arrived_.load(std::memory_order_relaxed); }

 private:
  static inline std::atomic<int> arrived_{0};
  struct sigaction before_ = {};
  std::atomic<bool> over_{false};
  std::thread sender_;
};

}  // namespace guestmm

#endif  // GUESTMM_TESTS_TESTING_SIGNALS_H_
