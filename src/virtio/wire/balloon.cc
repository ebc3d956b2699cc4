#include "guestmm/virtio/wire/balloon.h"

namespace guestmm {

std::string_view Name(BalloonQueue queue) {
  switch (queue) {
    case BalloonQueue::kInflate:
      return "inflate";
    case BalloonQueue::kDeflate:
      return "deflate";
    case BalloonQueue::kStats:
      return "stats";
    case BalloonQueue::kFreePage:
      return "free page";
    case BalloonQueue::kReporting:
      return "reporting";
  }
  return "unknown";
}

}  // namespace guestmm
