#ifndef GUESTMM_TESTS_VIRTIO_DRIVER_BALLOON_DRIVER_TESTING_H_
#define GUESTMM_TESTS_VIRTIO_DRIVER_BALLOON_DRIVER_TESTING_H_

// A guest and a client of reports, for the tests of the balloon driver.

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "guestmm/base/virtual_time.h"
#include "guestmm/buddy/page_allocator.h"
#include "guestmm/ram/guest_ram.h"
#include "guestmm/virtio/driver/balloon_driver.h"
#include "tests/virtio/virtio_testing.h"

namespace guestmm {

// Records how reports ended.
class RecordingClient final : public ReportingDevice::Client {
 public:
  void ReportDone(absl::Status status) override {
    ended_.push_back(std::move(status));
  }
  // "OK" or "UNAVAILABLE: ..." for each report.
  std::vector<std::string> ended() const {
    std::vector<std::string> texts;
    for (const absl::Status& status : ended_) {
      texts.push_back(status.ToString());
    }
    return texts;
  }

 private:
  std::vector<absl::Status> ended_;
};

inline constexpr char kReportWasReset[] =
    "UNAVAILABLE: the balloon device was reset before it acknowledged";

// A guest of 8 MiB in virtual time: the allocator has the lower half, and the
// upper half is reported.
class BalloonDriverGuest : public ::testing::Test {
 protected:
  // Checks that all pages are free, as before the driver.
  void ExpectNoPageLost() {
    EXPECT_EQ(allocator_->Counts().allocated(), PageCount(0));
    EXPECT_TRUE(allocator_->CheckInvariants().ok());
  }

  const std::unique_ptr<GuestRam> ram_ = MakeRam({{Gpa(0), 8 * kMiB}});
  const std::unique_ptr<PageAllocator> allocator_ =
      PageAllocator::Create({.memory = {{Pfn(0), Pfn(1024)}},
                             .cpus = 1,
                             .max_order = kMaxOrder,
                             .min_free_kbytes = 64,
                             .per_cpu_limits = {}})
          .value();
  VirtualTime time_{1};
  RecordingClient client_;
};

}  // namespace guestmm

#endif  // GUESTMM_TESTS_VIRTIO_DRIVER_BALLOON_DRIVER_TESTING_H_
