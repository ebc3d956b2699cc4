// The balloon device over hostile guest memory: the input says how the guest
// sets the device up, what is in its RAM, and what it writes between kicks.
//
//   12 bytes of set-up | kicks: a place and a word each | what fills the RAM

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <optional>
#include <span>

#include "guestmm/base/check.h"
#include "guestmm/base/units.h"
#include "guestmm/base/virtual_time.h"
#include "guestmm/hypervisor/hypervisor.h"
#include "guestmm/ram/guest_ram.h"
#include "guestmm/virtio/balloon_device.h"

namespace guestmm {
namespace {

constexpr uint64_t kRegionBytes = 128 * kKiB;
// Two regions side by side, a hole, and one more: 384 KiB in 512.
constexpr uint64_t kEnd = 4 * kRegionBytes;
constexpr uint16_t kMaxQueueSize = 64;

// Takes the input from the front; zeroes when it is used up.
class Input {
 public:
  Input(const uint8_t* data, size_t size) : rest_(data, size) {}

  template <typename T>
  T Take() {
    T value{};
    const size_t size = std::min(sizeof(T), rest_.size());
    if (size > 0) std::memcpy(&value, rest_.data(), size);
    rest_ = rest_.subspan(size);
    return value;
  }
  std::span<const uint8_t> rest() const { return rest_; }

 private:
  std::span<const uint8_t> rest_;
};

// Ends the process where a discard is one that no guest may bring about. One in
// eight fails, one in eight lets the guest reset the device from inside.
class CheckingHypervisor final : public Hypervisor {
 public:
  explicit CheckingHypervisor(const GuestRam& ram) : ram_(ram) {}

  absl::Status Discard(std::span<const GpaRange> ranges) override {
    GUESTMM_CHECK(!ranges.empty() && ranges.size() <= kMaxQueueSize);
    for (const GpaRange& range : ranges) {
      GUESTMM_CHECK(range.gpa.IsAligned(HostPageSize()) &&
                    range.bytes % HostPageSize() == 0)
          << range;
      const auto bytes = ram_.Translate(range);
      GUESTMM_CHECK(bytes.has_value()) << range;
      // Zeroes are what the guest reads next, in its rings too.
      if (discards) std::memset(bytes->data(), 0, bytes->size());
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
                         .backing = RamBacking::kAnonymous,
                         .huge_pages = HugePages::kForbid});
  return *ram;
}

// Fills all of RAM with the input, over and over.
void Fill(std::span<const uint8_t> input) {
  size_t from = 0;
  for (const GpaRange& region : Ram().regions()) {
    const auto bytes = *Ram().Translate(region);
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

// Whether the two parts share a byte.
bool Overlap(Gpa a, uint64_t a_bytes, Gpa b, uint64_t b_bytes) {
  return a < b + b_bytes && b < a + a_bytes;
}

void Run(Input input) {
  const auto flags = input.Take<uint8_t>();
  const auto size_log2 = input.Take<uint8_t>();
  VirtqueueLayout layout;
  layout.size = static_cast<uint16_t>(uint32_t{1} << (size_log2 % 8));
  // Mostly valid places, now and then any place at all.
  const auto place = [&](uint64_t alignment) {
    const uint64_t at = input.Take<uint16_t>() * uint64_t{8} % kEnd;
    return Gpa((flags & 1) != 0 ? at : at & ~(alignment - 1));
  };
  layout.descriptors = place(kVirtqDescriptorsAlignment);
  layout.available = place(kVirtqAvailableAlignment);
  layout.used = place(kVirtqUsedAlignment);
  const auto kicks = input.Take<uint8_t>() % 8;
  struct Poke {
    uint16_t place;
    uint16_t word;
    uint16_t available_idx;
  };
  Poke pokes[8];
  for (Poke& poke : pokes) poke = input.Take<Poke>();
  Fill(input.rest());

  CheckingHypervisor hypervisor(Ram());
  hypervisor.discards = (flags & 2) != 0;
  VirtualTime time(flags);
  NullNotifier used;
  NullNotifier config;
  BalloonDevice device(Ram(), hypervisor, time,
                       {.reporting_queue_size = kMaxQueueSize,
                        .queue_numbering = QueueNumbering::kCompact});
  if ((flags & 4) != 0) hypervisor.reentering = &device;
  constexpr uint8_t kAgreed =
      kVirtioAcknowledge | kVirtioDriver | kVirtioFeaturesOk;
  GUESTMM_CHECK(device.SetDriverFeatures(device.DeviceFeatures()).ok());
  device.SetStatus(kAgreed);
  device.SetConfigNotifier(config);
  const auto kick = device.SetUpQueue(2, layout, used);
  if (!kick.ok()) return;
  device.SetStatus(kAgreed | kVirtioDriverOk);
  // A guest's index starts at 0; what it is at the first kick, the RAM says.
  const VirtqueueMemory memory = *VirtqueueMemory::Map(Ram(), layout);

  for (int i = 0; i < kicks; ++i) {
    const Poke& poke = pokes[i];
    const Gpa at(poke.place * uint64_t{8} % kEnd & ~uint64_t{1});
    if (const auto bytes = Ram().Translate({at, sizeof(poke.word)})) {
      std::memcpy(bytes->data(), &poke.word, sizeof(poke.word));
    }
    // Else nearly every index would be a jump.
    if ((poke.available_idx & 0x80) == 0) {
      memory.available_idx().store(poke.available_idx & 0x7f);
    }
    (*kick)->Notify();
    // Rings that overlap may feed themselves; so only so many rounds.
    constexpr int kMaxRounds = 64;
    int rounds = 0;
    uint64_t reports = device.counters().reports;
    const bool is_over = !time.WaitUntil(
        [&] {
          const uint64_t now = device.counters().reports;
          GUESTMM_CHECK(now - reports <= layout.size)
              << now - reports << " chains in one round";
          reports = now;
          return ++rounds > kMaxRounds;
        },
        Workqueue::kForever);
    const absl::Status invariants = device.CheckInvariants();
    GUESTMM_CHECK(invariants.ok()) << std::string(invariants.message());
    const BalloonDeviceCounters counters = device.counters();
    GUESTMM_CHECK(counters.bytes == hypervisor.counters().bytes);
    if (hypervisor.did_reset) {
      GUESTMM_CHECK(device.status() == 0);
      GUESTMM_CHECK(counters.acknowledged + 1 == counters.reports);
      return;
    }
    GUESTMM_CHECK(counters.acknowledged == counters.reports);
    const bool needs_reset = (device.status() & kVirtioNeedsReset) != 0;
    GUESTMM_CHECK(counters.broken_queues == (needs_reset ? 1 : 0));
    // Everything offered is acknowledged, or the device gave up: unless what
    // the device writes is at the same time what it reads.
    const bool reads_its_own =
        hypervisor.discards ||
        Overlap(layout.used, layout.used_bytes(), layout.available,
                layout.available_bytes());
    if (is_over && !needs_reset && !reads_its_own) {
      const uint16_t offered = memory.available_idx().load();
      GUESTMM_CHECK(offered == static_cast<uint16_t>(counters.acknowledged));
      GUESTMM_CHECK(Overlap(layout.used, layout.used_bytes(),
                            layout.descriptors, layout.descriptors_bytes()) ||
                    counters.reports == 0 ||
                    memory.used_idx().load() == offered);
    }
  }
  device.SetStatus(0);
  const uint64_t calls = hypervisor.counters().calls;
  (*kick)->Notify();
  time.RunUntilIdle();
  GUESTMM_CHECK(hypervisor.counters().calls == calls) << "work after a reset";
}

}  // namespace
}  // namespace guestmm

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  guestmm::Run(guestmm::Input(data, size));
  return 0;
}
