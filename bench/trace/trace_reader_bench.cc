// The speed of reading traces: the one that GUESTMM_TRACE names, or else a
// generated one.

#include <benchmark/benchmark.h>

#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>

#include "guestmm/base/random.h"
#include "guestmm/trace/trace_file.h"
#include "guestmm/trace/trace_reader.h"

namespace guestmm {
namespace {

namespace fs = std::filesystem;

// The same events as text and in the binary form, removed at exit.
class Traces {
 public:
  Traces() : folder_(fs::temp_directory_path() / "guestmm_trace_bench") {
    fs::create_directories(folder_);
    if (const char* const given = std::getenv("GUESTMM_TRACE")) {
      text_ = given;
    } else {
      text_ = (folder_ / "trace.txt").string();
      MakeUp(text_);
    }
    const auto reader = OpenTrace(text_).value();
    const auto writer = TraceFileWriter::Create(binary()).value();
    while (const auto event = reader->Next().value()) {
      writer->Add(*event).IgnoreError();
    }
    writer->Finish(reader->counters()).IgnoreError();
    bytes_an_event_ = static_cast<double>(writer->encoded_bytes()) /
                      static_cast<double>(writer->events());
    file_bytes_an_event_ = static_cast<double>(writer->file_bytes()) /
                           static_cast<double>(writer->events());
  }
  ~Traces() { fs::remove_all(folder_); }
  Traces(const Traces&) = delete;
  Traces& operator=(const Traces&) = delete;

  const std::string& text() const { return text_; }
  std::string binary() const { return (folder_ / "trace.gmtrace").string(); }
  double bytes_an_event() const { return bytes_an_event_; }
  double file_bytes_an_event() const { return file_bytes_an_event_; }

 private:
  static void MakeUp(const std::string& path) {
    std::ofstream out(path);
    Random random(1);
    for (int i = 0; i < 200'000; ++i) {
      out << "           cc1-1234    [00" << i % 2 << "] .....    21."
          << 100'000 + 4 * i << ": mm_page_";
      const uint64_t pfn = random.Below(uint64_t{1} << 20);
      if (random.Below(2) == 0) {
        out << "free: page=000000005322fef6 pfn=" << pfn << " order=0\n";
      } else {
        out << "alloc: page=000000005322fef6 pfn=" << pfn
            << " order=0 migratetype=1 "
               "gfp_flags=GFP_HIGHUSER_MOVABLE|__GFP_COMP|__GFP_ZERO\n";
      }
    }
  }

  const fs::path folder_;
  std::string text_;
  double bytes_an_event_ = 0;
  double file_bytes_an_event_ = 0;
};

const Traces& TheTraces() {
  static const Traces traces;
  return traces;
}

void ReadAll(benchmark::State& state, const std::string& path) {
  uint64_t events = 0;
  uint64_t sum = 0;
  for (auto _ : state) {
    const auto reader = OpenTrace(path).value();
    while (const auto event = reader->Next().value()) {
      sum += event->pfn.value();
      ++events;
    }
  }
  benchmark::DoNotOptimize(sum);
  state.SetItemsProcessed(static_cast<int64_t>(events));
}

void BM_ReadText(benchmark::State& state) {
  ReadAll(state, TheTraces().text());
}
BENCHMARK(BM_ReadText)->Unit(benchmark::kMillisecond);

void BM_ReadBinary(benchmark::State& state) {
  ReadAll(state, TheTraces().binary());
  state.counters["bytes/event"] = TheTraces().bytes_an_event();
  state.counters["stored/event"] = TheTraces().file_bytes_an_event();
}
BENCHMARK(BM_ReadBinary)->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace guestmm

BENCHMARK_MAIN();
