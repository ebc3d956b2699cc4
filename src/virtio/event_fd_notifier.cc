#include "guestmm/virtio/event_fd_notifier.h"

#include <poll.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cstdint>
#include <thread>
#include <utility>

namespace guestmm {

void EventFdNotifier::Set(UniqueFd event_fd) {
  std::shared_ptr<const UniqueFd> next;
  if (event_fd.valid()) {
    next = std::make_shared<const UniqueFd>(std::move(event_fd));
  }
  // What was there is closed after the lock was dropped.
  LockHolder hold(lock_);
  std::swap(event_fd_, next);
}

std::shared_ptr<const UniqueFd> EventFdNotifier::Current() const {
  LockHolder hold(lock_);
  return event_fd_;
}

void EventFdNotifier::Notify() {
  writers_.fetch_add(1);
  if (const std::shared_ptr<const UniqueFd> event_fd = Current()) {
    pollfd ready = {.fd = event_fd->get(), .events = POLLOUT, .revents = 0};
    if (poll(&ready, 1, 0) == 1 && (ready.revents & POLLOUT) != 0) {
      const uint64_t one = 1;
      [[maybe_unused]] const ssize_t written =
          write(event_fd->get(), &one, sizeof(one));
    }
  }
  writers_.fetch_sub(1);
}

void EventFdNotifier::Close() {
  std::shared_ptr<const UniqueFd> event_fd;
  {
    LockHolder hold(lock_);
    std::swap(event_fd_, event_fd);
  }
  while (writers_.load() > 0) {
    uint64_t value = 0;
    const iovec part = {&value, sizeof(value)};
    if (event_fd != nullptr) {
      [[maybe_unused]] const ssize_t got =
          preadv2(event_fd->get(), &part, 1, -1, RWF_NOWAIT);
    }
    std::this_thread::yield();
  }
}

}  // namespace guestmm
