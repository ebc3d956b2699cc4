// The balloon device over hostile guest memory. The input says where the guest
// puts its queue, what is in its RAM, and what it does then, step by step.
//
//   set-up: 3 + 6 bytes | what fills the RAM, repeated | steps of 4 bytes

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
  std::span<const uint8_t> TakeBytes(size_t size) {
    const auto bytes = rest_.first(std::min(size, rest_.size()));
    rest_ = rest_.subspan(bytes.size());
    return bytes;
  }
  std::span<const uint8_t> rest() const { return rest_; }

 private:
  std::span<const uint8_t> rest_;
};

// Ends the process where a discard is one that no guest may bring about. One in
// eight fails; one in eight may let the guest reset the device from inside.
class CheckingHypervisor final : public Hypervisor {
 public:
  explicit CheckingHypervisor(const GuestRam& ram) : ram_(ram) {}

  absl::Status Discard(std::span<const GpaRange> ranges) override {
    GUESTMM_CHECK(!ranges.empty() && ranges.size() <= kMaxQueueSize);
    for (const GpaRange& range : ranges) {
      GUESTMM_CHECK(range.gpa.IsAligned(HostPageSize()) &&
                    range.bytes % HostPageSize() == 0)
          << range;
      const auto memory = ram_.Translate(range);
      GUESTMM_CHECK(memory.has_value()) << range;
      // Zeroes are what the guest reads next, in its rings too.
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

// Fills all of RAM with the input, over and over.
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

// Whether the two parts share a byte.
bool Overlap(Gpa a, uint64_t a_bytes, Gpa b, uint64_t b_bytes) {
  return a < b + b_bytes && b < a + a_bytes;
}

// One thing that a guest does.
struct Step {
  uint8_t what;
  uint8_t a;
  uint16_t b;
};
static_assert(sizeof(Step) == 4);

// A guest that mostly knows how a queue works, and mostly does not care.
class HostileGuest {
 public:
  explicit HostileGuest(const VirtqueueLayout& layout)
      : layout_(layout), memory_(*VirtqueueMemory::Map(Ram(), layout)) {}

  void Do(const Step& step) {
    const uint16_t slot = memory_.slot(step.a);
    // Nonsense is rare, since it ends the queue.
    const bool forges = step.what >= 0xf0;
    switch (step.what % 8) {
      case 0:
      case 1:
        memory_.StoreDescriptor(slot, Decode(step));
        break;
      case 2:
      case 3:
        memory_.available_ring(memory_.slot(available_idx_)).store(slot);
        memory_.available_idx().store(++available_idx_);
        break;
      case 4:
        memory_.available_ring(slot).store(forges ? step.b
                                                  : memory_.slot(step.b));
        break;
      case 5:
        available_idx_ =
            forges ? step.b : static_cast<uint16_t>(available_idx_ + 1);
        memory_.available_idx().store(available_idx_);
        break;
      case 6:
        memory_.available_flags().store(step.b);
        break;
      default: {
        const Gpa at(step.b * uint64_t{8} % kEnd + step.a % 4 * 2);
        if (const auto word = Ram().Translate({at, sizeof(step.b)})) {
          std::memcpy(word->bytes().data(), &step.b, sizeof(step.b));
        }
        break;
      }
    }
  }
  const VirtqueueMemory& memory() const { return memory_; }

 private:
  // Good pages mostly: 7 bits of b are the page, the next 3 the length; then
  // what may be wrong with it, then where it goes on.
  VirtqDesc Decode(const Step& step) const {
    const uint32_t odd = (step.b >> 10) % 8;
    VirtqDesc descriptor = {
        .addr = (step.b & 0x7f) * kPageSize,
        .len = static_cast<uint32_t>(((step.b >> 7) % 8 + 1) * kPageSize),
        .flags = kVirtqDescWrite,
        .next = static_cast<uint16_t>(step.a + 1 + (step.what >> 6)),
    };
    if ((step.what & 0x08) != 0) descriptor.flags |= kVirtqDescNext;
    if (step.what < 0xf0) {
      descriptor.next = memory_.slot(descriptor.next);
    }
    if (odd == 1) descriptor.addr += 16;
    if (odd == 2) descriptor.len -= 1;
    if (odd == 3) descriptor.len = 0;
    if (odd == 4) descriptor.flags &= static_cast<uint16_t>(~kVirtqDescWrite);
    if (odd == 5) descriptor.flags |= kVirtqDescIndirect;
    if (odd == 6) descriptor.addr = ~uint64_t{0} << (step.a % 64);
    // The queue's own table, or a part of it, as an indirect one.
    if (odd == 7) {
      descriptor.addr = layout_.descriptors.value() +
                        memory_.slot(step.b) * sizeof(VirtqDesc);
      descriptor.len = (step.b >> 7) % 8 * sizeof(VirtqDesc);
      descriptor.flags = kVirtqDescIndirect;
    }
    return descriptor;
  }

  const VirtqueueLayout layout_;
  const VirtqueueMemory memory_;
  uint16_t available_idx_ = 0;
};

// A device in front of such a guest, and what must hold whatever it does.
class World {
 public:
  World(uint8_t flags, VirtqueueFeatures features,
        const VirtqueueLayout& layout)
      : layout_(layout), time_(flags) {
    hypervisor_.discards = (flags & 2) != 0;
    if ((flags & 4) != 0) hypervisor_.reentering = &device_;
    constexpr uint8_t kAgreed =
        kVirtioAcknowledge | kVirtioDriver | kVirtioFeaturesOk;
    GUESTMM_CHECK(device_
                      .SetDriverFeatures(kVirtioFVersion1 |
                                         kBalloonFPageReporting |
                                         ToFeatureBits(features))
                      .ok());
    device_.SetStatus(kAgreed);
    device_.SetConfigNotifier(nobody_);
    const auto kick = device_.SetUpQueue(2, layout, nobody_);
    if (!kick.ok()) return;
    kick_ = *kick;
    device_.SetStatus(kAgreed | kVirtioDriverOk);
  }

  bool has_queue() const { return kick_ != nullptr; }

  // Kicks and lets the device work. False if it was reset meanwhile.
  bool Kick(const HostileGuest& guest) {
    kick_->Notify();
    const bool is_idle = RunRounds();
    const absl::Status invariants = device_.CheckInvariants();
    GUESTMM_CHECK(invariants.ok()) << std::string(invariants.message());
    const BalloonDeviceCounters counters = device_.counters();
    GUESTMM_CHECK(counters.bytes == hypervisor_.counters().bytes);
    if (hypervisor_.did_reset) {
      GUESTMM_CHECK(device_.status() == 0);
      GUESTMM_CHECK(counters.acknowledged + 1 == counters.reports);
      return false;
    }
    GUESTMM_CHECK(counters.acknowledged == counters.reports);
    const bool needs_reset = (device_.status() & kVirtioNeedsReset) != 0;
    GUESTMM_CHECK(counters.broken_queues == (needs_reset ? 1 : 0));
    // Everything offered is acknowledged, or the device gave up: unless what
    // the device writes, or discards, is at the same time what it reads.
    const bool writes_what_it_reads =
        hypervisor_.discards ||
        Overlap(layout_.used, layout_.used_bytes(), layout_.available,
                layout_.available_bytes());
    if (is_idle && !needs_reset && !writes_what_it_reads) {
      GUESTMM_CHECK(guest.memory().available_idx().load() ==
                    static_cast<uint16_t>(counters.acknowledged));
    }
    return true;
  }

  void Reset() {
    device_.SetStatus(0);
    const uint64_t calls = hypervisor_.counters().calls;
    kick_->Notify();
    time_.RunUntilIdle();
    GUESTMM_CHECK(hypervisor_.counters().calls == calls) << "not reset";
  }

 private:
  // Rings that overlap may feed themselves, so only so many rounds: false if
  // there were more to come.
  bool RunRounds() {
    constexpr int kMaxRounds = 64;
    int rounds = 0;
    uint64_t reports = device_.counters().reports;
    return !time_.WaitUntil(
        [&] {
          const uint64_t now = device_.counters().reports;
          GUESTMM_CHECK(now - reports <= layout_.size)
              << now - reports << " chains in one round";
          reports = now;
          return ++rounds > kMaxRounds;
        },
        Workqueue::kForever);
  }

  const VirtqueueLayout layout_;
  CheckingHypervisor hypervisor_{Ram()};
  VirtualTime time_;
  NullNotifier nobody_;
  BalloonDevice device_{
      Ram(),
      hypervisor_,
      time_,
      {.reporting_queue_size = kMaxQueueSize,
       .queue_numbering = QueueNumbering::kCompactByOffered,
       .queue_features = {.indirect = true, .event_index = true}}};
  Notifier* kick_ = nullptr;
};

void Run(Input input) {
  const auto flags = input.Take<uint8_t>();
  const auto size_log2 = input.Take<uint8_t>();
  const auto fill_bytes = input.Take<uint8_t>();
  const auto place = [&] {
    return input.Take<uint16_t>() * uint64_t{8} % kEnd;
  };
  const Gpa places[] = {Gpa(place()), Gpa(place()), Gpa(place())};
  // Where it should be, mostly; else in three places that may be any.
  VirtqueueLayout layout =
      LayOutVirtqueue(Gpa(places[0].value() & ~uint64_t{63}),
                      static_cast<uint16_t>(uint32_t{1} << (size_log2 % 8)));
  if ((flags & 0x18) == 0x18) {
    layout.descriptors = Gpa(places[0].value() & ~uint64_t{15});
    layout.available = places[1] + (flags >> 5) % 2;
    layout.used = places[2] + (flags >> 6) % 2 * 2;
  }
  Fill(input.TakeBytes(fill_bytes));

  World world(
      flags,
      {.indirect = (size_log2 & 8) != 0, .event_index = (size_log2 & 16) != 0},
      layout);
  if (!world.has_queue()) return;
  HostileGuest guest(layout);
  // Most guests clear their rings first.
  if ((flags & 1) == 0) guest.memory().Clear();
  for (int kicks = 0; kicks < 32 && !input.rest().empty();) {
    const auto step = input.Take<Step>();
    guest.Do(step);
    if (step.what % 8 == 3) {
      ++kicks;
      if (!world.Kick(guest)) return;
    }
  }
  world.Reset();
}

}  // namespace
}  // namespace guestmm

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  guestmm::Run(guestmm::Input(data, size));
  return 0;
}
