#include "guestmm/buddy/watermarks.h"

#include <algorithm>

#include "guestmm/frame/migratetype.h"

namespace guestmm {
namespace {

constexpr uint64_t kKbytesPerPage = kPageSize / kKiB;

// The largest root with root * root <= value.
uint64_t IntegerSquareRoot(uint64_t value) {
  uint64_t root = 0;
  for (uint64_t bit = uint64_t{1} << 31; bit != 0; bit >>= 1) {
    const uint64_t candidate = root | bit;
    if (candidate * candidate <= value) root = candidate;
  }
  return root;
}

}  // namespace

uint64_t DefaultMinFreeKbytes(PageCount managed) {
  return std::clamp<uint64_t>(
      IntegerSquareRoot(managed.value() * kKbytesPerPage * 16), 128, 65536);
}

uint64_t HugePageMinFreeKbytes(int zones, PageCount managed) {
  // Two whole pageblocks, and one for each type to fall back to from each.
  constexpr uint64_t kPageblocks = 2 + kRequestTypes * kRequestTypes;
  const uint64_t pages =
      std::min(kPageblocks * kPageblockOrder.pages().value() *
                   static_cast<uint64_t>(zones),
               managed.value() / 20);
  return pages * kKbytesPerPage;
}

Watermarks ComputeWatermarks(uint64_t min_free_kbytes, PageCount zone_managed,
                             PageCount managed) {
  constexpr uint64_t kScaleFactor = 10;  // of 10,000: 0.1 % of the zone
  const uint64_t min =
      min_free_kbytes / kKbytesPerPage * zone_managed.value() / managed.value();
  const uint64_t step =
      std::max(min / 4, zone_managed.value() * kScaleFactor / 10000);
  return {.min = PageCount(min),
          .low = PageCount(min + step),
          .high = PageCount(min + 2 * step)};
}

LowmemReserve ComputeLowmemReserve(
    ZoneType type, const std::array<PageCount, kZoneTypes>& managed) {
  // sysctl_lowmem_reserve_ratio; 0 for no reserve.
  constexpr std::array<uint64_t, kZoneTypes> kRatio = {256, 256, 32, 0};
  LowmemReserve reserve{};
  const auto zone = static_cast<size_t>(type);
  if (kRatio[zone] == 0) return reserve;
  PageCount above;
  for (size_t highest = zone + 1; highest < managed.size(); ++highest) {
    above += managed[highest];
    reserve[highest] = PageCount(above.value() / kRatio[zone]);
  }
  return reserve;
}

}  // namespace guestmm
