// The balloon device and all its queues, with hostile guest memory. The input
// has the features that the guest accepts, the location of its queues, the
// contents of its RAM, and the steps that guest and host then take.
//
//   set-up: 6 + 8 bytes | fills the RAM, repeated | steps of 6 bytes

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "guestmm/base/check.h"
#include "guestmm/base/units.h"
#include "guestmm/base/virtual_time.h"
#include "guestmm/host/discard/hypervisor.h"
#include "guestmm/ram/guest_ram.h"
#include "guestmm/virtio/device/balloon_device.h"
#include "tests/testing/fuzz_input.h"
#include "tests/virtio/device/hostile_queue_testing.h"

namespace guestmm {
namespace {

constexpr uint64_t kRegionBytes = 128 * kKiB;
// Two adjacent regions, a hole, and another region: 384 KiB of 512.
constexpr uint64_t kEnd = 4 * kRegionBytes;
constexpr uint16_t kMaxQueueSize = 64;
constexpr uint64_t kPages = kEnd / kPageSize;

// Ends the process on a discard that no guest may cause. One in eight fails; in
// one of eight the guest may reset the device from inside.
class CheckingHypervisor final : public Hypervisor {
 public:
  explicit CheckingHypervisor(const GuestRam& ram) : ram_(ram) {}

  absl::Status Discard(std::span<const GpaRange> ranges) override {
    GUESTMM_CHECK(!ranges.empty() && ranges.size() <= kMaxBalloonPfns);
    for (const GpaRange& range : ranges) {
      GUESTMM_CHECK(range.gpa.IsAligned(HostPageSize()) &&
                    range.bytes % HostPageSize() == 0)
          << range;
      const auto memory = ram_.Translate(range);
      GUESTMM_CHECK(memory.has_value()) << range;
      // The guest, and its rings, then read zeroes.
      if (discards) std::memset(memory->bytes().data(), 0, range.bytes);
      bytes_ += range.bytes;
    }
    ++calls_;
    if (calls_ % 8 == 3) return absl::UnavailableError("refused");
    if (calls_ % 8 == 5 && reentering != nullptr) {
      reentering->SetStatus(0);
      did_reset = true;
    }
    return absl::OkStatus();
  }
  DiscardCounters counters() const override {
    return {.calls = calls_, .bytes = bytes_, .failures = 0};
  }

  bool discards = false;
  BalloonDevice* reentering = nullptr;
  bool did_reset = false;

 private:
  const GuestRam& ram_;
  uint64_t calls_ = 0;
  uint64_t bytes_ = 0;
};

class NullNotifier final : public Notifier {
 public:
  void Notify() override {}
};

const GuestRam& Ram() {
  static const std::unique_ptr<GuestRam> ram =
      *GuestRam::Create({.regions = {{Gpa(0), kRegionBytes},
                                     {Gpa(kRegionBytes), kRegionBytes},
                                     {Gpa(kEnd - kRegionBytes), kRegionBytes}},
                         .huge_pages = HugePages::kForbid});
  return *ram;
}

// Fills all of RAM with the input, repeated.
void Fill(std::span<const uint8_t> input) {
  size_t from = 0;
  for (const GpaRange& region : Ram().regions()) {
    const Translation memory = *Ram().Translate(region);
    const std::span<std::byte> bytes = memory.bytes();
    if (input.empty()) {
      std::memset(bytes.data(), 0, bytes.size());
      continue;
    }
    for (size_t at = 0; at < bytes.size();) {
      const size_t size = std::min(bytes.size() - at, input.size() - from);
      std::memcpy(bytes.data() + at, input.data() + from, size);
      at += size;
      from = (from + size) % input.size();
    }
  }
}

// Whether the two ranges share a byte.
bool Overlap(Gpa a, uint64_t a_bytes, Gpa b, uint64_t b_bytes) {
  return a < b + b_bytes && b < a + a_bytes;
}

// The queues of the device.
constexpr std::array<BalloonQueue, kBalloonQueues> kQueues = {
    BalloonQueue::kInflate, BalloonQueue::kDeflate, BalloonQueue::kStats,
    BalloonQueue::kFreePage, BalloonQueue::kReporting};

// A device with such a guest, and what must hold whatever the guest does.
class HostileWorld {
 public:
  // `layouts` by queue. Queues that the device refuses are not used.
  HostileWorld(uint8_t flags, uint64_t features,
               const std::array<VirtqueueLayout, kBalloonQueues>& layouts,
               bool clears)
      : time_(flags), has_odd_rings_(!clears) {
    hypervisor_.discards = (flags & 2) != 0;
    if ((flags & 4) != 0) hypervisor_.reentering = &device_;
    constexpr uint8_t kAgreed =
        kVirtioAcknowledge | kVirtioDriver | kVirtioFeaturesOk;
    GUESTMM_CHECK(device_.SetDriverFeatures(kVirtioFVersion1 | features).ok());
    device_.SetStatus(kAgreed);
    device_.SetConfigNotifier(nobody_);
    const uint32_t poison = (flags & 0x80) != 0 ? 0xaaaaaaaa : 0;
    GUESTMM_CHECK(Write(offsetof(BalloonConfig, poison_val), poison).ok());
    keeps_poison_ = (features & kBalloonFPagePoison) != 0 && poison != 0;
    for (const BalloonQueue queue : kQueues) {
      const std::optional<uint16_t> index = BalloonQueueIndex(
          queue, QueueNumbering::kFixed, device_.DeviceFeatures(), features);
      const auto place = static_cast<size_t>(queue);
      const auto kick = device_.SetUpQueue(*index, layouts[place], nobody_);
      if (!kick.ok()) continue;
      kicks_[place] = *kick;
      queues_[place].emplace(Ram(), queue, layouts[place]);
      if (clears) queues_[place]->memory().Clear();
    }
    device_.SetStatus(kAgreed | kVirtioDriverOk);
  }

  // False if the device was reset meanwhile.
  bool Do(const HostileStep& step) {
    if (step.what % 8 == 7) {
      Poke(step);
      return true;
    }
    const size_t place = step.queue % kBalloonQueues;
    if (!queues_[place]) {
      Ask(step);
      return true;
    }
    queues_[place]->Do(step);
    was_kicked_[place] = false;
    if (step.what % 8 != 3) return true;
    was_kicked_[place] = true;
    kicks_[place]->Notify();
    return Settle();
  }

  void Reset() {
    device_.SetStatus(0);
    const uint64_t calls = hypervisor_.counters().calls;
    for (Notifier* const kick : kicks_) {
      if (kick != nullptr) kick->Notify();
    }
    time_.RunUntilIdle();
    GUESTMM_CHECK(hypervisor_.counters().calls == calls) << "not reset";
  }

 private:
  absl::Status Write(uint32_t offset, uint32_t value) {
    return device_.WriteConfig(offset, std::as_bytes(std::span(&value, 1)));
  }

  // Writes to memory: any word, a page number, or a command.
  void Poke(const HostileStep& step) {
    const Gpa at(step.b * uint64_t{8} % kEnd + step.a % 4 * 2);
    const auto memory = Ram().Translate({at, sizeof(uint32_t)});
    if (!memory) return;
    uint32_t word = step.odd;
    if (step.queue % 4 == 1) word = step.odd % kPages;
    if (step.queue % 4 == 2) word = step.odd % 4;
    if (step.queue % 4 == 3) word *= 0x01010101;
    std::memcpy(memory->bytes().data(), &word, sizeof(word));
    for (const auto& queue : queues_) {
      if (!queue) continue;
      const VirtqueueLayout& layout = queue->layout();
      has_odd_rings_ |=
          Overlap(at, sizeof(word), layout.used, layout.used_bytes()) ||
          Overlap(at, sizeof(word), layout.available, layout.available_bytes());
    }
  }

  // What the host may request, and the guest may write, at any time.
  void Ask(const HostileStep& step) {
    switch (step.what % 7) {
      case 0:
        device_.SetTarget(step.b);
        break;
      case 1:
        static_cast<void>(device_.RequestStatistics());
        break;
      case 2:
        static_cast<void>(device_.StartHinting());
        break;
      case 3:
        device_.StopHinting();
        break;
      case 4:
        static_cast<void>(Write(step.a, step.b));
        break;
      default: {
        std::array<std::byte, 16> bytes;
        static_cast<void>(
            device_.ReadConfig(step.a, std::span(bytes).first(step.odd % 17)));
        break;
      }
    }
  }

  // Lets the device work. False if it was reset meanwhile.
  bool Settle() {
    const bool is_idle = RunRounds();
    const absl::Status invariants = device_.CheckInvariants();
    GUESTMM_CHECK(invariants.ok()) << std::string(invariants.message());
    const BalloonDeviceCounters counters = device_.counters();
    // A page that is inflated again, in another descriptor or chain, may be
    // other memory by then, and is discarded again.
    const uint64_t inflated =
        hypervisor_.counters().bytes - counters.bytes - counters.hinted_bytes;
    GUESTMM_CHECK(inflated >= counters.inflated_pages * kPageSize &&
                  inflated <=
                      (counters.inflated_pages + counters.repeated_pfns) *
                          kPageSize)
        << inflated << " bytes, " << counters.inflated_pages << " pages, "
        << counters.repeated_pfns << " repeated";
    GUESTMM_CHECK(counters.deflated_pages <= counters.inflated_pages);
    GUESTMM_CHECK(!keeps_poison_ ||
                  counters.bytes + counters.hinted_bytes == 0);
    if (hypervisor_.did_reset) {
      GUESTMM_CHECK(device_.status() == 0);
      GUESTMM_CHECK(counters.reports - counters.acknowledged <= 1);
      return false;
    }
    GUESTMM_CHECK(counters.acknowledged == counters.reports);
    const bool needs_reset = (device_.status() & kVirtioNeedsReset) != 0;
    GUESTMM_CHECK(counters.broken_queues == (needs_reset ? 1 : 0));
    // Everything offered is acknowledged, except for the statistics buffer that
    // the device keeps, or the device has set NEEDS_RESET. This does not hold
    // if the device reads what it writes or discards.
    if (!is_idle || needs_reset || has_odd_rings_ || WritesWhatItReads()) {
      return true;
    }
    for (const BalloonQueue queue : kQueues) {
      const auto place = static_cast<size_t>(queue);
      if (!queues_[place] || !was_kicked_[place]) continue;
      const VirtqueueMemory& memory = queues_[place]->memory();
      const auto missing = static_cast<uint16_t>(memory.available_idx().load() -
                                                 memory.used_idx().load());
      GUESTMM_CHECK(missing == 0 ||
                    (queue == BalloonQueue::kStats && missing == 1))
          << missing << " chains of queue " << place;
    }
    return true;
  }

  bool WritesWhatItReads() const {
    if (hypervisor_.discards) return true;
    std::vector<std::pair<Gpa, uint64_t>> parts;
    for (const auto& queue : queues_) {
      if (!queue) continue;
      const VirtqueueLayout& layout = queue->layout();
      parts.emplace_back(layout.descriptors, layout.descriptors_bytes());
      parts.emplace_back(layout.available, layout.available_bytes());
      parts.emplace_back(layout.used, layout.used_bytes());
    }
    for (size_t i = 0; i < parts.size(); ++i) {
      for (size_t j = i + 1; j < parts.size(); ++j) {
        if (Overlap(parts[i].first, parts[i].second, parts[j].first,
                    parts[j].second)) {
          return true;
        }
      }
    }
    return false;
  }

  // Overlapping rings may keep each other busy, so the number of rounds is
  // limited. False if there were more to come.
  bool RunRounds() {
    constexpr int kMaxRounds = 64;
    int rounds = 0;
    uint64_t reports = device_.counters().reports;
    return !time_.WaitUntil(
        [&] {
          const uint64_t now = device_.counters().reports;
          GUESTMM_CHECK(now - reports <= kMaxQueueSize)
              << now - reports << " chains in one round";
          reports = now;
          return ++rounds > kMaxRounds;
        },
        Workqueue::kForever);
  }

  CheckingHypervisor hypervisor_{Ram()};
  VirtualTime time_;
  NullNotifier nobody_;
  BalloonDevice device_{
      Ram(),
      hypervisor_,
      time_,
      {.features = kBalloonFeatures & ~kBalloonFMustTellHost,
       .reporting_queue_size = kMaxQueueSize,
       .queue_size = kMaxQueueSize,
       .queue_numbering = QueueNumbering::kFixed,
       .queue_features = {.indirect = true, .event_index = true}}};
  bool keeps_poison_ = false;
  // The indexes in the rings cannot be relied on.
  bool has_odd_rings_;
  std::array<Notifier*, kBalloonQueues> kicks_ = {};
  std::array<std::optional<HostileQueue>, kBalloonQueues> queues_;
  // Whether each queue was kicked since a chain was last offered.
  std::array<bool, kBalloonQueues> was_kicked_ = {};
};

void Run(FuzzInput input) {
  const auto flags = input.Take<uint8_t>();
  const auto taken = input.Take<uint8_t>();
  const auto size_log2 = input.Take<uint8_t>();
  const auto scattered = input.Take<uint8_t>();
  const auto fill_bytes = input.Take<uint16_t>();
  const auto place = [&] {
    return input.Take<uint16_t>() * uint64_t{8} % kEnd;
  };
  const Gpa places[] = {Gpa(place()), Gpa(place()), Gpa(place())};
  const uint64_t features =
      (taken & kBalloonFeatures & ~kBalloonFMustTellHost) |
      ToFeatureBits({.indirect = (taken & 0x40) != 0,
                     .event_index = (taken & 0x80) != 0});
  // Mostly one after the other, as a driver does; else one has its three parts
  // anywhere.
  std::array<VirtqueueLayout, kBalloonQueues> layouts;
  Gpa start(places[0].value() & ~uint64_t{63});
  for (VirtqueueLayout& layout : layouts) {
    const auto size = static_cast<uint16_t>(uint32_t{1} << (size_log2 % 8));
    layout = LayOutVirtqueue(start, size);
    start = start + ((VirtqueueBytes(size) + 63) & ~uint64_t{63});
  }
  if (scattered % 4 == 3) {
    VirtqueueLayout& layout = layouts[scattered / 4 % kBalloonQueues];
    layout.descriptors = Gpa(places[0].value() & ~uint64_t{15});
    layout.available = places[1] + scattered / 64 % 2;
    layout.used = places[2] + scattered / 128 * 2;
  }
  Fill(input.TakeBytes(fill_bytes % 1024));

  // Most guests clear their rings first.
  HostileWorld world(flags, features, layouts, /*clears=*/(flags & 1) == 0);
  for (int steps = 0; steps < 512 && !input.rest().empty(); ++steps) {
    if (!world.Do(input.Take<HostileStep>())) return;
  }
  world.Reset();
}

}  // namespace
}  // namespace guestmm

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  guestmm::Run(guestmm::FuzzInput(data, size));
  return 0;
}
