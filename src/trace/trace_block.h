#ifndef GUESTMM_SRC_TRACE_TRACE_BLOCK_H_
#define GUESTMM_SRC_TRACE_TRACE_BLOCK_H_

// The layout of the binary form. Numbers are little endian; a varint has seven
// bits a byte, the lowest first; a zigzag is a varint of a signed number, its
// sign in the lowest bit.
//
//   file    magic (8), version (4), bytes of the source's name (4), the name,
//           CRC-32 of all before it (4); blocks; the end
//   block   kind 1 (4), events (4), bytes stored (4), bytes as they were (4),
//           CRC-32 of these four and of what is stored (4); what is stored: one
//           zstd frame
//   end     the same of kind 2 without events, not compressed: varints: the
//   counters
//           of what was read when the file was made
//
// A block's bytes, so that it can be read without those before it:
//
//   width (1)         bytes of a key: 1 or 2
//   unit              varint: nanoseconds that all its times are multiples of
//   keys              varint: how many
//   each key          kind, order, migratetype (1 each), varints cpu and gfp
//   bytes of times    varint
//   each event's key  its index
//   each event's time zigzag: units since the event before it, or since 0
//   each event's pfn  zigzag: difference to the one before it of the same key,
//   or to 0

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

// As PNG's: a copy as text, or one with the top bit cut, spoils it.
inline constexpr std::string_view kTraceFileMagic("\x89GMMT\r\n\x1a", 8);
inline constexpr uint32_t kTraceFileVersion = 1;

inline constexpr uint32_t kEventsBlock = 1;
inline constexpr uint32_t kEndBlock = 2;

// What a reader takes at most.
inline constexpr size_t kMaxBlockEvents = size_t{1} << 16;
inline constexpr size_t kMaxBlockBytes = size_t{4} << 20;
inline constexpr size_t kMaxSourceBytes = 4096;

// The bytes of a block before compression. REQUIRES: 1 to kMaxBlockEvents
// events, which are as src/trace/trace_limits.h has it.
std::string EncodeBlock(std::span<const TraceEvent> events);

// Bytes that DecodeBlock may read, and ignores, behind a block.
inline constexpr size_t kBlockPadding = 16;

// The other way, of `count` events, into `events`. REQUIRES: `padded` is the
// block and kBlockPadding bytes more. DataLoss says what is wrong.
absl::Status DecodeBlock(std::string_view padded, size_t count,
                         std::vector<TraceEvent>& events);

// The bytes of the end.
std::string EncodeCounters(const TraceReadCounters& counters);
// False if they are not that.
bool DecodeCounters(std::string_view bytes, TraceReadCounters& counters);

void AppendU32(std::string& bytes, uint32_t value);
uint32_t LoadU32(const char* bytes);
// zlib's CRC-32, going on from `crc`.
uint32_t Crc32(std::string_view bytes, uint32_t crc = 0);

}  // namespace guestmm::trace

#endif  // GUESTMM_SRC_TRACE_TRACE_BLOCK_H_
