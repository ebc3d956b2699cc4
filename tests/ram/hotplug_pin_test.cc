// What a translation pins cannot be removed.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstddef>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "guestmm/ram/guest_ram.h"
#include "tests/ram/hotplug_testing.h"

namespace guestmm::hotplug_pin_test {
namespace {

using hotplug_testing::ByteAt;
using hotplug_testing::Fill;
using hotplug_testing::MakeRam;
using hotplug_testing::Message;
using ::testing::HasSubstr;

TEST(HotplugPinTest, ATranslationRefusesTheRemoval) {
  const auto ram = MakeRam({{Gpa(0), 4 * kMiB}});
  const GpaRange block = {Gpa(kMiB), kMiB};
  Fill(*ram, block, 3);
  std::optional<Translation> first = ram->Translate({Gpa(kMiB), 1});
  std::optional<Translation> second = ram->Translate({Gpa(0), 4 * kMiB});
  const absl::Status status = ram->RemoveRegion(block);
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(Message(status),
            "region 0x100000 + 1.00 MiB: translations that point into it: 2");
  // With no effect.
  EXPECT_EQ(ByteAt(*ram, Gpa(kMiB)), 3);
  EXPECT_EQ(ram->bytes(), 4 * kMiB);

  second.reset();
  EXPECT_THAT(Message(ram->RemoveRegion(block)), HasSubstr("into it: 1"));
  first.reset();
  EXPECT_EQ(ram->RemoveRegion(block), absl::OkStatus());
}

// Of one region, too.
TEST(HotplugPinTest, WhatIsPinnedBesideItDoesNot) {
  const auto ram = MakeRam({{Gpa(0), 4 * kMiB}});
  const Translation before = ram->Translate({Gpa(0), kMiB}).value();
  const Translation after = ram->Translate({Gpa(2 * kMiB), kMiB}).value();
  EXPECT_EQ(ram->RemoveRegion({Gpa(kMiB), kMiB}), absl::OkStatus());
  before.bytes().back() = after.bytes().front() = std::byte{1};
  EXPECT_EQ(ByteAt(*ram, Gpa(2 * kMiB)), 1);
}

TEST(HotplugPinTest, ItsFirstAndItsLastByteCount) {
  const auto ram = MakeRam({{Gpa(0), 4 * kMiB}});
  for (const GpaRange& pinned :
       {GpaRange{Gpa(kMiB - 1), 2}, GpaRange{Gpa(2 * kMiB - 1), 1}}) {
    SCOPED_TRACE(pinned);
    const Translation translation = ram->Translate(pinned).value();
    EXPECT_EQ(ram->RemoveRegion({Gpa(kMiB), kMiB}).code(),
              absl::StatusCode::kFailedPrecondition);
  }
}

TEST(HotplugPinTest, MovesWithTheTranslation) {
  const auto ram = MakeRam({{Gpa(0), kMiB}, {Gpa(kMiB), kMiB}});
  std::optional<Translation> low = ram->Translate({Gpa(0), kMiB});
  std::optional<Translation> high = ram->Translate({Gpa(kMiB), kMiB});
  std::optional<Translation> moved = std::move(low);
  EXPECT_TRUE(low->bytes().empty());  // NOLINT(bugprone-use-after-move)
  low.reset();
  EXPECT_EQ(moved->bytes().size(), kMiB);
  EXPECT_FALSE(ram->RemoveRegion({Gpa(0), kMiB}).ok());
  // The range pinned before is released immediately.
  *moved = *std::move(high);
  EXPECT_EQ(ram->RemoveRegion({Gpa(0), kMiB}), absl::OkStatus());
  EXPECT_FALSE(ram->RemoveRegion({Gpa(kMiB), kMiB}).ok());
  moved.reset();
  EXPECT_EQ(ram->RemoveRegion({Gpa(kMiB), kMiB}), absl::OkStatus());
}

TEST(HotplugPinTest, CountsThoseOfAllThreadsAndEndsOnAnyThread) {
  const auto ram = MakeRam({{Gpa(0), kMiB}});
  constexpr size_t kThreads = 40;  // more than there are shards
  std::vector<std::optional<Translation>> translations(kThreads);
  for (std::optional<Translation>& translation : translations) {
    std::thread([&] { translation = ram->Translate({Gpa(0), 1}); }).join();
  }
  EXPECT_THAT(Message(ram->RemoveRegion({Gpa(0), kMiB})),
              HasSubstr("into it: 40"));
  std::thread([&] { translations.clear(); }).join();
  EXPECT_EQ(ram->RemoveRegion({Gpa(0), kMiB}), absl::OkStatus());
}

TEST(HotplugPinDeathTest, GuestRamOutlivesItsTranslations) {
  EXPECT_DEATH(
      {
        auto ram = MakeRam({{Gpa(0), kMiB}});
        const auto translation = ram->Translate({Gpa(0), 1});
        ram.reset();
      },
      "guest RAM destroyed with 1 translations alive");
}

}  // namespace
}  // namespace guestmm::hotplug_pin_test
