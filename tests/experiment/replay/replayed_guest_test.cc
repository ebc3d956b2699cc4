#include "src/experiment/replay/replayed_guest.h"

#include <gtest/gtest.h>

#include <chrono>
#include <memory>
#include <optional>

namespace guestmm::replayed_guest_test {
namespace {

using std::chrono::seconds;

TEST(ReplayedGuestTest, TheNextPassFollowsTheLastBeforeTheStart) {
  Recording recording;
  EXPECT_EQ(TimeToNextPass(recording, seconds(10), seconds(2)), std::nullopt);
  recording.reports = {{.time = seconds(7), .range = {}},
                       {.time = seconds(9), .range = {}},
                       {.time = seconds(10), .range = {}}};
  // After the one at 9 s.
  EXPECT_EQ(TimeToNextPass(recording, seconds(10), seconds(2)), seconds(1));
  // The one at 7 s is one delay ago.
  EXPECT_EQ(TimeToNextPass(recording, seconds(9), seconds(2)), std::nullopt);
  EXPECT_EQ(TimeToNextPass(recording, seconds(9), seconds(3)), seconds(1));
}

// The kernel's min_free_kbytes is shared out among the zones.
TEST(ReplayedGuestTest, TheWatermarksOfAllZonesAreTheGuests) {
  Recording recording;
  recording.memory = {{Gpa(0), 64 * kMiB}};
  recording.zones.resize(2);
  recording.zones[0].name = "DMA";
  recording.zones[0].min = PageCount(100);
  recording.zones[1].name = "DMA32";
  recording.zones[1].min = PageCount(300);
  const std::unique_ptr<PageAllocator> guest =
      MakeReplayedGuest(recording, KernelVersion::kV6_1).value();
  PageCount min;
  for (const auto& zone : guest->zones()) min += zone->watermarks().min;
  EXPECT_NEAR(static_cast<double>(min.value()), 400, 2);
}

}  // namespace
}  // namespace guestmm::replayed_guest_test
