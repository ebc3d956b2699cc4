#ifndef GUESTMM_REPORTING_ADAPTIVE_DELAY_H_
#define GUESTMM_REPORTING_ADAPTIVE_DELAY_H_

#include <atomic>
#include <cstdint>

#include "guestmm/base/export.h"

namespace GUESTMM_EXPORT guestmm {

// The minimum time that memory must be left alone before it is reported. It
// grows with the share of reported memory that refaults, since a refault costs
// the guest far more than the host gains from having memory for a moment.
class AdaptiveDelay {
 public:
  // Milliseconds.
  using Time = uint32_t;

  AdaptiveDelay(Time shortest, Time longest)
      : shortest_(shortest), longest_(longest), age_(shortest) {}

  // The current delay, and its lower bound.
  Time age() const { return age_; }
  Time shortest() const { return shortest_; }

  // `granules` were reported, or refaulted: came into use while the host had
  // them. OnRefaulted is thread-safe.
  void OnReported(uint64_t granules) { reported_ += granules; }
  void OnRefaulted(uint64_t granules) {
    refaulted_.fetch_add(granules, std::memory_order_relaxed);
  }

  // Adapts the delay, once in each kWindow. To be called regularly.
  void Adapt(Time now) {
    const Time passed = now - since_;
    if (passed < kWindow) return;
    const uint64_t refaulted =
        refaulted_.exchange(0, std::memory_order_relaxed);
    // Refaults after a long rest are no reason to wait: the report paid off.
    if (passed < 2 * kWindow && reported_ > 0) {
      if (refaulted * kTooMany > reported_) {
        age_ = age_ < longest_ / 2 ? 2 * age_ : longest_;
      } else if (refaulted * kFew < reported_) {
        age_ = age_ / 2 > shortest_ ? age_ / 2 : shortest_;
      }
    }
    reported_ = 0;
    since_ = now;
  }

 private:
  static constexpr Time kWindow = 2000;
  // The delay is doubled if more than 1/kTooMany of the reported granules
  // refault, and halved if fewer than 1/kFew do.
  static constexpr uint64_t kTooMany = 16;
  static constexpr uint64_t kFew = 64;

  const Time shortest_;
  const Time longest_;
  Time age_;
  Time since_ = 0;
  uint64_t reported_ = 0;
  std::atomic<uint64_t> refaulted_{0};
};

}  // namespace guestmm

#endif  // GUESTMM_REPORTING_ADAPTIVE_DELAY_H_
