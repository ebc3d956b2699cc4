#ifndef GUESTMM_TRACE_TRACE_FILE_H_
#define GUESTMM_TRACE_TRACE_FILE_H_

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "guestmm/trace/trace_event.h"
#include "guestmm/trace/trace_reader.h"

namespace guestmm {

struct TraceFileOptions {
  // Where the events came from, for people; at most 4096 bytes.
  std::string source = {};
  // zstd's, 1 to 19.
  int level = 9;
  // Events in a block, 1 to 65536: what a damaged byte costs.
  int block_events = 8192;
};

// Writes a trace in the compact binary form, which OpenTrace reads. The file is
// there whole or not at all: until Finish it is PATH.part.
//
//   auto writer = TraceFileWriter::Create("trace.gmtrace", {.source =
//   "trace.txt"});
//   (*writer)->Add(event);
//   (*writer)->Finish(reader.counters());
class TraceFileWriter {
 public:
  // InvalidArgument for bad options, Unavailable if the file cannot be made.
  static absl::StatusOr<std::unique_ptr<TraceFileWriter>> Create(
      const std::string& path, const TraceFileOptions& options = {});

  // Without Finish, nothing is left.
  virtual ~TraceFileWriter() = default;

  // InvalidArgument for an event that no trace has: an order above kMaxOrder, a
  // page above 52 bits of address. Unavailable if the disk is full; this
  // repeats.
  virtual absl::Status Add(const TraceEvent& event) = 0;

  // Writes the rest, and what reading the source counted (`events` aside, which
  // the writer counts), and gives the file its name. Once.
  virtual absl::Status Finish(const TraceReadCounters& source = {}) = 0;

  virtual uint64_t events() const = 0;
  // Written so far: before compression, and in the file.
  virtual uint64_t encoded_bytes() const = 0;
  virtual uint64_t file_bytes() const = 0;
};

}  // namespace guestmm

#endif  // GUESTMM_TRACE_TRACE_FILE_H_
