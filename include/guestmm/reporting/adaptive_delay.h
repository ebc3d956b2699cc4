#ifndef GUESTMM_REPORTING_ADAPTIVE_DELAY_H_
#define GUESTMM_REPORTING_ADAPTIVE_DELAY_H_

#include <atomic>
#include <cstdint>

namespace guestmm {

// How long memory must have been left alone before it is reported: the longer,
// the more of what the host has is faulted in again while other memory is
// reported. A refault costs the guest far more than the host gains from memory
// that it has for a moment.
class AdaptiveDelay {
 public:
  // Milliseconds.
  using Time = uint32_t;

  AdaptiveDelay(Time shortest, Time longest)
      : shortest_(shortest), longest_(longest), age_(shortest) {}

  // What to wait for; and the least that it ever is.
  Time age() const { return age_; }
  Time shortest() const { return shortest_; }

  // So many granules were reported; so many that the host had came into use.
  // OnRefaulted is safe from any thread.
  void OnReported(uint64_t granules) { reported_ += granules; }
  void OnRefaulted(uint64_t granules) {
    refaulted_.fetch_add(granules, std::memory_order_relaxed);
  }

  // Draws its conclusions, every kWindow. To be called as time goes by.
  void Adapt(Time now) {
    const Time passed = now - since_;
    if (passed < kWindow) return;
    const uint64_t refaulted =
        refaulted_.exchange(0, std::memory_order_relaxed);
    // What came back after a long rest was worth its report.
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
  // One of so many.
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
