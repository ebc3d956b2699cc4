// The text numbers the queues of a balloon, each of which "only exists if" its
// feature "is set", and that was read in three ways. Device and driver agree on
// every queue, or the driver is told so when it is made: no reading of the one
// and the other leaves a balloon that looks well and does nothing.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <tuple>
#include <vector>

#include "tests/virtio/balloon_testing.h"
#include "tests/virtio/virtio_testing.h"

namespace guestmm::queue_numbering_test {
namespace {

using ::testing::AnyOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr QueueNumbering kNumberings[] = {QueueNumbering::kCompactByOffered,
                                          QueueNumbering::kFixed,
                                          QueueNumbering::kCompactByNegotiated};
constexpr uint64_t kStats = kBalloonFStatsVq;
constexpr uint64_t kHints = kBalloonFFreePageHint;
constexpr uint64_t kReports = kBalloonFPageReporting;

// Which have a queue of their own.
constexpr uint64_t kQueueFeatures = kStats | kHints | kReports;

std::vector<std::optional<uint16_t>> Indexes(QueueNumbering numbering,
                                             uint64_t offered,
                                             uint64_t negotiated) {
  std::vector<std::optional<uint16_t>> indexes;
  for (uint16_t place = 0; place < kBalloonQueues; ++place) {
    indexes.push_back(BalloonQueueIndex(static_cast<BalloonQueue>(place),
                                        numbering, offered, negotiated));
  }
  return indexes;
}

// Whether the two mean the same queues by the numbers that the driver uses.
bool Agree(QueueNumbering device, QueueNumbering driver, uint64_t offered,
           uint64_t negotiated) {
  const auto of_device = Indexes(device, offered, negotiated);
  const auto of_driver = Indexes(driver, offered, negotiated);
  constexpr uint64_t kFeature[] = {0, 0, kStats, kHints, kReports};
  for (size_t place = 0; place < kBalloonQueues; ++place) {
    const bool is_used = (negotiated & kFeature[place]) == kFeature[place];
    if (is_used && of_device[place] != of_driver[place]) return false;
  }
  return true;
}

// Everything that a balloon does gets through, each on its own queue.
void ExpectAllQueuesWork(BalloonGuest& guest, uint64_t features) {
  BalloonDevice& device = guest.device();
  device.SetTarget(300);
  guest.time().RunUntilIdle();
  EXPECT_EQ(device.counters().inflated_pages, 300u);
  device.SetTarget(0);
  guest.time().RunUntilIdle();
  EXPECT_EQ(device.counters().deflated_pages, 300u);
  if ((features & kStats) != 0) {
    EXPECT_TRUE(device.RequestStatistics().ok());
    guest.time().RunUntilIdle();
    EXPECT_EQ(device.counters().stats_updates, 2u);
  }
  if ((features & kHints) != 0) {
    EXPECT_TRUE(device.StartHinting().ok());
    guest.time().RunUntilIdle();
    EXPECT_GT(device.counters().hints, 0u);
    EXPECT_EQ(guest.config().free_page_hint_cmd_id, kHintDone);
  }
  if ((features & kReports) != 0) {
    BalloonClient client;
    EXPECT_TRUE(guest.driver().Report({{{Gpa(6 * kMiB), kMiB}}}, client).ok());
    guest.time().RunUntilIdle();
    EXPECT_THAT(client.ended(), ElementsAre(true));
    EXPECT_EQ(device.counters().bytes, kMiB);
  }
  EXPECT_EQ(device.counters().skipped(), 0u);
  EXPECT_EQ(device.counters().bad_commands, 0u);
  EXPECT_EQ(device.counters().bad_pfns, 0u);
  EXPECT_EQ(device.counters().broken_queues, 0u);
}

// The device's, the driver's.
class QueueNumberingTest : public ::testing::TestWithParam<
                               std::tuple<QueueNumbering, QueueNumbering>> {};

INSTANTIATE_TEST_SUITE_P(All, QueueNumberingTest,
                         ::testing::Combine(::testing::ValuesIn(kNumberings),
                                            ::testing::ValuesIn(kNumberings)));

// Whatever queues are offered, and whatever the driver refuses of them.
TEST_P(QueueNumberingTest, S5_5_2_BothAgreeOrTheDriverIsTold) {
  const auto [of_device, of_driver] = GetParam();
  int agreed = 0;
  for (uint64_t offered = 0; offered <= kQueueFeatures; ++offered) {
    for (uint64_t wanted = 0; wanted <= kQueueFeatures; ++wanted) {
      if ((offered & ~kQueueFeatures) != 0 || (wanted & ~offered) != 0) {
        continue;
      }
      SCOPED_TRACE(
          absl::StrFormat("offered 0x%x, wanted 0x%x", offered, wanted));
      BalloonGuest guest({.features = offered, .queue_numbering = of_device});
      const absl::Status status =
          guest.Start({.features = wanted, .queue_numbering = of_driver});
      ASSERT_EQ(status.ok(), Agree(of_device, of_driver, offered, wanted))
          << status;
      if (status.ok()) {
        ++agreed;
        ASSERT_NO_FATAL_FAILURE(ExpectAllQueuesWork(guest, wanted));
        continue;
      }
      EXPECT_EQ(guest.device().status(), kVirtioFailed);
      EXPECT_EQ(guest.allocator().Counts().allocated(), PageCount(0));
      EXPECT_THAT(Message(status),
                  AllOf(HasSubstr(" queue: "),
                        AnyOf(HasSubstr("the device has no queue"),
                              HasSubstr("the driver needs"))));
    }
  }
  // 27 of them are there; alike, both agree on all.
  EXPECT_GE(agreed, 8);
  if (of_device == of_driver) {
    EXPECT_EQ(agreed, 27);
  }
}

// --- What once broke real ones.

absl::Status Start(BalloonGuest& guest, uint64_t refused,
                   QueueNumbering numbering) {
  return guest.Start(
      {.features = kBalloonFeatures & ~refused, .queue_numbering = numbering});
}

// A device that had reporting at 4 though it offered neither of those before:
// Linux looked for it at 2, and nothing was ever reported.
TEST(QueueNumbering, S5_5_2_AFixedFourAndACompactDriver) {
  const BalloonDeviceOptions options = {
      .features = kReports, .queue_numbering = QueueNumbering::kFixed};
  BalloonGuest guest(options);
  const absl::Status status =
      Start(guest, 0, QueueNumbering::kCompactByOffered);
  EXPECT_TRUE(absl::IsFailedPrecondition(status));
  EXPECT_EQ(Message(status), "reporting queue: the device has no queue 2");
  BalloonGuest fixed(options);
  ASSERT_TRUE(Start(fixed, 0, QueueNumbering::kFixed).ok());
  ExpectAllQueuesWork(fixed, kReports);
}
// With all of them offered the two readings are one.
TEST(QueueNumbering, S5_5_2_AFixedFourAndACompactDriverOfAllQueues) {
  BalloonGuest guest(
      {.features = kQueueFeatures, .queue_numbering = QueueNumbering::kFixed});
  ASSERT_TRUE(Start(guest, 0, QueueNumbering::kCompactByOffered).ok());
  ExpectAllQueuesWork(guest, kQueueFeatures);
}
// A driver that numbers the queues it uses, as Linux's does, and refuses one
// that is offered: what it takes for the next is the one that it refused. (What
// Linux's does refuse is reporting, which is the last.)
TEST(QueueNumbering, S5_5_2_ACompactDriverThatRefusesAQueue) {
  for (const uint64_t refused : {kStats, kHints}) {
    BalloonGuest guest({.features = kQueueFeatures});
    const absl::Status status =
        Start(guest, refused, QueueNumbering::kCompactByNegotiated);
    EXPECT_TRUE(absl::IsNotFound(status)) << status;
    EXPECT_THAT(Message(status), HasSubstr("the device has no queue"));
  }
  // Of a queue behind the others that it needs, nothing moves.
  BalloonGuest guest({.features = kQueueFeatures});
  ASSERT_TRUE(
      Start(guest, kReports, QueueNumbering::kCompactByNegotiated).ok());
  ExpectAllQueuesWork(guest, kStats | kHints);
}
// A driver that leaves holes for the queues that are not there, as one for
// channel I/O did, before a device that does not: hints meet the reporting
// queue, which is there, before reporting meets none.
TEST(QueueNumbering, S5_5_2_HolesBeforeACompactDevice) {
  BalloonGuest guest({.features = kHints | kReports});
  const absl::Status status = Start(guest, 0, QueueNumbering::kFixed);
  EXPECT_TRUE(absl::IsFailedPrecondition(status));
  EXPECT_EQ(Message(status), "reporting queue: the device has no queue 4");
  BalloonGuest stats({.features = kStats | kReports});
  EXPECT_EQ(Message(Start(stats, 0, QueueNumbering::kFixed)),
            "reporting queue: the device has no queue 4");
}
// The other way round.
TEST(QueueNumbering, S5_5_2_ACompactDriverBeforeADeviceWithHoles) {
  BalloonGuest guest({.features = kHints | kReports,
                      .queue_numbering = QueueNumbering::kFixed});
  const absl::Status status =
      Start(guest, 0, QueueNumbering::kCompactByOffered);
  EXPECT_TRUE(absl::IsFailedPrecondition(status));
  EXPECT_EQ(Message(status), "free page queue: the device has no queue 2");
}

TEST(QueueNumbering, S5_5_2_EachReading) {
  constexpr std::nullopt_t kNone = std::nullopt;
  EXPECT_THAT(Indexes(QueueNumbering::kFixed, kStats | kReports, kReports),
              ElementsAre(0, 1, 2, kNone, 4));
  EXPECT_THAT(
      Indexes(QueueNumbering::kCompactByOffered, kStats | kReports, kReports),
      ElementsAre(0, 1, 2, kNone, 3));
  EXPECT_THAT(Indexes(QueueNumbering::kCompactByNegotiated, kStats | kReports,
                      kReports),
              ElementsAre(0, 1, kNone, kNone, 2));
}

}  // namespace
}  // namespace guestmm::queue_numbering_test
