#include "guestmm/virtio/vhost_user/event_fd_notifier.h"

#include <poll.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cstdint>
#include <thread>
#include <utility>

namespace guestmm {

void EventFdNotifier::Notify() {
  std::shared_ptr<Target> target;
  {
    LockHolder hold(lock_);
    if (target_ == nullptr) return;
    target = target_;
    target->writers.fetch_add(1);
  }
  const int fd = target->event_fd.get();
  pollfd ready = {.fd = fd, .events = POLLOUT, .revents = 0};
  if (poll(&ready, 1, 0) == 1 && (ready.revents & POLLOUT) != 0) {
    const uint64_t one = 1;
    [[maybe_unused]] const ssize_t written = write(fd, &one, sizeof(one));
  }
  target->writers.fetch_sub(1);
}

void EventFdNotifier::Replace(UniqueFd event_fd) {
  std::shared_ptr<Target> target;
  if (event_fd.valid()) {
    target = std::make_shared<Target>();
    target->event_fd = std::move(event_fd);
  }
  {
    LockHolder hold(lock_);
    std::swap(target_, target);
  }
  if (target == nullptr) return;
  while (target->writers.load() > 0) {
    uint64_t value = 0;
    const iovec part = {&value, sizeof(value)};
    [[maybe_unused]] const ssize_t got =
        preadv2(target->event_fd.get(), &part, 1, -1, RWF_NOWAIT);
    std::this_thread::yield();
  }
}

}  // namespace guestmm
