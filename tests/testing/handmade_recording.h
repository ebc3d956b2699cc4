#ifndef GUESTMM_TESTS_TESTING_HANDMADE_RECORDING_H_
#define GUESTMM_TESTS_TESTING_HANDMADE_RECORDING_H_

// A recording of which a test writes every event.

#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "guestmm/base/check.h"
#include "guestmm/base/clock.h"
#include "guestmm/base/units.h"
#include "guestmm/trace/recording.h"
#include "guestmm/trace/trace_event.h"

namespace guestmm {

// A guest that has memory from 16 MiB on, and a folder for its recording, which
// goes with the test.
class HandmadeRecordingTest : public ::testing::Test {
 protected:
  static constexpr uint64_t kFirst = 0x1000;

  // `pages` pages, of which the first `in_use` are in use when the recording
  // begins, and the others are free.
  explicit HandmadeRecordingTest(uint64_t pages, uint64_t in_use = 0)
      : folder_(std::filesystem::path(::testing::TempDir()) /
                absl::StrCat("handmade_recording_", getpid())) {
    std::filesystem::create_directories(folder_);
    recording_.trace_path = (folder_ / "trace.txt").string();
    recording_.memory = {{Gpa(kFirst * kPageSize), pages * kPageSize}};
    recording_.first.emplace();
    auto& states = recording_.first->states;
    states.assign(kFirst, RecordedPages::State::kAbsent);
    states.resize(kFirst + in_use, RecordedPages::State::kInUse);
    states.resize(kFirst + pages, RecordedPages::State::kFree);
  }
  ~HandmadeRecordingTest() override { std::filesystem::remove_all(folder_); }

  // Adds an event of user memory to the trace, at a time by the trace's clock.
  void Alloc(Nanoseconds time, uint64_t pfn, int order, int cpu = 0) {
    Add({.time = time,
         .pfn = Pfn(pfn),
         .order = Order(order),
         .kind = TraceEvent::Kind::kAlloc,
         .migratetype = 1,
         .cpu = static_cast<uint16_t>(cpu),
         .gfp = GfpFlags::Parse("GFP_HIGHUSER_MOVABLE")});
  }
  void Free(Nanoseconds time, uint64_t pfn, int order, int cpu = 0) {
    Add({.time = time,
         .pfn = Pfn(pfn),
         .order = Order(order),
         .kind = TraceEvent::Kind::kFree,
         .cpu = static_cast<uint16_t>(cpu)});
  }
  // Adds, in seconds, that a zone gives a block of user memory to a list.
  void LeaveZone(double time, uint64_t pfn, int order, int cpu = 0) {
    Add({.time = FromSeconds(time),
         .pfn = Pfn(pfn),
         .order = Order(order),
         .kind = TraceEvent::Kind::kZoneAlloc,
         .migratetype = 1,
         .cpu = static_cast<uint16_t>(cpu)});
  }
  // Adds, in seconds, that a block goes from a list of user memory to its zone.
  void Drain(double time, uint64_t pfn, int order, int cpu = 0) {
    Add({.time = FromSeconds(time),
         .pfn = Pfn(pfn),
         .order = Order(order),
         .kind = TraceEvent::Kind::kDrain,
         .migratetype = 1,
         .cpu = static_cast<uint16_t>(cpu)});
  }
  // Requests, in seconds.
  void Alloc(double time, uint64_t pfn, int order, int cpu = 0) {
    Alloc(FromSeconds(time), pfn, order, cpu);
  }
  void Free(double time, uint64_t pfn, int order, int cpu = 0) {
    Free(FromSeconds(time), pfn, order, cpu);
  }
  // Adds an event that cannot be read.
  void AddDamage() {
    absl::StrAppend(
        &trace_,
        "  task-1 [000] .....  12.0: mm_page_alloc: page=0 pfn=nonsense\n");
  }
  void ClearTrace() { trace_.clear(); }

  // Writes the events so far to trace.txt.
  void WriteTrace() const { Write("trace.txt", trace_); }
  // Writes a file of the recording.
  void Write(const std::string& name, const std::string& text) const {
    std::ofstream(folder_ / name, std::ios::binary) << text;
  }
  // Writes `recording_`'s memory map and the state of its pages, so that
  // ReadRecording finds them. REQUIRES: no page is in use.
  void WriteFirst() const {
    const GpaRange& memory = recording_.memory.front();
    Write("iomem",
          absl::StrFormat("%08x-%08x : System RAM\n", memory.gpa.value(),
                          memory.gpa.value() + memory.bytes - 1));
    // Linux's KPF_NOPAGE and KPF_BUDDY; and PG_reported, which is
    // KPF_UPTODATE.
    constexpr uint64_t kNoPage = uint64_t{1} << 20;
    constexpr uint64_t kBuddy = uint64_t{1} << 10;
    constexpr uint64_t kReported = uint64_t{1} << 3;
    std::vector<uint64_t> flags;
    for (const RecordedPages::State state : recording_.first->states) {
      GUESTMM_CHECK(state != RecordedPages::State::kInUse);
      flags.push_back(state == RecordedPages::State::kAbsent ? kNoPage
                                                             : kBuddy);
    }
    for (const Pfn pfn : recording_.first->reported) {
      flags[pfn.value()] |= kReported;
    }
    Write("kpageflags.start",
          std::string(reinterpret_cast<const char*>(flags.data()),
                      flags.size() * sizeof(flags[0])));
  }

  const std::filesystem::path folder_;
  Recording recording_;

 private:
  static Nanoseconds FromSeconds(double seconds) {
    return Nanoseconds(std::llround(seconds * 1e9));
  }
  void Add(const TraceEvent& event) {
    std::ostringstream line;
    line << event << "\n";
    trace_ += line.str();
  }

  std::string trace_;
};

}  // namespace guestmm

#endif  // GUESTMM_TESTS_TESTING_HANDMADE_RECORDING_H_
