#include "src/trace/trace_block.h"

#include <zlib.h>

#include <algorithm>
#include <array>

#include "absl/container/flat_hash_map.h"
#include "src/trace/trace_limits.h"

namespace guestmm::trace {
namespace {

// Recordings have times in microseconds or in nanoseconds.
constexpr uint64_t kMicrosecond = 1000;

void AppendVarint(std::string& bytes, uint64_t value) {
  while (value >= 0x80) {
    bytes.push_back(static_cast<char>(value | 0x80));
    value >>= 7;
  }
  bytes.push_back(static_cast<char>(value));
}

void AppendZigzag(std::string& bytes, uint64_t difference) {
  AppendVarint(bytes, difference << 1 ^ (0 - (difference >> 63)));
}

// Reads at most 10 bytes and does not check the end. Most have one byte or two;
// a call for each would cost as much as all else of an event.
[[gnu::always_inline]] inline uint64_t LoadVarint(const unsigned char*& at) {
  uint64_t value = *at & 0x7f;
  if (*at++ < 0x80) return value;
  for (int shift = 7; shift < 70; shift += 7) {
    value |= static_cast<uint64_t>(*at & 0x7f) << std::min(shift, 63);
    if (*at++ < 0x80) break;
  }
  return value;
}

[[gnu::always_inline]] inline uint64_t LoadZigzag(const unsigned char*& at) {
  const uint64_t value = LoadVarint(at);
  return value >> 1 ^ (0 - (value & 1));
}

// The part of an event that many others share.
struct Key {
  TraceEvent::Kind kind;
  uint8_t order;
  uint8_t migratetype;
  uint16_t cpu;
  uint32_t gfp;

  bool operator==(const Key&) const = default;
  template <typename H>
  friend H AbslHashValue(H h, const Key& key) {
    return H::combine(std::move(h), key.kind, key.order, key.migratetype,
                      key.cpu, key.gfp);
  }
};

Key KeyOf(const TraceEvent& event) {
  return {.kind = event.kind,
          .order = static_cast<uint8_t>(event.order.value()),
          .migratetype = event.migratetype,
          .cpu = event.cpu,
          .gfp = event.gfp};
}

void AppendKey(std::string& bytes, const Key& key) {
  bytes.push_back(static_cast<char>(key.kind));
  bytes.push_back(static_cast<char>(key.order));
  bytes.push_back(static_cast<char>(key.migratetype));
  AppendVarint(bytes, key.cpu);
  AppendVarint(bytes, key.gfp);
}

// A key's part of its events, and its last pfn.
struct KeyState {
  TraceEvent event;
  uint64_t pfn = 0;
};

bool LoadKey(const unsigned char*& at, KeyState& key) {
  const unsigned kind = at[0];
  const unsigned order = at[1];
  const unsigned migratetype = at[2];
  at += 3;
  const uint64_t cpu = LoadVarint(at);
  const uint64_t gfp = LoadVarint(at);
  if (kind > static_cast<unsigned>(TraceEvent::Kind::kDrain) ||
      order > static_cast<unsigned>(kMaxOrder.value()) || cpu > kMaxCpu ||
      gfp > 0xffffffff) {
    return false;
  }
  key.event.kind = static_cast<TraceEvent::Kind>(kind);
  key.event.order = Order(static_cast<int>(order));
  key.event.migratetype = static_cast<uint8_t>(migratetype);
  key.event.cpu = static_cast<uint16_t>(cpu);
  key.event.gfp = static_cast<uint32_t>(gfp);
  return true;
}

}  // namespace

std::string EncodeBlock(std::span<const TraceEvent> events) {
  const bool in_microseconds =
      std::all_of(events.begin(), events.end(), [](const TraceEvent& event) {
        return event.time.count() % int64_t{kMicrosecond} == 0;
      });
  const int64_t unit = in_microseconds ? int64_t{kMicrosecond} : 1;

  // Indices follow the order of the events, so that the bytes are
  // deterministic.
  absl::flat_hash_map<Key, size_t> index_of;
  std::vector<uint64_t> last_pfn;
  std::vector<size_t> indices;
  std::string keys;
  std::string times;
  std::string pfns;
  int64_t last_time = 0;
  for (const TraceEvent& event : events) {
    const Key key = KeyOf(event);
    const auto [found, is_new] = index_of.try_emplace(key, last_pfn.size());
    if (is_new) {
      last_pfn.push_back(0);
      AppendKey(keys, key);
    }
    indices.push_back(found->second);
    const int64_t time = event.time.count() / unit;
    AppendZigzag(
        times, static_cast<uint64_t>(time) - static_cast<uint64_t>(last_time));
    last_time = time;
    uint64_t& last = last_pfn[found->second];
    AppendZigzag(pfns, event.pfn.value() - last);
    last = event.pfn.value();
  }

  std::string bytes;
  const bool wide = last_pfn.size() > 256;
  bytes.push_back(wide ? 2 : 1);
  AppendVarint(bytes, static_cast<uint64_t>(unit));
  AppendVarint(bytes, last_pfn.size());
  bytes += keys;
  AppendVarint(bytes, times.size());
  for (const size_t index : indices) {
    bytes.push_back(static_cast<char>(index));
    if (wide) bytes.push_back(static_cast<char>(index >> 8));
  }
  return bytes + times + pfns;
}

absl::Status DecodeBlock(std::string_view padded, size_t count,
                         std::vector<TraceEvent>& events) {
  events.clear();
  const auto* at = reinterpret_cast<const unsigned char*>(padded.data());
  const unsigned char* const end = at + padded.size() - kBlockPadding;
  const auto left = [&] { return static_cast<size_t>(end - at); };
  if (count == 0 || count > kMaxBlockEvents || at == end) {
    return absl::DataLossError("a block without events, or too many");
  }
  const size_t width = *at++;
  const uint64_t unit = LoadVarint(at);
  const uint64_t key_count = LoadVarint(at);
  if (width < 1 || width > 2 || unit == 0 || unit > 1'000'000'000 ||
      key_count == 0 || key_count > count || at > end) {
    return absl::DataLossError("a block's head");
  }
  std::vector<KeyState> keys(key_count);
  for (KeyState& key : keys) {
    // A key takes at most 13 bytes, fewer than the padding has.
    if (at >= end || !LoadKey(at, key)) {
      return absl::DataLossError("a block's table of keys");
    }
  }
  if (at > end) return absl::DataLossError("a block's table of keys");
  const uint64_t time_bytes = LoadVarint(at);
  if (at > end || left() < count * width ||
      time_bytes > left() - count * width) {
    return absl::DataLossError("a block's length");
  }
  const unsigned char* key_at = at;
  const unsigned char* time_at = key_at + count * width;
  const unsigned char* const times_end = time_at + time_bytes;
  const unsigned char* pfn_at = times_end;

  events.resize(count);
  uint64_t time = 0;
  for (TraceEvent& event : events) {
    size_t index = *key_at;
    if (width == 2) index |= size_t{key_at[1]} << 8;
    key_at += width;
    // A varint ends at most 10 bytes behind its column.
    if (index >= keys.size() || time_at >= times_end || pfn_at >= end) {
      events.clear();
      return absl::DataLossError("a block's events");
    }
    KeyState& key = keys[index];
    time += LoadZigzag(time_at);
    key.pfn += LoadZigzag(pfn_at);
    if (key.pfn > kMaxPfn) {
      events.clear();
      return absl::DataLossError("a page's number");
    }
    event = key.event;
    event.time = Nanoseconds(static_cast<int64_t>(time * unit));
    event.pfn = Pfn(key.pfn);
  }
  if (time_at != times_end || pfn_at != end) {
    events.clear();
    return absl::DataLossError("a block's columns");
  }
  return absl::OkStatus();
}

std::string EncodeCounters(const TraceReadCounters& counters) {
  std::string bytes;
  for (const uint64_t counter :
       {counters.events, counters.lost, counters.bad_lines,
        counters.batched_frees, counters.failed_allocs, counters.other_lines,
        counters.unended_lines, counters.cut_lines, counters.reordered}) {
    AppendVarint(bytes, counter);
  }
  return bytes;
}

bool DecodeCounters(std::string_view bytes, TraceReadCounters& counters) {
  std::string padded(bytes);
  padded.append(kBlockPadding, '\0');
  const auto* at = reinterpret_cast<const unsigned char*>(padded.data());
  const unsigned char* const end = at + bytes.size();
  for (uint64_t* const counter :
       {&counters.events, &counters.lost, &counters.bad_lines,
        &counters.batched_frees, &counters.failed_allocs, &counters.other_lines,
        &counters.unended_lines, &counters.cut_lines, &counters.reordered}) {
    // The end of version 1.
    if (at == end && counter == &counters.unended_lines) return true;
    if (at >= end) return false;
    *counter = LoadVarint(at);
  }
  return at == end;
}

void AppendU32(std::string& bytes, uint32_t value) {
  for (int shift = 0; shift < 32; shift += 8) {
    bytes.push_back(static_cast<char>(value >> shift));
  }
}

uint32_t LoadU32(const char* bytes) {
  uint32_t value = 0;
  for (int i = 3; i >= 0; --i) {
    value = value << 8 | static_cast<unsigned char>(bytes[i]);
  }
  return value;
}

uint32_t Crc32(std::string_view bytes, uint32_t crc) {
  return static_cast<uint32_t>(
      crc32_z(crc, reinterpret_cast<const Bytef*>(bytes.data()), bytes.size()));
}

}  // namespace guestmm::trace
