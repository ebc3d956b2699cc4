// Guest RAM whose regions come and go at random, and a plain array.

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "guestmm/base/random.h"
#include "guestmm/ram/guest_ram.h"
#include "tests/ram/hotplug_testing.h"

namespace guestmm::hotplug_model_test {
namespace {

using hotplug_testing::ByteAt;
using hotplug_testing::Fill;
using hotplug_testing::MakeRam;

// Adds and removes blocks of four pages at random, in pieces of any size, and
// compares every address with a plain array.
TEST(HotplugModelTest, EveryAddressIsAsTheModelSays) {
  constexpr uint64_t kSeed = 1;
  SCOPED_TRACE(kSeed);
  constexpr uint64_t kPages = 256;
  const uint64_t page = std::max(kPageSize, HostPageSize());
  const auto range_of = [&](uint64_t first, uint64_t count) {
    return GpaRange{Gpa(first * page), count * page};
  };
  Random random(kSeed);
  const auto ram = MakeRam({range_of(0, kPages)});
  // By page: the value of its first byte, and its region; or neither.
  struct Page {
    int value = 0;
    int region = 0;
  };
  std::vector<std::optional<Page>> model(kPages, Page{});
  int regions = 0;
  for (int step = 0; step < 3000; ++step) {
    const uint64_t first = random.Below(kPages);
    const uint64_t count =
        random.Between(1, std::min<uint64_t>(8, kPages - first));
    const GpaRange range = range_of(first, count);
    const std::span pages = std::span(model).subspan(first, count);
    const bool none = std::none_of(pages.begin(), pages.end(),
                                   [](auto& p) { return p.has_value(); });
    const bool one_region =
        std::all_of(pages.begin(), pages.end(), [&](auto& p) {
          return p && pages.front() && p->region == pages.front()->region;
        });
    if (random.OneIn(2)) {
      ASSERT_EQ(ram->AddRegion(range).ok(), none) << range;
      if (!none) continue;
      std::fill(pages.begin(), pages.end(),
                Page{.value = 0, .region = ++regions});
    } else {
      ASSERT_EQ(ram->RemoveRegion(range).ok(), one_region) << range;
      if (!one_region) continue;
      // The part of the region after it is a new region.
      const int removed = pages.front()->region;
      std::fill(pages.begin(), pages.end(), std::nullopt);
      ++regions;
      for (uint64_t i = first + count;
           i < kPages && model[i] && model[i]->region == removed; ++i) {
        model[i]->region = regions;
      }
    }
    const uint64_t touched = random.Below(kPages);
    if (model[touched]) {
      model[touched]->value = static_cast<int>(random.Between(1, 255));
      Fill(*ram, {range_of(touched, 1).gpa, 1}, model[touched]->value);
    }
    if (step % 50 != 0) continue;
    uint64_t mapped = 0;
    for (uint64_t i = 0; i < kPages; ++i) {
      ASSERT_EQ(ByteAt(*ram, Gpa(i * page)), model[i] ? model[i]->value : -1);
      mapped += model[i] ? page : 0;
      if (i + 1 == kPages) break;
      ASSERT_EQ(
          ram->Translate(range_of(i, 2)).has_value(),
          model[i] && model[i + 1] && model[i]->region == model[i + 1]->region);
    }
    ASSERT_EQ(ram->bytes(), mapped);
  }
}

}  // namespace
}  // namespace guestmm::hotplug_model_test
