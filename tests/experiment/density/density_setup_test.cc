// The options of the density experiment, and the sizes that follow from them.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <cstdint>
#include <limits>
#include <string>

#include "guestmm/experiment/density/density.h"

namespace guestmm::density_setup_test {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

// The error of ResolveDensity for `options`.
std::string ErrorOf(const DensityOptions& options,
                    uint64_t available_bytes = kTiB) {
  const absl::Status status = ResolveDensity(options, available_bytes).status();
  EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
  return std::string(status.message());
}

TEST(ResolveDensityTest, DefaultsArePlainSizes) {
  const auto setup = ResolveDensity({}, kTiB);
  ASSERT_EQ(setup.status(), absl::OkStatus());
  EXPECT_EQ(setup->guest_bytes, 512 * kMiB);
  EXPECT_EQ(setup->host_bytes, 1536 * kMiB);
  EXPECT_EQ(setup->footprint_bytes, 26 * kMiB);
  EXPECT_EQ(setup->workload_min_bytes, 410 * kMiB);
  EXPECT_FALSE(setup->real_time);
}

TEST(ResolveDensityTest, ScaleOneHasTheCoverLettersSizes) {
  const auto setup = ResolveDensity({.scale = 1}, kTiB);
  EXPECT_EQ(setup->guest_bytes, 5 * kGiB);
  EXPECT_EQ(setup->host_bytes, 15 * kGiB);
  EXPECT_EQ(setup->footprint_bytes, 256 * kMiB);
  EXPECT_EQ(setup->workload_min_bytes, 4 * kGiB);
}

TEST(ResolveDensityTest, SizesThatAreGivenAreNotScaled) {
  const auto setup = ResolveDensity({.scale = 0.5,
                                     .guest_bytes = kGiB,
                                     .host_bytes = 4 * kGiB,
                                     .footprint_bytes = 100 * kMiB,
                                     .workload_min_bytes = 200 * kMiB},
                                    kTiB);
  EXPECT_EQ(setup->guest_bytes, kGiB);
  EXPECT_EQ(setup->host_bytes, 4 * kGiB);
  EXPECT_EQ(setup->footprint_bytes, 100 * kMiB);
  EXPECT_EQ(setup->workload_min_bytes, 200 * kMiB);
}

TEST(ResolveDensityTest, FootprintAndWorkloadAreInProportionToTheGuest) {
  const auto setup = ResolveDensity({.guest_bytes = 200 * kMiB}, kTiB);
  EXPECT_EQ(setup->host_bytes, 1536 * kMiB);
  EXPECT_EQ(setup->footprint_bytes, 10 * kMiB);
  EXPECT_EQ(setup->workload_min_bytes, 160 * kMiB);
}

TEST(ResolveDensityTest, AVmmImpliesRealTime) {
  const auto setup = ResolveDensity({.vmm_socket = "/tmp/balloon"}, kTiB);
  EXPECT_TRUE(setup->real_time);
  EXPECT_EQ(ErrorOf({.real_time = false, .vmm_socket = "/tmp/balloon"}),
            "--real-time=off: must be on with --vmm");
}

TEST(ResolveDensityTest, MechanismsArePoliciesByAnotherGrammar) {
  EXPECT_THAT(ResolveDensity({}, kTiB)->options.policies,
              ElementsAre("off", "v12", "linux", "adaptive"));
  const auto setup =
      ResolveDensity({.mechanisms = {"off", "reporting:v12:order=6"}}, kTiB);
  ASSERT_EQ(setup.status(), absl::OkStatus());
  EXPECT_THAT(setup->options.policies, ElementsAre("off", "v12:order=6"));
  EXPECT_THAT(setup->options.mechanisms, IsEmpty());
}

TEST(ResolveDensityTest, NamesAMechanismThatIsWrong) {
  EXPECT_EQ(ErrorOf({.policies = {"off"}, .mechanisms = {"off"}}),
            "--mechanisms=off: must be unset with --policies");
  // Its row is always there.
  EXPECT_EQ(ErrorOf({.mechanisms = {"off", "limit"}}),
            "--mechanisms=limit: must be one of off, reporting");
  EXPECT_EQ(ErrorOf({.mechanisms = {"foo"}}),
            "--mechanisms=foo: must be one of off, reporting");
  EXPECT_EQ(ErrorOf({.mechanisms = {"real"}}),
            "--mechanisms=real: must be one of off, reporting");
  EXPECT_EQ(ErrorOf({.mechanisms = {"reporting:linux:order=11"}}),
            "--mechanisms=reporting:linux:order=11: order must be 0 to 10");
}

TEST(ResolveDensityTest, NamesASizeThatIsOutOfBounds) {
  EXPECT_EQ(ErrorOf({.scale = 0.0}), "--scale=0: must be 0.02 to 64");
  EXPECT_EQ(ErrorOf({.scale = 65.0}), "--scale=65: must be 0.02 to 64");
  EXPECT_EQ(ErrorOf({.scale = std::numeric_limits<double>::quiet_NaN()}),
            "--scale=nan: must be 0.02 to 64");
  EXPECT_EQ(ErrorOf({.guest_bytes = 63 * kMiB}),
            "--guest-memory=63MiB: must be 64MiB to 64TiB");
  EXPECT_EQ(ErrorOf({.guest_bytes = 100'000'001}),
            "--guest-memory=100000001: must be whole pages of 4 KiB");
  EXPECT_EQ(ErrorOf({.host_bytes = 0}),
            "--host-memory=0: must be 512MiB to 64TiB");
  EXPECT_EQ(ErrorOf({.host_bytes = uint64_t{1} << 63}),
            "--host-memory=8388608TiB: must be 0 to 64TiB");
  EXPECT_EQ(ErrorOf({.footprint_bytes = ~uint64_t{0}}),
            "--footprint=18446744073709551615: must be 0 to 64TiB");
  EXPECT_EQ(ErrorOf({.footprint_bytes = 385 * kMiB}),
            "--footprint=385MiB: must be 0 to 384MiB");
  EXPECT_EQ(ErrorOf({.footprint_bytes = 0, .workload_min_bytes = kGiB}),
            "--workload-min=1GiB: must be 0 to 480MiB");
}

TEST(ResolveDensityTest, AHostMustFitTheMachine) {
  EXPECT_EQ(ErrorOf({.scale = 1.0}, 8 * kGiB),
            "--scale=1: must be less: a host of 15.00 GiB needs 15.72 GiB of "
            "real memory, and this machine has 8.00 GiB available");
  EXPECT_EQ(ErrorOf({.host_bytes = 32 * kTiB}, 8 * kGiB),
            "--host-memory=32TiB: must be less: a host of 32.00 TiB needs "
            "33.00 TiB of real memory, and this machine has 8.00 GiB "
            "available");
  EXPECT_THAT(ErrorOf({}, kGiB), HasSubstr("--scale=0.1: must be less"));
}

TEST(ResolveDensityTest, NamesWhatElseIsOutOfBounds) {
  EXPECT_EQ(ErrorOf({.policies = {""}}),
            "--policies=\"\": must be one or more policies, separated by "
            "commas");
  EXPECT_EQ(ErrorOf({.settle_seconds = -1}),
            "--settle=-1: must be 0 to 86400 seconds");
  EXPECT_EQ(ErrorOf({.max_guests = 0}), "--max-guests=0: must be 1 to 100000");
  EXPECT_EQ(ErrorOf({.hypervisor = HypervisorKind::kNone,
                     .vmm_socket = "/tmp/balloon"}),
            "--hypervisor=none: must be madvise with --vmm: the VMM has the "
            "hypervisor");
}

}  // namespace
}  // namespace guestmm::density_setup_test
