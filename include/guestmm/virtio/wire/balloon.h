#ifndef GUESTMM_VIRTIO_WIRE_BALLOON_H_
#define GUESTMM_VIRTIO_WIRE_BALLOON_H_

// The memory balloon's interface, shared by driver and device (virtio 1.3
// §5.5).

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

#include "guestmm/base/export.h"
#include "guestmm/virtio/wire/virtio_device.h"

namespace GUESTMM_EXPORT guestmm {

inline constexpr uint32_t kBalloonDeviceId = 5;

// Feature bits (§5.5.3).
inline constexpr uint64_t kBalloonFMustTellHost = uint64_t{1} << 0;
inline constexpr uint64_t kBalloonFStatsVq = uint64_t{1} << 1;
inline constexpr uint64_t kBalloonFDeflateOnOom = uint64_t{1} << 2;
inline constexpr uint64_t kBalloonFFreePageHint = uint64_t{1} << 3;
inline constexpr uint64_t kBalloonFPagePoison = uint64_t{1} << 4;
inline constexpr uint64_t kBalloonFPageReporting = uint64_t{1} << 5;
inline constexpr uint64_t kBalloonFeatures = (uint64_t{1} << 6) - 1;

// The balloon's unit of memory, in its configuration and on its queues,
// whatever the guest's page size (§5.5.6).
inline constexpr uint64_t kBalloonPageSize = 4096;
// The largest number of pages in one buffer of the inflate or deflate queue:
// Linux's VIRTIO_BALLOON_ARRAY_PFNS_MAX, so all devices accept it.
inline constexpr size_t kMaxBalloonPfns = 256;

// The device's configuration (§5.5.4). Little-endian, even without VERSION_1.
struct BalloonConfig {
  uint32_t num_pages = 0;  // the host's target
  uint32_t actual = 0;     // pages in the balloon; written by the driver
  // With FREE_PAGE_HINT: kHintStop, kHintDone, or the id of the requested run.
  uint32_t free_page_hint_cmd_id = 0;
  // With PAGE_POISON: the pattern, repeated, that the guest fills free pages
  // with; written by the driver.
  uint32_t poison_val = 0;

  bool operator==(const BalloonConfig&) const = default;
};
static_assert(sizeof(BalloonConfig) == 16);
static_assert(offsetof(BalloonConfig, actual) == 4);
static_assert(offsetof(BalloonConfig, free_page_hint_cmd_id) == 8);
static_assert(offsetof(BalloonConfig, poison_val) == 12);

// The size of the configuration of a device that offers `offered`: it ends
// after the last field that exists. As in QEMU.
constexpr size_t BalloonConfigBytes(uint64_t offered) {
  if ((offered & kBalloonFPagePoison) != 0) return sizeof(BalloonConfig);
  if ((offered & kBalloonFFreePageHint) != 0) {
    return offsetof(BalloonConfig, poison_val);
  }
  return offsetof(BalloonConfig, free_page_hint_cmd_id);
}

inline constexpr std::array<uint32_t, 3> kBalloonConfigSizes = {
    BalloonConfigBytes(kBalloonFPagePoison),
    BalloonConfigBytes(kBalloonFFreePageHint), BalloonConfigBytes(0)};
inline constexpr VirtioDeviceKind kBalloonKind = {
    .device_id = kBalloonDeviceId, .config_sizes = kBalloonConfigSizes};

// Command ids of free page hinting that are not runs (§5.5.6.5).
inline constexpr uint32_t kHintStop = 0;  // no more hints, from either side
inline constexpr uint32_t kHintDone = 1;  // the driver may free the pages
inline constexpr uint32_t kFirstHintRun = 2;
// The run after `run`: after the last number, the first one again.
constexpr uint32_t NextHintRun(uint32_t run) {
  return std::max(run + 1, kFirstHintRun);
}

// Tags of the statistics (§5.5.6.3). The last six are from Linux 6.12.
enum class BalloonStat : uint16_t {
  kSwapIn,
  kSwapOut,
  kMajorFaults,
  kMinorFaults,
  kFree,
  kTotal,
  kAvailable,
  kCaches,
  kHugetlbAllocations,
  kHugetlbFailures,
  kOomKill,
  kAllocStall,
  kAsyncScan,
  kDirectScan,
  kAsyncReclaim,
  kDirectReclaim,
};
inline constexpr size_t kBalloonStats = 16;
// A tag of two bytes and a value of eight, packed.
inline constexpr size_t kBalloonStatBytes = 10;

// Values by tag; unset if the guest did not send them. Memory is in bytes, the
// others are counts.
class BalloonStatistics {
 public:
  std::optional<uint64_t>& operator[](BalloonStat stat) {
    return values_[static_cast<size_t>(stat)];
  }
  std::optional<uint64_t> operator[](BalloonStat stat) const {
    return values_[static_cast<size_t>(stat)];
  }
  bool operator==(const BalloonStatistics&) const = default;

 private:
  std::array<std::optional<uint64_t>, kBalloonStats> values_ = {};
};

// The queues, in the order of the specification (§5.5.2).
enum class BalloonQueue : uint8_t {
  kInflate,
  kDeflate,
  kStats,
  kFreePage,
  kReporting,
};
inline constexpr uint16_t kBalloonQueues = 5;

// "inflate", "deflate", "stats", "free page", "reporting".
std::string_view Name(BalloonQueue queue);

// The feature with which a queue exists, and that a driver must have accepted
// to use it; 0 for none.
constexpr uint64_t FeatureOf(BalloonQueue queue) {
  constexpr std::array<uint64_t, kBalloonQueues> kFeatures = {
      0, 0, kBalloonFStatsVq, kBalloonFFreePageHint, kBalloonFPageReporting};
  return kFeatures[static_cast<size_t>(queue)];
}

// The numbering of the queues. The specification numbers stats, free page and
// reporting 2, 3 and 4, and says that each "only exists if" its feature "is
// set". Implementations read that in three ways.
enum class QueueNumbering {
  // Without gaps, by the features that the device offers: QEMU, Firecracker,
  // Cloud Hypervisor, and Linux since it skips queues without a name.
  kCompactByOffered,
  // Always 2, 3 and 4: crosvm until April 2025.
  kFixed,
  // Without gaps, by the negotiated features: Linux's driver if it declines an
  // offered queue.
  kCompactByNegotiated,
};

// The index of `queue`, for a device that offers `offered` and a driver that
// accepted `negotiated`; nullopt if the queue does not exist.
constexpr std::optional<uint16_t> BalloonQueueIndex(BalloonQueue queue,
                                                    QueueNumbering numbering,
                                                    uint64_t offered,
                                                    uint64_t negotiated) {
  const auto exists = [](uint16_t place, uint64_t features) {
    const uint64_t feature = FeatureOf(static_cast<BalloonQueue>(place));
    return (features & feature) == feature;
  };
  const uint64_t existing = numbering == QueueNumbering::kCompactByNegotiated
                                ? offered & negotiated
                                : offered;
  const auto place = static_cast<uint16_t>(queue);
  if (!exists(place, existing)) return std::nullopt;
  if (numbering == QueueNumbering::kFixed) return place;
  uint16_t index = 0;
  for (uint16_t before = 0; before < place; ++before) {
    index += exists(before, existing) ? 1 : 0;
  }
  return index;
}
static_assert(BalloonQueueIndex(BalloonQueue::kReporting,
                                QueueNumbering::kCompactByOffered,
                                kBalloonFPageReporting, 0) == 2,
              "Cloud Hypervisor's, and Firecracker's without the others");
static_assert(BalloonQueueIndex(BalloonQueue::kReporting,
                                QueueNumbering::kCompactByOffered,
                                kBalloonFPageReporting | kBalloonFStatsVq,
                                0) == 3,
              "QEMU's by default");

}  // namespace guestmm

#endif  // GUESTMM_VIRTIO_WIRE_BALLOON_H_
