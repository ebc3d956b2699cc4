#ifndef GUESTMM_SRC_TRACE_CPU_RUNS_H_
#define GUESTMM_SRC_TRACE_CPU_RUNS_H_

// Traces of single CPUs that follow one another in one text, as of
// `cat per_cpu/cpu*/trace`: too far apart to be put in order as they are read.

#include <cstdint>
#include <string>
#include <vector>

#include "guestmm/trace/trace_reader.h"

namespace guestmm::trace {

// The lines of one CPU, as bytes of the file from `begin` up to `end`.
struct CpuRun {
  uint64_t begin = 0;
  uint64_t end = 0;

  bool operator==(const CpuRun&) const = default;
};

// The runs of a text that has the events of each CPU in one piece, and those of
// several CPUs. Empty for any other text, and for what is no plain file or
// cannot be read to its end. Reads a text of one CPU, and one in which CPUs
// alternate, in a small part.
std::vector<CpuRun> FindCpuRuns(const std::string& path,
                                const TraceReadOptions& options);

}  // namespace guestmm::trace

#endif  // GUESTMM_SRC_TRACE_CPU_RUNS_H_
