#include "src/trace/find_trace.h"

#include <algorithm>
#include <cstdint>
#include <optional>
#include <string_view>
#include <system_error>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "src/trace/parse.h"

namespace guestmm::trace {
namespace {

// The CPU in "cpu3", "trace.cpu3", "cpu3.txt.gz"; none in other names.
std::optional<uint64_t> CpuOf(std::string_view name) {
  TakeWord(name, "trace.");
  uint64_t cpu = 0;
  if (!TakeWord(name, "cpu") || !TakeDecimal(name, cpu)) return std::nullopt;
  TakeWord(name, ".txt");
  if (!TakeWord(name, ".gz")) TakeWord(name, ".zst");
  return name.empty() ? std::optional(cpu) : std::nullopt;
}

}  // namespace

std::string FindFile(const std::filesystem::path& folder,
                     const std::string& name) {
  for (const char* const suffix : {"", ".zst", ".gz"}) {
    const std::filesystem::path path = folder / (name + suffix);
    std::error_code ignored;
    if (std::filesystem::exists(path, ignored) &&
        !std::filesystem::is_directory(path, ignored)) {
      return path.string();
    }
  }
  return "";
}

absl::StatusOr<std::string> FindTrace(const std::filesystem::path& folder) {
  for (const char* const name :
       {"trace.gmtrace", "trace.txt", "trace_pipe", "trace"}) {
    std::string trace = FindFile(folder, name);
    if (!trace.empty()) return trace;
  }
  for (const std::filesystem::path& per_cpu : {folder / "per_cpu", folder}) {
    if (!PerCpuTraces(per_cpu).empty()) return per_cpu.string();
  }
  std::error_code ignored;
  if (std::filesystem::exists(folder / "raw", ignored)) {
    return absl::NotFoundError(absl::StrCat(
        folder.string(), ": must be decoded first: scripts/decode-trace ",
        folder.string()));
  }
  return absl::NotFoundError(absl::StrCat(
      folder.string(),
      ": must have a trace: trace.gmtrace, trace.txt, trace_pipe, trace or "
      "per_cpu, plain, .zst or .gz"));
}

std::vector<std::string> PerCpuTraces(const std::filesystem::path& folder) {
  std::vector<std::pair<uint64_t, std::string>> traces;
  std::error_code ignored;
  for (const auto& entry :
       std::filesystem::directory_iterator(folder, ignored)) {
    const auto cpu = CpuOf(entry.path().filename().string());
    if (!cpu) continue;
    const bool is_folder = entry.is_directory(ignored);
    traces.emplace_back(
        *cpu, (is_folder ? entry.path() / "trace" : entry.path()).string());
  }
  std::sort(traces.begin(), traces.end());
  std::vector<std::string> paths;
  paths.reserve(traces.size());
  for (auto& [cpu, path] : traces) paths.push_back(std::move(path));
  return paths;
}

}  // namespace guestmm::trace
