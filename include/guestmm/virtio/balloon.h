#ifndef GUESTMM_VIRTIO_BALLOON_H_
#define GUESTMM_VIRTIO_BALLOON_H_

// What both halves of the memory balloon agree on (virtio 1.3 §5.5).

#include <cstdint>

namespace guestmm {

inline constexpr uint32_t kBalloonDeviceId = 5;

// Feature bits (§5.5.3).
inline constexpr uint64_t kBalloonFStatsVq = uint64_t{1} << 1;
inline constexpr uint64_t kBalloonFFreePageHint = uint64_t{1} << 3;
inline constexpr uint64_t kBalloonFPageReporting = uint64_t{1} << 5;

// How the balloon's queues are numbered. Inflate and deflate are 0 and 1; the
// text (§5.5.2) gives stats, hinting and reporting 2, 3 and 4, "only if" their
// feature is set, and can be read in two ways.
enum class QueueNumbering {
  kCompact,  // a queue not offered leaves no gap: Linux and most VMMs
  kFixed,    // always 2, 3 and 4: crosvm until April 2025
};

// The index of the reporting queue of a device that offers `offered`.
constexpr uint16_t ReportingQueueIndex(QueueNumbering numbering,
                                       uint64_t offered) {
  if (numbering == QueueNumbering::kFixed) return 4;
  return static_cast<uint16_t>(2 + ((offered & kBalloonFStatsVq) != 0) +
                               ((offered & kBalloonFFreePageHint) != 0));
}
static_assert(ReportingQueueIndex(QueueNumbering::kCompact,
                                  kBalloonFPageReporting) == 2);
static_assert(ReportingQueueIndex(QueueNumbering::kCompact,
                                  kBalloonFStatsVq | kBalloonFFreePageHint) ==
              4);

}  // namespace guestmm

#endif  // GUESTMM_VIRTIO_BALLOON_H_
