#include "guestmm/buddy/per_cpu_marks.h"

#include <algorithm>
#include <bit>

#include "guestmm/base/check.h"

namespace guestmm {

PerCpuLimits DefaultPerCpuLimits(KernelVersion version, PageCount managed,
                                 PageCount low, int node_cpus) {
  constexpr uint64_t kMaxBatch = kMiB / kPageSize;
  const uint64_t quarter =
      std::max<uint64_t>(std::min(managed.value() / 1024, kMaxBatch) / 4, 1);
  // 0 for a small zone, whose lists then stay empty.
  const uint64_t size = std::bit_floor(quarter + quarter / 2) - 1;
  const uint64_t batch = std::max<uint64_t>(size, 1);
  constexpr uint64_t kMaxHigh = 1 << 20;
  const auto share = [&](uint64_t pages) {
    return static_cast<uint32_t>(
        std::min(std::max(pages / static_cast<uint64_t>(node_cpus), 4 * batch),
                 kMaxHigh));
  };
  PerCpuLimits limits = {.batch = static_cast<uint32_t>(batch),
                         .high = static_cast<uint32_t>(6 * size)};
  if (version == KernelVersion::kV5_3) return limits;
  limits.high = share(low.value());
  if (version == KernelVersion::kV6_1) return limits;
  limits.high_max = share(managed.value() / 8);
  return limits;
}

PerCpuMarks::PerCpuMarks(KernelVersion version, PerCpuLimits limits)
    : version_(version), limits_(limits), high_(limits.high) {
  GUESTMM_CHECK(limits.batch > 0);
}

void PerCpuMarks::SetLimits(PerCpuLimits limits) {
  GUESTMM_CHECK(limits.batch > 0);
  limits_ = limits;
  Clamp();
}

void PerCpuMarks::set_high(uint32_t high) {
  high_ = high;
  Clamp();
}

void PerCpuMarks::Clamp() {
  high_ = version_ == KernelVersion::kV6_12
              ? std::clamp(high_, limits_.high,
                           std::max(limits_.high, limits_.high_max))
              : limits_.high;
}

void PerCpuMarks::Lower(uint64_t pages) {
  high_ = static_cast<uint32_t>(std::max<uint64_t>(
      high_ - std::min<uint64_t>(high_, pages), limits_.high));
}

uint64_t PerCpuMarks::BlocksToRefill(Order order, uint64_t count,
                                     ZonePressure pressure) {
  const uint64_t batch = limits_.batch;
  uint64_t pages = batch;
  if (version_ == KernelVersion::kV6_12) {
    if (high_ < batch) return 1;
    if (order == Order(0)) pages <<= refills_;
    if (is_tuned() && pressure != ZonePressure::kBelowHigh) {
      high_ = static_cast<uint32_t>(
          std::min<uint64_t>(high_ + pages, limits_.high_max));
    }
    if (order == Order(0)) {
      const uint64_t kept = count + batch;
      const uint64_t most =
          std::max(high_ - std::min<uint64_t>(high_, kept), batch);
      if (pages <= most && refills_ < kMostDoublings) ++refills_;
      pages = std::min(pages, most);
    }
  }
  // A batch of 1 is of a zone that is too small to keep pages on lists.
  if (pages <= 1) return pages;
  return std::max<uint64_t>(pages >> order.value(), 2);
}

uint64_t PerCpuMarks::PagesToReturn(Order order, uint64_t count,
                                    ZonePressure pressure) {
  switch (version_) {
    case KernelVersion::kV5_3:
      return count < high_ ? 0 : std::min<uint64_t>(limits_.batch, count);
    case KernelVersion::kV6_1:
      return PagesToReturn61(order, count);
    case KernelVersion::kV6_12:
      return PagesToReturn612(order, count, pressure);
  }
  return 0;
}

uint64_t PerCpuMarks::PagesToReturn61(Order order, uint64_t count) {
  if (frees_ > 0 && IsHighOrder(order)) return count;
  if (count < high_) return 0;
  const uint64_t batch = limits_.batch;
  if (high_ <= batch) return 1;
  // One batch stays on the lists.
  const uint64_t most = high_ - batch;
  const uint64_t doubled = batch << frees_;
  // Since 6.1.104: CONFIG_PCP_BATCH_SCALE_MAX.
  if (doubled < most && frees_ < kMostDoublings) ++frees_;
  return std::clamp(doubled, std::min(batch, most), most);
}

uint64_t PerCpuMarks::PagesToReturn612(Order order, uint64_t count,
                                       ZonePressure pressure) {
  const uint64_t batch = limits_.batch;
  const uint64_t most_at_once = batch << kMostDoublings;
  const bool flush = IsHighOrder(order) && last_free_was_high_ &&
                     frees_ >= batch && (!keeps_batch_ || count >= batch);
  OnFree612(order);
  if (flush) {
    Lower(most_at_once);
    return std::min(count, most_at_once);
  }
  uint64_t threshold = high_;
  const uint64_t freed = std::max<uint64_t>(frees_, batch);
  if (pressure == ZonePressure::kReclaimActive) {
    Lower(freed);
    threshold = std::min<uint64_t>(4 * batch, high_);
  } else if (is_tuned() && pressure == ZonePressure::kBelowHigh) {
    Lower(freed);
    threshold = std::max<uint64_t>(count, limits_.high);
  } else if (is_tuned() && count >= high_ && high_ < frees_ + batch) {
    high_ = static_cast<uint32_t>(
        std::clamp<uint64_t>(frees_ + batch, limits_.high, limits_.high_max));
  }
  if (count < threshold) return 0;
  // A zone too small to keep pages on lists. At exactly a batch the kernel
  // returns nothing, and lists would grow until the next Decay.
  if (threshold <= batch) return 1;
  const uint64_t most = threshold - batch;
  return std::clamp<uint64_t>(frees_, std::min(batch, most), most);
}

uint64_t PerCpuMarks::Decay(uint64_t count) {
  if (version_ != KernelVersion::kV6_12) return 0;
  const uint64_t most_at_once = uint64_t{limits_.batch} << kMostDoublings;
  if (high_ > limits_.high) {
    high_ = static_cast<uint32_t>(
        std::max({count - std::min(count, most_at_once),
                  uint64_t{high_} - high_ / 8, uint64_t{limits_.high}}));
  }
  return count - std::min<uint64_t>(count, high_);
}

}  // namespace guestmm
