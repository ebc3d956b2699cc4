// The density experiment at a size where it means something: a minute of work
// and 4 GiB of memory.

#include <gtest/gtest.h>

#include "guestmm/sim/density.h"

namespace guestmm::density_long_test {
namespace {

TEST(DensityLongTest, QuarterScaleKeepsWhatTheReadmeSays) {
  const auto options = ResolveDensity({.scale = 0.25}, AvailableMemory());
  ASSERT_EQ(options.status(), absl::OkStatus());
  const auto result = RunDensity(*options, {});
  ASSERT_EQ(result.status(), absl::OkStatus());
  const DensityRow& off = result->rows[0];
  const DensityRow& v12 = result->rows[1];
  EXPECT_GE(off.guests, 2);
  EXPECT_LE(off.guests, 3);
  EXPECT_GE(v12.guests, 3 * off.guests);
  for (const DensityLaunch& launch : v12.launches) {
    EXPECT_LE(launch.resident_bytes, options->footprint_bytes + 160 * kMiB);
  }
}

}  // namespace
}  // namespace guestmm::density_long_test
