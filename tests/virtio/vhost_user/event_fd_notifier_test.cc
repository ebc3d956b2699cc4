#include "guestmm/virtio/vhost_user/event_fd_notifier.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <thread>

namespace guestmm::event_fd_notifier_test {
namespace {

uint64_t Read(int fd) {
  uint64_t value = 0;
  return read(fd, &value, sizeof(value)) == sizeof(value) ? value : 0;
}

TEST(EventFdNotifier, WritesToTheCurrentEventFd) {
  const UniqueFd first(eventfd(0, EFD_NONBLOCK));
  const UniqueFd second(eventfd(0, EFD_NONBLOCK));
  EventFdNotifier notifier;
  notifier.Notify();  // no eventfd
  notifier.Set(UniqueFd(dup(first.get())));
  notifier.Notify();
  EXPECT_EQ(Read(first.get()), 1u);
  notifier.Set(UniqueFd(dup(second.get())));
  notifier.Notify();
  EXPECT_EQ(Read(first.get()), 0u);
  EXPECT_EQ(Read(second.get()), 1u);
  notifier.Close();
  notifier.Notify();
  EXPECT_EQ(Read(second.get()), 0u);
}

// A process that shares the eventfd makes it blocking, and keeps it full, so
// that writes do block. Neither Set nor Close waits for them forever.
TEST(EventFdNotifier, ABlockedWriteDelaysNothing) {
  EventFdNotifier notifier;
  for (int round = 0; round < 100; ++round) {
    const UniqueFd full(eventfd(0, 0));
    std::atomic<bool> stop = false;
    std::thread filler([&] {
      const UniqueFd own(dup(full.get()));
      while (!stop) {
        // As the other process may: the flag belongs to the eventfd, not to the
        // fd.
        fcntl(own.get(), F_SETFL, O_NONBLOCK);
        const uint64_t most = ~uint64_t{0} - 1;
        [[maybe_unused]] const ssize_t written =
            write(own.get(), &most, sizeof(most));
        Read(own.get());
        fcntl(own.get(), F_SETFL, 0);
      }
    });
    notifier.Set(UniqueFd(dup(full.get())));
    std::thread writer([&] {
      for (int i = 0; i < 20; ++i) notifier.Notify();
    });
    notifier.Set(UniqueFd(eventfd(0, EFD_NONBLOCK)));
    notifier.Close();
    writer.join();
    stop = true;
    filler.join();
  }
}

}  // namespace
}  // namespace guestmm::event_fd_notifier_test
