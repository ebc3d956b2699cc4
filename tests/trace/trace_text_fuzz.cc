// Feeds bytes to the text reader: the events read, printed and read again are
// the same.

#include <cstddef>
#include <cstdint>
#include <sstream>
#include <string>

#include "guestmm/base/check.h"
#include "tests/trace/trace_testing.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data,
                                      std::size_t size) {
  using guestmm::trace::ReadWhole;
  using guestmm::trace::WholeTrace;
  if (size == 0) return 0;
  // The first byte sets skip_bad, and whether the text begins with a good
  // header.
  std::string text;
  if ((data[0] & 1) != 0) text = "x-1 [000] ..... 1.000000: mm_page_alloc: ";
  if ((data[0] & 2) != 0) text += "pfn=1 order=0 migratetype=1 gfp_flags=";
  text.append(reinterpret_cast<const char*>(data) + 1, size - 1);
  const WholeTrace trace =
      ReadWhole(text, {.skip_bad = static_cast<std::uint64_t>(data[0] >> 2)});
  std::ostringstream printed;
  for (const guestmm::TraceEvent& event : trace.events) {
    printed << event << "\n";
  }
  const WholeTrace again = ReadWhole(printed.str());
  GUESTMM_CHECK(again.status.ok()) << again.message();
  GUESTMM_CHECK(again.events == trace.events);
  return 0;
}
