#ifndef GUESTMM_TESTS_TESTING_ZONE_COMPARE_H_
#define GUESTMM_TESTS_TESTING_ZONE_COMPARE_H_

// Compares a zone with its model.

#include <cstdint>
#include <string>
#include <string_view>

#include "guestmm/buddy/page_map.h"
#include "guestmm/buddy/zone.h"
#include "tests/testing/zone_model.h"

namespace guestmm::buddy {

// "WHAT: 1, by the model 2"; "" if they are equal.
std::string Differ(std::string_view what, uint64_t ours, uint64_t model);

// The first difference found; "" if there is none.
std::string CompareZone(const Zone& zone, const PageMap& pages,
                        const ZoneModel& model);

}  // namespace guestmm::buddy

#endif  // GUESTMM_TESTS_TESTING_ZONE_COMPARE_H_
