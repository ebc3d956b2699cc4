#include "guestmm/vmm/balloon_offer.h"

#include <gtest/gtest.h>

#include "tests/virtio/virtio_testing.h"

namespace guestmm::balloon_offer_test {
namespace {

TEST(BalloonOffer, EachWordIsAFeature) {
  EXPECT_EQ(ParseBalloonOffer({"reporting", "poison"}).value(),
            kDefaultBalloonOffer);
  const uint64_t all = ParseBalloonOffer({"statistics", "balloon", "poison",
                                          "hinting", "reporting"})
                           .value();
  EXPECT_EQ(all, kBalloonFeatures & ~kBalloonFMustTellHost);
  EXPECT_EQ(FormatBalloonOffer(all),
            "reporting,hinting,balloon,statistics,poison");
  EXPECT_EQ(FormatBalloonOffer(0), "");
}

TEST(BalloonOffer, NamesWhatItMustBe) {
  EXPECT_EQ(Message(ParseBalloonOffer({"reporting", "all"}).status()),
            "reporting,all: must be one or several of reporting, hinting, "
            "balloon, statistics, poison");
  EXPECT_EQ(Message(ParseBalloonOffer({""}).status()).substr(0, 9),
            "\"\": must ");
  EXPECT_FALSE(ParseBalloonOffer({}).ok());
}

// The third of three queues, and 16 bytes of configuration: what front ends are
// told to expect.
TEST(BalloonOffer, ByDefaultReportingIsTheThirdQueue) {
  EXPECT_EQ(BalloonQueueIndex(BalloonQueue::kReporting,
                              QueueNumbering::kCompactByOffered,
                              kDefaultBalloonOffer, 0),
            2);
  EXPECT_EQ(BalloonConfigBytes(kDefaultBalloonOffer), 16u);
}

}  // namespace
}  // namespace guestmm::balloon_offer_test
