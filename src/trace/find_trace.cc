#include "src/trace/find_trace.h"

#include <array>
#include <cstdint>
#include <map>
#include <optional>
#include <string_view>
#include <system_error>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "src/trace/parse.h"

namespace guestmm::trace {
namespace {

// What FindFile tries.
constexpr std::array<const char*, 4> kCompressed = {".zst", ".gz", ".xz",
                                                    ".bz2"};

// The CPU in "cpu3", "trace.cpu3", "cpu3.txt.gz"; none in other names.
std::optional<uint64_t> CpuOf(std::string_view name) {
  TakeWord(name, "trace.");
  uint64_t cpu = 0;
  if (!TakeWord(name, "cpu") || !TakeDecimal(name, cpu)) return std::nullopt;
  TakeWord(name, ".txt");
  for (const char* const suffix : kCompressed) {
    if (TakeWord(name, suffix)) break;
  }
  return name.empty() ? std::optional(cpu) : std::nullopt;
}

// Sets `path`, which is then to be unset, to `other`, unless that is empty.
void SetOnce(std::string& path, const std::string& other,
             absl::Status& status) {
  if (other.empty()) return;
  if (!path.empty()) {
    status.Update(absl::InvalidArgumentError(
        absl::StrCat(path, ", ", other, ": must be one of the two")));
  }
  path = other;
}

}  // namespace

absl::StatusOr<std::string> FindFile(const std::filesystem::path& folder,
                                     const std::string& name) {
  const auto at = [&](const char* suffix) {
    const std::filesystem::path path = folder / (name + suffix);
    std::error_code ignored;
    return std::filesystem::exists(path, ignored) &&
                   !std::filesystem::is_directory(path, ignored)
               ? path.string()
               : "";
  };
  std::string found = at("");
  absl::Status status;
  for (const char* const suffix : kCompressed) {
    SetOnce(found, at(suffix), status);
  }
  if (!status.ok()) return status;
  return found;
}

absl::StatusOr<std::string> FindTrace(const std::filesystem::path& folder) {
  absl::StatusOr<std::string> binary = FindFile(folder, "trace.gmtrace");
  if (!binary.ok() || !binary->empty()) return binary;
  std::string trace;
  absl::Status status;
  for (const char* const name : {"trace.txt", "trace_pipe", "trace"}) {
    const absl::StatusOr<std::string> text = FindFile(folder, name);
    if (!text.ok()) return text;
    SetOnce(trace, *text, status);
  }
  if (!status.ok()) return status;
  if (!trace.empty()) return trace;
  for (const std::filesystem::path& per_cpu : {folder / "per_cpu", folder}) {
    const auto traces = PerCpuTraces(per_cpu);
    if (!traces.ok()) return traces.status();
    if (!traces->empty()) SetOnce(trace, per_cpu.string(), status);
  }
  if (!status.ok()) return status;
  if (!trace.empty()) return trace;
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

absl::StatusOr<std::vector<std::string>> PerCpuTraces(
    const std::filesystem::path& folder) {
  std::map<uint64_t, std::string> traces;
  absl::Status status;
  std::error_code ignored;
  for (const auto& entry :
       std::filesystem::directory_iterator(folder, ignored)) {
    const auto cpu = CpuOf(entry.path().filename().string());
    if (!cpu) continue;
    absl::StatusOr<std::string> trace = entry.path().string();
    if (entry.is_directory(ignored)) trace = FindFile(entry.path(), "trace");
    if (!trace.ok()) return trace.status();
    SetOnce(traces[*cpu], *trace, status);
  }
  if (!status.ok()) return status;
  std::vector<std::string> paths;
  for (auto& [cpu, path] : traces) {
    if (!path.empty()) paths.push_back(std::move(path));
  }
  return paths;
}

}  // namespace guestmm::trace
