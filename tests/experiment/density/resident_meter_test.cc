// Which guests a measurement looks at, and what it tells.

#include "src/experiment/density/resident_meter.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <vector>

#include "guestmm/base/memory_map.h"
#include "guestmm/base/units.h"
#include "guestmm/base/virtual_time.h"
#include "guestmm/host/discard/discarding_hypervisor.h"
#include "guestmm/host/discard/hypervisor.h"
#include "guestmm/machine/real/guest.h"

namespace guestmm::resident_meter_test {
namespace {

using testing::ElementsAre;

class ResidentMeterTest : public ::testing::Test {
 protected:
  ResidentMeterTest() { setup_.host_bytes = Bytes(20); }
  // RAM of 4 KiB pages, of which nothing is resident.
  std::unique_ptr<Guest> MakeGuest() {
    Hypervisor* host = nullptr;
    auto guest =
        *Guest::Create({.memory = MemoryMap::Pc(16 * kMiB),
                        .huge_pages = HugePages::kForbid,
                        .make_hypervisor =
                            [&](const GuestRam& ram) {
                              auto made =
                                  *DiscardingHypervisor::Create(ram, {});
                              host = made.get();
                              return made;
                            },
                        .virtual_time = &time_});
    hosts_[guest.get()] = host;
    return guest;
  }
  // Makes `pages` more pages resident; returns the first.
  static Pfn Touch(Guest& guest, Order pages) {
    const Pfn pfn = *guest.vcpu(0).Allocate(pages);
    guest.vcpu(0).Touch(pfn, pages, /*stamp=*/1);
    return pfn;
  }
  static constexpr uint64_t Bytes(int pages) {
    return static_cast<uint64_t>(pages) * kPageSize;
  }
  // Discards what Touch returned, as the guest's device does.
  void Discard(Guest& guest, Pfn pfn, Order pages) {
    const GpaRange range = {ToGpa(pfn), pages.bytes()};
    EXPECT_EQ(hosts_[&guest]->Discard(std::span(&range, 1)), absl::OkStatus());
  }
  std::vector<uint64_t> Resident() const {
    std::vector<uint64_t> bytes;
    for (const DensitySample& sample : samples_) {
      bytes.push_back(sample.resident_bytes);
    }
    return bytes;
  }
  std::vector<int> Guests() const {
    std::vector<int> guests;
    for (const DensitySample& sample : samples_) {
      guests.push_back(sample.guests);
    }
    return guests;
  }

  VirtualTime time_{/*seed=*/1};
  std::map<const Guest*, Hypervisor*> hosts_;
  DensitySetup setup_;
  std::function<void(const DensityProgress&)> progress_;
  std::function<bool()> stopped_;
  std::vector<DensitySample> samples_;
  ResidentMeter meter_{setup_, "linux", time_, progress_, stopped_, samples_};
};

TEST_F(ResidentMeterTest, CountsSettledGuestsAndTheOneThatIsLaunched) {
  const auto first = MakeGuest();
  const auto second = MakeGuest();
  ASSERT_EQ(meter_.BeginLaunch(*first), absl::OkStatus());
  Touch(*first, Order(2));
  EXPECT_EQ(meter_.Measure().value(), Bytes(4));
  meter_.EndLaunch();
  ASSERT_EQ(meter_.BeginLaunch(*second), absl::OkStatus());
  time_.RunFor(std::chrono::seconds(3));
  Touch(*second, Order(1));
  EXPECT_EQ(meter_.Measure().value(), Bytes(6));
  EXPECT_THAT(Resident(), ElementsAre(Bytes(4), Bytes(6)));
  EXPECT_THAT(Guests(), ElementsAre(1, 2));
  EXPECT_EQ(samples_[1].policy, "linux");
  EXPECT_EQ(samples_[1].seconds, 3);
  EXPECT_EQ(meter_.MeasureSettled().value(), Bytes(4))
      << "the second has not settled";
  meter_.EndLaunch();
  EXPECT_EQ(meter_.MeasureSettled().value(), Bytes(6));
}

TEST_F(ResidentMeterTest, ThePeakIsOfOneLaunch) {
  const auto first = MakeGuest();
  const auto second = MakeGuest();
  ASSERT_EQ(meter_.BeginLaunch(*first), absl::OkStatus());
  const Pfn pfn = Touch(*first, Order(3));
  ASSERT_TRUE(meter_.Measure().ok());
  Discard(*first, pfn, Order(3));
  EXPECT_EQ(meter_.Measure().value(), 0u);
  EXPECT_EQ(meter_.peak_bytes(), Bytes(8));
  meter_.EndLaunch();
  ASSERT_EQ(meter_.BeginLaunch(*second), absl::OkStatus());
  EXPECT_EQ(meter_.peak_bytes(), 0u);
  Touch(*second, Order(0));
  ASSERT_TRUE(meter_.Measure().ok());
  EXPECT_EQ(meter_.peak_bytes(), Bytes(1));
}

// What a settled guest gave back since is found only then: a look costs time.
TEST_F(ResidentMeterTest, SettledGuestsAreLookedAtWhereTheHostSeemsFull) {
  const auto first = MakeGuest();
  const auto second = MakeGuest();
  ASSERT_EQ(meter_.BeginLaunch(*first), absl::OkStatus());
  const Pfn pfn = Touch(*first, Order(4));
  ASSERT_TRUE(meter_.Measure().ok());
  meter_.EndLaunch();
  ASSERT_EQ(meter_.BeginLaunch(*second), absl::OkStatus());
  Discard(*first, pfn, Order(3));
  Touch(*second, Order(2));
  EXPECT_EQ(meter_.Measure().value(), Bytes(20)) << "just fits: not looked at";
  Touch(*second, Order(0));
  EXPECT_EQ(meter_.Measure().value(), Bytes(13));
  // Of a guest that discarded nothing since, the last look holds.
  Touch(*first, Order(4));
  Touch(*second, Order(3));
  EXPECT_EQ(meter_.Measure().value(), Bytes(21));
}

TEST_F(ResidentMeterTest, TellsOfEachMeasurementAndStops) {
  const auto guest = MakeGuest();
  std::vector<DensityProgress> told;
  progress_ = [&](const DensityProgress& at) { told.push_back(at); };
  ASSERT_EQ(meter_.BeginLaunch(*guest), absl::OkStatus());
  Touch(*guest, Order(1));
  ASSERT_TRUE(meter_.Measure().ok());
  ASSERT_EQ(told.size(), 1u);
  EXPECT_EQ(told[0].policy, "linux");
  EXPECT_EQ(told[0].guest, 1);
  EXPECT_EQ(told[0].resident_bytes, Bytes(2));
  EXPECT_EQ(told[0].host_bytes, Bytes(20));
  stopped_ = [] { return true; };
  EXPECT_TRUE(absl::IsCancelled(meter_.Measure().status()));
  EXPECT_EQ(samples_.size(), 1u);
}

}  // namespace
}  // namespace guestmm::resident_meter_test
