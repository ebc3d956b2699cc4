#ifndef GUESTMM_TESTS_REPORTING_V12_TESTING_H_
#define GUESTMM_TESTS_REPORTING_V12_TESTING_H_

// Small worlds with the policy "v12".

#include <cstdint>

#include "guestmm/base/units.h"
#include "tests/testing/reporting_world.h"

namespace guestmm::v12_testing {

// Blocks of 4 pages, the smallest that are reported.
inline constexpr Order kSmall(2);

// A world of `blocks` such blocks, which merge up to `max_order`. Two of them
// start a pass and fill a report.
inline WorldOptions SmallV12(uint64_t blocks, Order max_order = kSmall) {
  return {.memory = {BlocksFrom(Pfn(0), blocks, kSmall)},
          .v12 = {.order = kSmall, .threshold = 2, .capacity = 2},
          .max_order = max_order};
}

}  // namespace guestmm::v12_testing

#endif  // GUESTMM_TESTS_REPORTING_V12_TESTING_H_
