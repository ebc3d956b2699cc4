#include <benchmark/benchmark.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "guestmm/base/check.h"
#include "guestmm/base/units.h"
#include "guestmm/base/virtual_time.h"
#include "guestmm/host/discard/null_hypervisor.h"
#include "guestmm/ram/guest_ram.h"
#include "guestmm/virtio/device/balloon_device.h"
#include "guestmm/virtio/device/device_queue.h"
#include "guestmm/virtio/driver/driver_queue.h"

namespace guestmm {
namespace {

constexpr uint64_t kRamBytes = 64 * kMiB;

std::unique_ptr<GuestRam> MakeRam() {
  auto ram = GuestRam::Create({.regions = {{Gpa(0), kRamBytes}}});
  GUESTMM_CHECK(ram.ok()) << std::string(ram.status().message());
  return *std::move(ram);
}

// `count` blocks of 2 MiB, starting at 2 MiB.
std::vector<GpaRange> Blocks(int64_t count) {
  std::vector<GpaRange> blocks;
  for (int64_t i = 1; i <= count; ++i) {
    blocks.push_back({Gpa(static_cast<uint64_t>(i) * 2 * kMiB), 2 * kMiB});
  }
  return blocks;
}

// The round trip of one chain through the ring, both sides on one thread. v12
// sends 16 entries, Linux 32.
void RoundTrip(benchmark::State& state, VirtqueueFeatures features) {
  const auto ram = MakeRam();
  const VirtqueueLayout layout = LayOutVirtqueue(Gpa(0), 32);
  DriverQueue driver = *DriverQueue::Create(
      *ram, layout,
      {.features = features, .tables = LayOutTables(layout, 1, 32)});
  DeviceQueue device = *DeviceQueue::Create(*ram, layout, features);
  const std::vector<GpaRange> blocks = Blocks(state.range(0));
  for (auto _ : state) {
    GUESTMM_CHECK(driver.Add({}, blocks, 1).ok());
    benchmark::DoNotOptimize(driver.NeedsKick());
    const auto chain = device.Pop();
    GUESTMM_CHECK(chain.ok() && chain->has_value());
    device.Push((*chain)->head, 0);
    benchmark::DoNotOptimize(device.NeedsNotification());
    const auto used = driver.GetUsed();
    GUESTMM_CHECK(used.ok() && used->has_value());
  }
  state.counters["entries"] = benchmark::Counter(
      static_cast<double>(state.iterations() * state.range(0)),
      benchmark::Counter::kIsRate);
}

void BM_RoundTrip(benchmark::State& state) { RoundTrip(state, {}); }
BENCHMARK(BM_RoundTrip)->ArgName("entries")->Arg(1)->Arg(16)->Arg(32);

void BM_RoundTripIndirect(benchmark::State& state) {
  RoundTrip(state, {.indirect = true});
}
BENCHMARK(BM_RoundTripIndirect)->ArgName("entries")->Arg(16)->Arg(32);

void BM_RoundTripEventIndex(benchmark::State& state) {
  RoundTrip(state, {.event_index = true});
}
BENCHMARK(BM_RoundTripEventIndex)->ArgName("entries")->Arg(1)->Arg(32);

class NullNotifier final : public Notifier {
 public:
  void Notify() override {}
};

// The same with a balloon device and a hypervisor that discards nothing:
// measures the checks of each descriptor against guest RAM.
void BM_ReportToBalloonDevice(benchmark::State& state) {
  const auto ram = MakeRam();
  NullHypervisor hypervisor;
  VirtualTime time(1);
  BalloonDevice device(*ram, hypervisor, time);
  NullNotifier used;
  constexpr uint8_t kAgreed =
      kVirtioAcknowledge | kVirtioDriver | kVirtioFeaturesOk;
  GUESTMM_CHECK(device.SetDriverFeatures(device.DeviceFeatures()).ok());
  device.SetStatus(kAgreed);
  const VirtqueueLayout layout = LayOutVirtqueue(Gpa(0), 32);
  const auto kick = device.SetUpQueue(2, layout, used);
  GUESTMM_CHECK(kick.ok());
  device.SetStatus(kAgreed | kVirtioDriverOk);
  DriverQueue driver =
      *DriverQueue::Create(*ram, layout,
                           {.features = BalloonDeviceOptions().queue_features,
                            .tables = LayOutTables(layout, 1, 32)});
  const std::vector<GpaRange> blocks = Blocks(state.range(0));
  for (auto _ : state) {
    GUESTMM_CHECK(driver.Add({}, blocks, 1).ok());
    (*kick)->Notify();
    time.RunUntilIdle();
    GUESTMM_CHECK(driver.GetUsed()->has_value());
  }
  state.counters["entries"] = benchmark::Counter(
      static_cast<double>(state.iterations() * state.range(0)),
      benchmark::Counter::kIsRate);
}
BENCHMARK(BM_ReportToBalloonDevice)->ArgName("entries")->Arg(16)->Arg(32);

}  // namespace
}  // namespace guestmm

BENCHMARK_MAIN();
