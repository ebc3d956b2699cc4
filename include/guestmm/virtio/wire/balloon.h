#ifndef GUESTMM_VIRTIO_WIRE_BALLOON_H_
#define GUESTMM_VIRTIO_WIRE_BALLOON_H_

// What both halves of the memory balloon agree on (virtio 1.3 §5.5).

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

namespace guestmm {

inline constexpr uint32_t kBalloonDeviceId = 5;

// Feature bits (§5.5.3).
inline constexpr uint64_t kBalloonFMustTellHost = uint64_t{1} << 0;
inline constexpr uint64_t kBalloonFStatsVq = uint64_t{1} << 1;
inline constexpr uint64_t kBalloonFDeflateOnOom = uint64_t{1} << 2;
inline constexpr uint64_t kBalloonFFreePageHint = uint64_t{1} << 3;
inline constexpr uint64_t kBalloonFPagePoison = uint64_t{1} << 4;
inline constexpr uint64_t kBalloonFPageReporting = uint64_t{1} << 5;
inline constexpr uint64_t kBalloonFeatures = (uint64_t{1} << 6) - 1;

// The balloon counts memory in these, in its configuration and on its queues,
// whatever pages the guest has (§5.5.6).
inline constexpr uint64_t kBalloonPageSize = 4096;
// The most of them that one buffer of the inflate or deflate queue names: of
// Linux's driver (VIRTIO_BALLOON_ARRAY_PFNS_MAX), and so what devices take.
inline constexpr size_t kMaxBalloonPfns = 256;

// The device's configuration (§5.5.4). Little-endian, also without VERSION_1.
struct BalloonConfig {
  uint32_t num_pages = 0;  // that the host wants
  uint32_t actual = 0;     // that the guest has given; the driver writes it
  // With FREE_PAGE_HINT: kHintStop, kHintDone, or the run that is wanted.
  uint32_t free_page_hint_cmd_id = 0;
  // With PAGE_POISON: what the guest fills free pages with, as often as it
  // fits; the driver writes it.
  uint32_t poison_val = 0;

  bool operator==(const BalloonConfig&) const = default;
};
static_assert(sizeof(BalloonConfig) == 16);
static_assert(offsetof(BalloonConfig, actual) == 4);
static_assert(offsetof(BalloonConfig, free_page_hint_cmd_id) == 8);
static_assert(offsetof(BalloonConfig, poison_val) == 12);

// As much of it as a device that offers `offered` has, as QEMU's.
constexpr size_t BalloonConfigBytes(uint64_t offered) {
  if ((offered & kBalloonFPagePoison) != 0) return sizeof(BalloonConfig);
  if ((offered & kBalloonFFreePageHint) != 0) {
    return offsetof(BalloonConfig, poison_val);
  }
  return offsetof(BalloonConfig, free_page_hint_cmd_id);
}

// Command ids of free page hinting that name no run (§5.5.6.5).
inline constexpr uint32_t kHintStop = 0;  // no more hints, from either side
inline constexpr uint32_t kHintDone = 1;  // the device needs the pages no more
inline constexpr uint32_t kFirstHintRun = 2;

// Tags of the statistics (§5.5.6.3), the last six of Linux 6.12.
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

// By tag; what is absent was not told. Memory is in bytes, the rest are counts.
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

// The queues, by their place in the text (§5.5.2).
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

// How the queues are numbered. The text gives stats, free page and reporting 2,
// 3 and 4, each of which "only exists if" its feature "is set"; that was read
// in three ways.
enum class QueueNumbering {
  // Without gaps, by the features that the device offers: Linux since it skips
  // queues without a name, QEMU, Firecracker, Cloud Hypervisor.
  kCompactByOffered,
  // Always 2, 3 and 4: crosvm until April 2025.
  kFixed,
  // Without gaps, by the features agreed on: Linux's driver where it refuses a
  // queue that is offered.
  kCompactByNegotiated,
};

// The index of `queue` between a device that offers `offered` and a driver that
// took `negotiated` of it; none if it does not exist there.
constexpr std::optional<uint16_t> BalloonQueueIndex(BalloonQueue queue,
                                                    QueueNumbering numbering,
                                                    uint64_t offered,
                                                    uint64_t negotiated) {
  constexpr std::array<uint64_t, kBalloonQueues> kFeature = {
      0, 0, kBalloonFStatsVq, kBalloonFFreePageHint, kBalloonFPageReporting};
  const uint64_t existing = numbering == QueueNumbering::kCompactByNegotiated
                                ? offered & negotiated
                                : offered;
  const auto place = static_cast<uint16_t>(queue);
  if ((existing & kFeature[place]) != kFeature[place]) return std::nullopt;
  if (numbering == QueueNumbering::kFixed) return place;
  uint16_t index = 0;
  for (uint16_t before = 0; before < place; ++before) {
    index += (existing & kFeature[before]) == kFeature[before] ? 1 : 0;
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
