// The specification numbers a balloon's queues, and says that each "only exists
// if" its feature "is set". Implementations read that in three ways. Device and
// driver either agree on all queues, or the driver gets an error when it is
// created: no combination makes a balloon that seems to work and does nothing.

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

// The features with a queue of their own.
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

// Whether both have the same queue at each index that the driver uses.
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

// Checks that each queue of the balloon works.
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

// The device's numbering, the driver's.
class QueueNumberingTest : public ::testing::TestWithParam<
                               std::tuple<QueueNumbering, QueueNumbering>> {};

INSTANTIATE_TEST_SUITE_P(All, QueueNumberingTest,
                         ::testing::Combine(::testing::ValuesIn(kNumberings),
                                            ::testing::ValuesIn(kNumberings)));

// With any queues offered, and any of them declined by the driver.
TEST_P(QueueNumberingTest, S5_5_2_BothAgreeOrTheDriverGetsAnError) {
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
  // There are 27 combinations; with equal numbering both agree on all.
  EXPECT_GE(agreed, 8);
  if (of_device == of_driver) {
    EXPECT_EQ(agreed, 27);
  }
}

// --- Combinations that have failed in real systems.

absl::Status Start(BalloonGuest& guest, uint64_t refused,
                   QueueNumbering numbering) {
  return guest.Start(
      {.features = kBalloonFeatures & ~refused, .queue_numbering = numbering});
}

// The device had reporting at 4 without offering the queues before it. Linux
// expected it at 2, so nothing was reported.
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
// If all queues are offered the two numberings are the same.
TEST(QueueNumbering, S5_5_2_AFixedFourAndACompactDriverOfAllQueues) {
  BalloonGuest guest(
      {.features = kQueueFeatures, .queue_numbering = QueueNumbering::kFixed});
  ASSERT_TRUE(Start(guest, 0, QueueNumbering::kCompactByOffered).ok());
  ExpectAllQueuesWork(guest, kQueueFeatures);
}
// A driver that numbers the queues that it uses, like Linux's, and declines an
// offered one: it takes the next queue for the one that it declined. (Linux's
// driver declines only reporting, which is last.)
TEST(QueueNumbering, S5_5_2_ACompactDriverThatDeclinesAQueue) {
  for (const uint64_t refused : {kStats, kHints}) {
    BalloonGuest guest({.features = kQueueFeatures});
    const absl::Status status =
        Start(guest, refused, QueueNumbering::kCompactByNegotiated);
    EXPECT_TRUE(absl::IsNotFound(status)) << status;
    EXPECT_THAT(Message(status), HasSubstr("the device has no queue"));
  }
  // With a queue behind the required ones, no numbers change.
  BalloonGuest guest({.features = kQueueFeatures});
  ASSERT_TRUE(
      Start(guest, kReports, QueueNumbering::kCompactByNegotiated).ok());
  ExpectAllQueuesWork(guest, kStats | kHints);
}
// A driver that leaves gaps for queues that are not there (as channel I/O had)
// with a device that does not: hints go to the reporting queue, which exists,
// and then there is no queue for reporting.
TEST(QueueNumbering, S5_5_2_HolesBeforeACompactDevice) {
  BalloonGuest guest({.features = kHints | kReports});
  const absl::Status status = Start(guest, 0, QueueNumbering::kFixed);
  EXPECT_TRUE(absl::IsFailedPrecondition(status));
  EXPECT_EQ(Message(status), "reporting queue: the device has no queue 4");
  BalloonGuest stats({.features = kStats | kReports});
  EXPECT_EQ(Message(Start(stats, 0, QueueNumbering::kFixed)),
            "reporting queue: the device has no queue 4");
}
// The reverse.
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
