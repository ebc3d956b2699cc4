#include "src/trace/cpu_runs.h"

#include <algorithm>
#include <filesystem>
#include <memory>
#include <optional>
#include <set>
#include <system_error>
#include <utility>

#include "src/trace/byte_source.h"
#include "src/trace/open_trace.h"

namespace guestmm::trace {
namespace {

// Each run is a file that is open.
constexpr size_t kMostRuns = 512;

// The CPU of the last event in a file of `bytes`, as far as its end shows one.
std::optional<uint16_t> LastCpu(const std::string& path, uint64_t bytes) {
  constexpr uint64_t kEnd = uint64_t{64} << 10;
  auto source = OpenRange(path, bytes - std::min(bytes, kEnd), bytes);
  if (!source.ok()) return std::nullopt;
  // It begins within a line.
  const std::unique_ptr<TraceReader> reader =
      MakeTextReader(*std::move(source), path, {.skip_bad = ~uint64_t{0}});
  std::optional<uint16_t> cpu;
  for (auto event = reader->Next(); event.ok() && event->has_value();
       event = reader->Next()) {
    cpu = (*event)->cpu;
  }
  return cpu;
}

}  // namespace

std::vector<CpuRun> FindCpuRuns(const std::string& path,
                                const TraceReadOptions& options) {
  std::error_code error;
  if (!std::filesystem::is_regular_file(path, error)) return {};
  const uint64_t bytes = std::filesystem::file_size(path, error);
  if (error || !IsPlainText(path)) return {};
  auto source = OpenRange(path, 0, bytes);
  if (!source.ok()) return {};
  const std::unique_ptr<TraceReader> reader =
      MakeTextReader(*std::move(source), path, options);
  std::vector<CpuRun> runs;
  std::set<uint16_t> cpus;
  std::optional<uint16_t> current;
  while (true) {
    const auto event = reader->Next();
    if (!event.ok()) return {};
    if (!event->has_value()) break;
    const uint16_t cpu = (*event)->cpu;
    if (cpu != current) {
      if (!current && LastCpu(path, bytes) == cpu) return {};
      if (!cpus.insert(cpu).second || runs.size() == kMostRuns) return {};
      current = cpu;
      // What lies between belongs to the run that begins.
      runs.push_back({.begin = runs.empty() ? 0 : runs.back().end, .end = 0});
    }
    runs.back().end = reader->bytes();
  }
  if (runs.size() < 2) return {};
  runs.back().end = bytes;
  return runs;
}

}  // namespace guestmm::trace
