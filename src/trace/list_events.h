#ifndef GUESTMM_SRC_TRACE_LIST_EVENTS_H_
#define GUESTMM_SRC_TRACE_LIST_EVENTS_H_

#include <memory>
#include <string>

#include "guestmm/trace/trace_reader.h"
#include "src/trace/byte_source.h"

namespace guestmm::trace {

// Reads trace.extra: what moved between zones and per-CPU lists, a line each,
// "TIME CPU KIND PFN ...", the pfn in hex. Kind d, "ORDER TYPE", is a
// mm_page_pcpu_drain; z, "ORDER TYPE REFILL", a mm_page_alloc_zone_locked. b
// and f, mm_page_free_batched and mm_page_alloc_extfrag, are skipped.
std::unique_ptr<TraceReader> MakeListEventsReader(
    std::unique_ptr<ByteSource> bytes, const std::string& name,
    const TraceReadOptions& options = {});

// The requests of `trace` and the events of `lists` by time, both in order. At
// equal times a block leaves its zone before it is allocated, and is freed
// before it is drained. If `trace` has such events itself, `lists` is a copy of
// them and ignored from then on. The counters are the trace's, but `events` and
// `bad_lines`, which are those of both.
std::unique_ptr<TraceReader> WithListEvents(std::unique_ptr<TraceReader> trace,
                                            std::unique_ptr<TraceReader> lists);

}  // namespace guestmm::trace

#endif  // GUESTMM_SRC_TRACE_LIST_EVENTS_H_
