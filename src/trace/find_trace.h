#ifndef GUESTMM_SRC_TRACE_FIND_TRACE_H_
#define GUESTMM_SRC_TRACE_FIND_TRACE_H_

// Traces, and what was recorded beside them, by the names of their files.

#include <filesystem>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace guestmm::trace {

// The path of the file `name` in `folder`, plain, .zst or .gz; empty if there
// is none.
std::string FindFile(const std::filesystem::path& folder,
                     const std::string& name);

// The trace in a recording's folder: its trace.gmtrace, trace.txt, trace_pipe
// or trace, in this order, or else the folder of its PerCpuTraces: per_cpu, or
// itself. NotFound without one.
absl::StatusOr<std::string> FindTrace(const std::filesystem::path& folder);

// The traces of single CPUs in a folder, by CPU: files cpuN and trace.cpuN,
// plain, .txt, .gz or .zst, and the file trace in folders cpuN, as in tracefs'
// per_cpu. Empty for what is no folder.
std::vector<std::string> PerCpuTraces(const std::filesystem::path& folder);

}  // namespace guestmm::trace

#endif  // GUESTMM_SRC_TRACE_FIND_TRACE_H_
