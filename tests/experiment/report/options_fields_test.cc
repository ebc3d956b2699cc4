// The options of the experiments as Fields: all that a Field can hold has one,
// and each is read back from JSON.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <string>

#include "guestmm/experiment/compare/compare.h"
#include "guestmm/experiment/density/density.h"
#include "guestmm/experiment/replay/replay.h"
#include "src/experiment/report/fields_json.h"

namespace guestmm::options_fields_test {
namespace {

using Json = nlohmann::ordered_json;

// What `text` sets: every field, to other than its default. Expects that it is
// read back from its JSON.
template <typename T>
T Read(const Fields<T>& fields, const char* text) {
  const Json json = Json::parse(text);
  T options;
  EXPECT_EQ(FieldsFromJson(fields, "options", json, options), absl::OkStatus());
  for (const Field<T>& field : fields) {
    EXPECT_NE(field.Get(options), field.Get(T())) << field.name();
  }
  T copy;
  EXPECT_EQ(
      FieldsFromJson(fields, "options", FieldsJson(fields, options), copy),
      absl::OkStatus());
  for (const Field<T>& field : fields) {
    EXPECT_EQ(field.Get(copy), field.Get(options)) << field.name();
  }
  return options;
}

// Expects that the defaults are valid, and are read back from their JSON.
template <typename T>
void ExpectDefaults(const Fields<T>& fields) {
  EXPECT_EQ(fields.Check(T()), absl::OkStatus());
  T copy;
  EXPECT_EQ(FieldsFromJson(fields, "options", FieldsJson(fields, T()), copy),
            absl::OkStatus());
  EXPECT_EQ(FieldsJson(fields, copy), FieldsJson(fields, T()));
}

TEST(OptionsFieldsTest, OnlyListsMechanismsAndCostsHaveNone) {
  // policies, mechanisms, workloads, policy_parameters, costs.
  EXPECT_EQ(CompareFields().size() + 5, kMemberCount<CompareOptions>);
  // policies, mechanisms, policy_parameters.
  EXPECT_EQ(DensityFields().size() + 3, kMemberCount<DensityOptions>);
  // policy, policy_option, policy_parameters, costs, touch.
  EXPECT_EQ(ReplayFields().size() + 5, kMemberCount<ReplayOptions>);
}

TEST(OptionsFieldsTest, DefaultsAreValid) {
  ExpectDefaults(CompareFields());
  ExpectDefaults(DensityFields());
  ExpectDefaults(ReplayFields());
}

TEST(OptionsFieldsTest, CompareIsReadFromJson) {
  const CompareOptions options = Read(CompareFields(), R"({
    "seed": 7, "mode": "real", "kernel": "6.12", "reportable-order": 0,
    "granule": "2MiB", "khugepaged": true, "guest-memory": "256MiB",
    "vcpus": 4, "duration": 2.5, "rest": 0, "repeats": 3, "processes": 2})");
  EXPECT_EQ(options.seed, 7u);
  EXPECT_EQ(options.mode, CompareMode::kReal);
  EXPECT_EQ(options.kernel, KernelVersion::kV6_12);
  EXPECT_EQ(options.reportable_order, Order(0));
  EXPECT_EQ(options.granule, kPageblockOrder);
  EXPECT_TRUE(options.khugepaged);
  EXPECT_EQ(options.guest_bytes, 256 * kMiB);
  EXPECT_EQ(options.vcpus, 4u);
  EXPECT_EQ(options.duration_seconds, 2.5);
  EXPECT_EQ(options.rest_seconds, 0);
  EXPECT_EQ(options.repeats, 3u);
  EXPECT_EQ(options.processes, 2u);
}

TEST(OptionsFieldsTest, DensityIsReadFromJson) {
  const DensityOptions options = Read(DensityFields(), R"({
    "scale": 0.5, "guest-memory": 1073741824, "host-memory": "4GiB",
    "footprint": 0, "workload-min": "1MiB", "seed": 7, "kernel": "6.1",
    "hypervisor": "none",
    "huge-pages": "forbid", "real-time": true, "vmm": "/tmp/balloon",
    "idle-activity": false, "settle": 0.1, "max-guests": 3})");
  EXPECT_EQ(options.scale, 0.5);
  EXPECT_EQ(options.guest_bytes, kGiB);
  EXPECT_EQ(options.host_bytes, 4 * kGiB);
  EXPECT_EQ(options.footprint_bytes, 0u);
  EXPECT_EQ(options.workload_min_bytes, kMiB);
  EXPECT_EQ(options.seed, 7u);
  EXPECT_EQ(options.kernel, KernelVersion::kV6_1);
  EXPECT_EQ(options.hypervisor, HypervisorKind::kNone);
  EXPECT_EQ(options.huge_pages, HugePages::kForbid);
  EXPECT_EQ(options.real_time, true);
  EXPECT_EQ(options.vmm_socket, "/tmp/balloon");
  EXPECT_FALSE(options.idle_activity);
  EXPECT_EQ(options.settle_seconds, 0.1);
  EXPECT_EQ(options.max_guests, 3);
}

TEST(OptionsFieldsTest, ReplayIsReadFromJson) {
  const ReplayOptions options = Read(ReplayFields(), R"({
    "mode": "real", "placement": "native", "kernel": "6.12",
    "granule": "4KiB", "khugepaged": true, "reportable-order": 3,
    "speed": 1000, "seed": 7, "sample-interval": 1,
    "frame-interval": 2, "tail": 1.5, "skip-bad": 3})");
  EXPECT_EQ(options.mode, ReplayMode::kReal);
  EXPECT_EQ(options.placement, ReplayPlacement::kNative);
  EXPECT_EQ(options.kernel, KernelVersion::kV6_12);
  EXPECT_EQ(options.granule, Order(0));
  EXPECT_TRUE(options.khugepaged);
  EXPECT_EQ(options.reportable_order, Order(3));
  EXPECT_EQ(options.speed, 1000);
  EXPECT_EQ(options.seed, 7u);
  EXPECT_EQ(options.sample_interval, std::chrono::seconds(1));
  EXPECT_EQ(options.frame_interval, std::chrono::seconds(2));
  EXPECT_EQ(options.tail, std::chrono::milliseconds(1500));
  EXPECT_EQ(options.read.skip_bad, 3u);
}

}  // namespace
}  // namespace guestmm::options_fields_test
