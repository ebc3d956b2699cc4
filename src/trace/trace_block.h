#ifndef GUESTMM_SRC_TRACE_TRACE_BLOCK_H_
#define GUESTMM_SRC_TRACE_TRACE_BLOCK_H_

// The layout of the binary form. Numbers are little endian. A varint has seven
// bits per byte, the lowest first; a zigzag is a varint of a signed number with
// its sign in the lowest bit.
//
//   file    magic (8), version (4), bytes of the source's name (4), the name,
//           CRC-32 of all before it (4); blocks; the end
//   block   kind 1 (4), events (4), stored bytes (4), decompressed bytes (4),
//           CRC-32 of these four and the stored bytes (4), the stored bytes:
//           one zstd frame
//   end     the same with kind 2 and no events, not compressed: varints, the
//           counters of reading the source when the file was written, but those
//           that the events tell again: unknown_gfp, late, late_by. Version 1
//           has them up to other_lines
//
// The decompressed bytes of a block, which does not depend on those before it:
//
//   width (1)         bytes of a key: 1 or 2
//   unit              varint: a number of ns that divides all its times
//   keys              varint: their number
//   each key          kind, order, migratetype (1 each), varints cpu and gfp
//   bytes of times    varint
//   each event's key  its index
//   each event's time zigzag: units since the event before it, or since 0
//   each event's pfn  zigzag: difference to the previous pfn of the same key,
//   or
//                     to 0

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "guestmm/trace/trace_event.h"
#include "guestmm/trace/trace_reader.h"

namespace guestmm::trace {

// Like PNG's: damaged by a copy in text mode or one that clears the top bit.
inline constexpr std::string_view kTraceFileMagic("\x89GMMT\r\n\x1a", 8);
// The versions that are read; the newest is written. Version 1 has requests
// only, not what moves between zones and per-CPU lists.
inline constexpr uint32_t kOldestTraceFileVersion = 1;
inline constexpr uint32_t kTraceFileVersion = 2;

inline constexpr uint32_t kEventsBlock = 1;
inline constexpr uint32_t kEndBlock = 2;

// The reader's upper bounds.
inline constexpr size_t kMaxBlockEvents = size_t{1} << 16;
inline constexpr size_t kMaxBlockBytes = size_t{4} << 20;
inline constexpr size_t kMaxSourceBytes = 4096;

// The bytes of a block before compression. REQUIRES: 1 to kMaxBlockEvents
// events within the bounds of src/trace/trace_limits.h.
std::string EncodeBlock(std::span<const TraceEvent> events);

// The number of bytes behind a block that DecodeBlock may read, but ignores.
inline constexpr size_t kBlockPadding = 16;

// Decodes the `count` events of a block into `events`. DataLoss names the
// damaged part. REQUIRES: `padded` is the block and kBlockPadding more bytes.
absl::Status DecodeBlock(std::string_view padded, size_t count,
                         std::vector<TraceEvent>& events);

// The bytes of the end, and the inverse.
std::string EncodeCounters(const TraceReadCounters& counters);
// False if they are damaged.
bool DecodeCounters(std::string_view bytes, TraceReadCounters& counters);

void AppendU32(std::string& bytes, uint32_t value);
uint32_t LoadU32(const char* bytes);
// zlib's CRC-32, continued from `crc`.
uint32_t Crc32(std::string_view bytes, uint32_t crc = 0);

}  // namespace guestmm::trace

#endif  // GUESTMM_SRC_TRACE_TRACE_BLOCK_H_
