#include "guestmm/vmm/balloon_counters.h"

#include <array>
#include <cstddef>

namespace guestmm {
namespace {

using Counters = BalloonDeviceCounters;

constexpr BalloonCounterField kFields[] = {
    {"reports", "Reports taken from the guest", &Counters::reports},
    {"acknowledged", "Reports acknowledged", &Counters::acknowledged},
    {"ranges", "Ranges of reports that were discarded", &Counters::ranges},
    {"bytes", "Bytes of reports that were discarded", &Counters::bytes},
    {"poisoned_ranges",
     "Ranges kept because the guest expects its poison there",
     &Counters::poisoned_ranges},
    {"poisoned_bytes", "Bytes kept because the guest expects its poison there",
     &Counters::poisoned_bytes},
    {"discard_errors", "Batches that the host did not discard in full",
     &Counters::discard_errors},
    {"inflated_pages", "Pages moved into the balloon",
     &Counters::inflated_pages},
    {"deflated_pages", "Pages moved out of the balloon",
     &Counters::deflated_pages},
    {"stats_updates", "Statistics received", &Counters::stats_updates},
    {"hint_runs", "Hinting runs started by the guest", &Counters::hint_runs},
    {"hints", "Ranges of hints that were discarded", &Counters::hints},
    {"hinted_bytes", "Bytes of hints that were discarded",
     &Counters::hinted_bytes},
    {"broken_queues", "Queues found broken", &Counters::broken_queues},
    {"skipped_indirect", "Descriptors skipped: INDIRECT was not negotiated",
     &Counters::skipped_indirect},
    {"skipped_readable", "Descriptors skipped: must be device-writable",
     &Counters::skipped_readable},
    {"skipped_writable", "Descriptors skipped: must be device-readable",
     &Counters::skipped_writable},
    {"skipped_empty", "Descriptors skipped: empty", &Counters::skipped_empty},
    {"skipped_unaligned", "Descriptors skipped: not whole granules or entries",
     &Counters::skipped_unaligned},
    {"skipped_too_long", "Descriptors skipped: too many entries",
     &Counters::skipped_too_long},
    {"skipped_outside_ram", "Descriptors skipped: outside guest RAM",
     &Counters::skipped_outside_ram},
    {"skipped_across_region", "Descriptors skipped: not within one region",
     &Counters::skipped_across_region},
    {"skipped_hints", "Descriptors skipped: not of the current hinting run",
     &Counters::skipped_hints},
    {"bad_pfns", "Pages outside guest RAM", &Counters::bad_pfns},
    {"repeated_pfns", "Pages that were in the balloon already, or not in it",
     &Counters::repeated_pfns},
    {"bad_commands", "Commands that fit no hinting run",
     &Counters::bad_commands},
};
static_assert(sizeof(Counters) ==
                  (std::size(kFields) + kTableFaults) * sizeof(uint64_t),
              "a counter without a field");

constexpr std::array<std::string_view, kTableFaults> kTableFaultNames = {
    "",        "size", "outside_ram", "goes_on", "nested", "next_past_table",
    "too_long"};

}  // namespace

std::span<const BalloonCounterField> BalloonCounterFields() { return kFields; }

std::string_view TableFaultName(size_t fault) {
  return kTableFaultNames.at(fault);
}

BalloonDeviceCounters& operator+=(BalloonDeviceCounters& sum,
                                  const BalloonDeviceCounters& other) {
  for (const BalloonCounterField& field : kFields) {
    sum.*field.member += other.*field.member;
  }
  for (size_t i = 0; i < kTableFaults; ++i) {
    sum.skipped_tables[i] += other.skipped_tables[i];
  }
  return sum;
}

}  // namespace guestmm
