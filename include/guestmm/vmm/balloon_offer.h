#ifndef GUESTMM_VMM_BALLOON_OFFER_H_
#define GUESTMM_VMM_BALLOON_OFFER_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "guestmm/base/export.h"
#include "guestmm/virtio/wire/balloon.h"

namespace GUESTMM_EXPORT guestmm {

// What the balloons of a VMM offer, in words:
//
//   reporting   free page reporting
//   hinting     free page hinting
//   balloon     targets, with DEFLATE_ON_OOM. Inflate and deflate queues exist
//               in any case (virtio 1.3 §5.5.2).
//   statistics  the guest's memory statistics
//   poison      PAGE_POISON: the guest tells what it fills free pages with
//
// MUST_TELL_HOST is never offered: a device that offers it refuses drivers that
// do not accept it (§5.5.3.2). So the host discards nothing of the balloon
// later than on inflation.
inline constexpr uint64_t kDefaultBalloonOffer =
    kBalloonFPageReporting | kBalloonFPagePoison;

// The features that `words` stand for. InvalidArgument, beginning with the
// words, if one is unknown or there is none.
absl::StatusOr<uint64_t> ParseBalloonOffer(
    const std::vector<std::string>& words);
// The words for `features`, separated by commas.
std::string FormatBalloonOffer(uint64_t features);

}  // namespace guestmm

#endif  // GUESTMM_VMM_BALLOON_OFFER_H_
