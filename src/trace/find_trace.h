#ifndef GUESTMM_SRC_TRACE_FIND_TRACE_H_
#define GUESTMM_SRC_TRACE_FIND_TRACE_H_

// Traces, and what was recorded beside them, by the names of their files.

#include <filesystem>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace guestmm::trace {

// The path of the file `name` in `folder`, plain or compressed (.zst, .gz, and
// .xz and .bz2, which are refused when they are read); empty if there is none.
// InvalidArgument if there are several.
absl::StatusOr<std::string> FindFile(const std::filesystem::path& folder,
                                     const std::string& name);

// The trace in a recording's folder: its trace.gmtrace, or else its trace.txt,
// trace_pipe or trace, or else the folder of its PerCpuTraces: per_cpu, or
// itself. NotFound without one; InvalidArgument if there are several of a kind.
absl::StatusOr<std::string> FindTrace(const std::filesystem::path& folder);

// The traces of single CPUs in a folder, by CPU: files cpuN and trace.cpuN,
// plain, .txt, or compressed, and the file trace in folders cpuN, as in
// tracefs' per_cpu, likewise. Empty for what is no folder. InvalidArgument if a
// CPU has several.
absl::StatusOr<std::vector<std::string>> PerCpuTraces(
    const std::filesystem::path& folder);

}  // namespace guestmm::trace

#endif  // GUESTMM_SRC_TRACE_FIND_TRACE_H_
