#ifndef GUESTMM_TOOLS_GUESTMM_TRACE_INFO_H_
#define GUESTMM_TOOLS_GUESTMM_TRACE_INFO_H_

#include <array>
#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "guestmm/base/clock.h"
#include "guestmm/base/units.h"
#include "guestmm/trace/trace_event.h"
#include "guestmm/trace/trace_reader.h"

namespace guestmm::tools {

// What is in a trace, of one or several files.
struct TraceInfo {
  // The number of events of each TraceEvent::Kind.
  using ByKind = std::array<uint64_t, 4>;
  using ByOrder = std::array<ByKind, kMaxOrder.value() + 1>;

  std::vector<std::string> paths;
  // Of a recording; empty if it is unknown.
  std::string kernel;
  // The reader's, when all was read.
  std::string format;
  TraceReadCounters counters;
  uint64_t decoded_bytes = 0;
  // Of all files; absent if one of them is not a regular file.
  std::optional<uint64_t> file_bytes;
  ByOrder orders = {};
  std::set<uint16_t> cpus;
  // Absent without an event.
  std::optional<Nanoseconds> first;
  std::optional<Nanoseconds> last;
  // The error that ended reading.
  absl::Status status;

  ByKind all_orders() const;
};

// Reads all of `reader`, which reads `paths`, of a guest with this `kernel`.
TraceInfo ReadTraceInfo(TraceReader& reader, std::vector<std::string> paths,
                        std::string kernel);

// Prints it as tables.
void PrintTraceInfo(const TraceInfo& info);
// The same as JSON, docs/trace-info.schema.json.
std::string TraceInfoJson(const TraceInfo& info);

// "a.txt", "a.txt and 3 more".
std::string NameOfPaths(const std::vector<std::string>& paths);
// "12.345678 s".
std::string PreciseSeconds(Nanoseconds time);

}  // namespace guestmm::tools

#endif  // GUESTMM_TOOLS_GUESTMM_TRACE_INFO_H_
