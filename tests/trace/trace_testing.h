#ifndef GUESTMM_TESTS_TRACE_TRACE_TESTING_H_
#define GUESTMM_TESTS_TRACE_TRACE_TESTING_H_

#include <zlib.h>
#include <zstd.h>

#include <cstdint>
#include <optional>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "guestmm/base/check.h"
#include "guestmm/base/random.h"
#include "guestmm/trace/trace_event.h"
#include "guestmm/trace/trace_reader.h"
#include "src/trace/byte_source.h"
#include "src/trace/open_trace.h"

namespace guestmm::trace {

// The contents of a trace.
struct WholeTrace {
  std::vector<TraceEvent> events;
  TraceReadCounters counters;
  // The error that ended reading, if any.
  absl::Status status;

  std::string message() const { return std::string(status.message()); }
};

// Reads these bytes as a file named "t".
inline WholeTrace ReadWhole(std::string bytes,
                            const TraceReadOptions& options = {}) {
  WholeTrace whole;
  auto source = BytesOf(std::move(bytes), "t");
  if (!source.ok()) {
    whole.status = source.status();
    return whole;
  }
  const auto reader = OpenTraceFrom(*std::move(source), "t", options);
  if (!reader.ok()) {
    whole.status = reader.status();
    return whole;
  }
  while (true) {
    const auto event = (*reader)->Next();
    whole.status = event.status();
    if (!event.ok()) {
      GUESTMM_CHECK((*reader)->Next().status() == event.status())
          << "errors repeat";
    }
    if (!event.ok() || !event->has_value()) break;
    whole.events.push_back(**event);
  }
  whole.counters = (*reader)->counters();
  return whole;
}

// One gzip member.
inline std::string Gzipped(const std::string& bytes) {
  z_stream stream = {};
  deflateInit2(&stream, 6, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY);
  std::string out(deflateBound(&stream, bytes.size()), '\0');
  std::string in = bytes;
  stream.next_in = reinterpret_cast<Bytef*>(in.data());
  stream.avail_in = static_cast<uInt>(in.size());
  stream.next_out = reinterpret_cast<Bytef*>(out.data());
  stream.avail_out = static_cast<uInt>(out.size());
  GUESTMM_CHECK(deflate(&stream, Z_FINISH) == Z_STREAM_END);
  out.resize(stream.total_out);
  deflateEnd(&stream);
  return out;
}

// One zstd frame, with a checksum.
inline std::string Zstandard(const std::string& bytes) {
  ZSTD_CCtx* const context = ZSTD_createCCtx();
  ZSTD_CCtx_setParameter(context, ZSTD_c_checksumFlag, 1);
  std::string out(ZSTD_compressBound(bytes.size()), '\0');
  const size_t size = ZSTD_compress2(context, out.data(), out.size(),
                                     bytes.data(), bytes.size());
  GUESTMM_CHECK(ZSTD_isError(size) == 0);
  ZSTD_freeCCtx(context);
  out.resize(size);
  return out;
}

// Plausible events, with times in multiples of `unit` ns.
inline std::vector<TraceEvent> SomeEvents(int count, int64_t unit = 1000) {
  Random random(7);
  std::vector<TraceEvent> events;
  int64_t time = 21'000'000;
  for (int i = 0; i < count; ++i) {
    TraceEvent event;
    time += static_cast<int64_t>(random.Below(300));
    event.time = Nanoseconds(time * unit);
    event.order = Order(random.Below(8) == 0 ? 3 : 0);
    event.pfn = Pfn(random.Below(uint64_t{1} << 18) << event.order.value());
    event.cpu = static_cast<uint16_t>(random.Below(2));
    if (random.Below(2) == 0) {
      event.kind = TraceEvent::Kind::kFree;
    } else {
      event.migratetype = static_cast<uint8_t>(random.Below(3));
      event.gfp = GfpFlags::Parse(random.Below(2) == 0 ? "GFP_KERNEL"
                                                       : "GFP_USER|__GFP_ZERO");
    }
    events.push_back(event);
  }
  return events;
}

// Long enough for lines and blocks to cross the readers' buffers.
inline std::string LongText(const std::vector<TraceEvent>& events) {
  std::ostringstream text;
  for (const TraceEvent& event : events) text << event << "\n";
  return text.str();
}

}  // namespace guestmm::trace

#endif  // GUESTMM_TESTS_TRACE_TRACE_TESTING_H_
