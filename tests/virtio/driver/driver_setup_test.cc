// How the driver sets a device up.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <vector>

#include "tests/virtio/balloon_testing.h"
#include "tests/virtio/virtio_testing.h"

namespace guestmm::driver_setup_test {
namespace {

using ::testing::ElementsAre;

TEST(DriverSetup, S3_1_1_FollowsTheSpecifiedOrder) {
  BalloonGuest guest({.features = kBalloonFeatures});
  ASSERT_TRUE(guest.Start({.queue_features = {}}).ok());
  EXPECT_THAT(
      guest.slow().calls(),
      ElementsAre("status 0x0", "status 0x1", "status 0x3",
                  "features 0x10000002f", "status 0xb", "queue 0", "queue 1",
                  "queue 2", "queue 3", "queue 4", "status 0xf", "kick 2"));
}

// §5.5.5 has poison_val before DRIVER_OK; §3.1.1 has no write before
// FEATURES_OK and no kick before DRIVER_OK.
TEST(DriverSetup, S3_1_1_WritesThePoisonBetweenFeaturesOkAndDriverOk) {
  BalloonGuest guest({.features = kBalloonFeatures}, PagePoisonMode::kPoison);
  ASSERT_TRUE(guest.Start({.queue_features = {}}).ok());
  EXPECT_THAT(guest.slow().calls(),
              ElementsAre("status 0x0", "status 0x1", "status 0x3",
                          "features 0x10000003f", "status 0xb", "queue 0",
                          "queue 1", "queue 2", "queue 3", "queue 4",
                          "write 12: 0xaaaaaaaa", "status 0xf", "kick 2"));
}

// Between two resets, status bits are only added.
TEST(DriverSetup, S2_1_1_ClearsNoStatusBit) {
  BalloonGuest guest({.features = kBalloonFeatures});
  for (int i = 0; i < 3; ++i) {
    ASSERT_TRUE(guest.Start().ok());
    guest.Stop();
  }
  unsigned before = 0;
  int resets = 0;
  for (const std::string& call : guest.slow().calls()) {
    if (!call.starts_with("status 0x")) continue;
    const auto status = static_cast<unsigned>(
        std::stoul(call.substr(std::string("status 0x").size()), nullptr, 16));
    if (status == 0) {
      ++resets;
    } else {
      EXPECT_EQ(before & ~status, 0u) << call;
    }
    before = status;
  }
  EXPECT_EQ(resets, 6) << "one before, one after, each time";
}

TEST(DriverSetup, S2_1_1_ResetsTheDeviceAfterFailed) {
  BalloonGuest guest({});
  EXPECT_FALSE(guest.Start({.queue_size = 3}).ok());
  EXPECT_EQ(guest.device().status(), kVirtioFailed);
  guest.slow().Forget();
  ASSERT_TRUE(guest.Start().ok());
  EXPECT_EQ(guest.slow().calls().front(), "status 0x0");
  EXPECT_EQ(guest.device().status(), kRunningStatus);
}

TEST(DriverSetup, S2_2_1_AcceptsNothingThatIsNotOffered) {
  for (uint64_t offered = 0; offered <= kBalloonFeatures; ++offered) {
    for (const PagePoisonMode mode :
         {PagePoisonMode::kOff, PagePoisonMode::kPoison}) {
      BalloonGuest guest({.features = offered, .queue_features = {}}, mode);
      ASSERT_TRUE(guest.Start().ok()) << offered;
      EXPECT_EQ(guest.driver().features() & ~(offered | kVirtioFVersion1), 0u);
    }
  }
}

TEST(DriverSetup, S6_1_AcceptsVersion1) {
  BalloonGuest guest({.features = 0, .queue_features = {}});
  ASSERT_TRUE(guest.Start().ok());
  EXPECT_EQ(guest.driver().features(), kVirtioFVersion1);
}

// §2.5.1: fields read while the configuration changes may be inconsistent. Here
// the host changes its target right after the first read.
TEST(DriverSetup, S2_5_1_ReadsAgainIfTheConfigurationChanged) {
  BalloonGuest guest({});
  ASSERT_TRUE(guest.Start().ok());
  guest.slow().after_read = [&] { guest.device().SetTarget(3); };
  guest.slow().Hold(0);
  guest.device().SetTarget(9);
  guest.time().RunUntilIdle();
  EXPECT_EQ(guest.LastWords(0).size(), 3u) << "went by the first of the two";
}

// Fields whose feature is not offered do not exist, whatever the driver
// supports.
TEST(DriverSetup, S2_5_1_ReadsNoFieldWhoseFeatureIsNotOffered) {
  BalloonGuest guest({.features = kBalloonFPageReporting});
  ASSERT_TRUE(guest.Start().ok());
  guest.device().SetTarget(3);
  guest.time().RunUntilIdle();
  EXPECT_EQ(guest.driver().balloon_pages(), PageCount(3))
      << "reading all 16 bytes of a configuration of 8 fails";
}

}  // namespace
}  // namespace guestmm::driver_setup_test
