#ifndef GUESTMM_TRACE_TRACE_FILE_H_
#define GUESTMM_TRACE_TRACE_FILE_H_

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "guestmm/base/export.h"
#include "guestmm/trace/trace_event.h"
#include "guestmm/trace/trace_reader.h"

namespace GUESTMM_EXPORT guestmm {

struct TraceFileOptions {
  // The origin of the events, for display; at most 4096 bytes.
  std::string source = {};
  // The compression level of zstd, 1 to 19.
  int level = 9;
  // Events per block, 1 to 65536. A damaged byte costs a block.
  int block_events = 8192;
};

// Writes a trace in the compact binary form, which OpenTrace reads. The file is
// an OutputFile, which Finish commits: it is never incomplete.
//
//   auto writer = TraceFileWriter::Create("trace.gmtrace", {.source =
//   "trace.txt"});
//   (*writer)->Add(event);
//   (*writer)->Finish(reader.counters());
class TraceFileWriter {
 public:
  // OptionError for bad options, or OutputFile::Create's error.
  static absl::StatusOr<std::unique_ptr<TraceFileWriter>> Create(
      const std::string& path, const TraceFileOptions& options = {});

  // Without Finish, removes the file.
  virtual ~TraceFileWriter() = default;

  // InvalidArgument for an order above kMaxOrder or an address of more than 52
  // bits. Unavailable if the file cannot be written, for every later call too.
  virtual absl::Status Add(const TraceEvent& event) = 0;

  // Writes the rest and the counters of reading the source (except `events`,
  // which the writer counts), and gives the file its name. REQUIRES: not called
  // before.
  virtual absl::Status Finish(const TraceReadCounters& source = {}) = 0;

  virtual uint64_t events() const = 0;
  // Bytes written so far, before and after compression.
  virtual uint64_t encoded_bytes() const = 0;
  virtual uint64_t file_bytes() const = 0;
};

}  // namespace guestmm

#endif  // GUESTMM_TRACE_TRACE_FILE_H_
