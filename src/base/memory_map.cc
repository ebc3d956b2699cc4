#include "guestmm/base/memory_map.h"

#include <algorithm>
#include <charconv>
#include <optional>
#include <string>
#include <system_error>

#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"

namespace guestmm {
namespace {

// Parses one memory map. Every part is a view into the whole text, so that an
// error can give its position.
class MemoryMapParser {
 public:
  explicit MemoryMapParser(std::string_view text) : text_(text) {}

  absl::StatusOr<MemoryMap> Parse() const {
    std::vector<MemoryRange> ranges;
    std::string_view rest = text_;
    while (true) {
      const size_t comma = rest.find(',');
      const std::string_view part = rest.substr(0, comma);
      const absl::StatusOr<MemoryRange> range = ParseRange(part);
      if (!range.ok()) return range.status();
      if (!ranges.empty() && range->start < ranges.back().end) {
        return Error(
            part, absl::StrFormat(
                      "must start at or after %#x, where the range before ends",
                      ToGpa(ranges.back().end).value()));
      }
      ranges.push_back(*range);
      if (comma == std::string_view::npos) return MemoryMap(std::move(ranges));
      rest.remove_prefix(comma + 1);
    }
  }

 private:
  absl::StatusOr<MemoryRange> ParseRange(std::string_view part) const {
    const size_t at = part.find('@');
    const std::string_view addresses = part.substr(0, at);
    const size_t dash = addresses.find('-');
    if (dash == std::string_view::npos) {
      return Error(part, "must be START-END or START-END@NODE, as in 4G-5G@1");
    }
    const absl::StatusOr<Pfn> start = ParsePfn(addresses.substr(0, dash));
    if (!start.ok()) return start.status();
    const absl::StatusOr<Pfn> end = ParsePfn(addresses.substr(dash + 1));
    if (!end.ok()) return end.status();
    if (*end <= *start) {
      return Error(addresses, "must end above its start");
    }
    MemoryRange range = {.start = *start, .end = *end};
    if (at != std::string_view::npos) {
      const std::string_view node = part.substr(at + 1);
      const char* const node_end = node.data() + node.size();
      const auto [rest, error] =
          std::from_chars(node.data(), node_end, range.node);
      if (error != std::errc() || rest != node_end || range.node < 0) {
        return Error(node, "must be a node number, 0 or more");
      }
    }
    return range;
  }

  absl::StatusOr<Pfn> ParsePfn(std::string_view part) const {
    const std::optional<uint64_t> bytes = ParseBytes(part);
    if (!bytes) {
      return Error(part,
                   "must be a number of bytes, decimal or hexadecimal, "
                   "optionally with K, M, G or T, as in 4G or 0x100000000");
    }
    if (!Gpa(*bytes).IsAligned(kPageSize)) {
      return Error(part, absl::StrFormat("must be a multiple of the page size, "
                                         "%d bytes",
                                         kPageSize));
    }
    return ToPfn(Gpa(*bytes));
  }

  absl::Status Error(std::string_view part, const std::string& problem) const {
    return absl::InvalidArgumentError(
        absl::StrFormat("%s: \"%s\" at character %d: %s", text_, part,
                        part.data() - text_.data() + 1, problem));
  }

  const std::string_view text_;
};

}  // namespace

MemoryMap MemoryMap::Pc(uint64_t bytes, uint64_t nodes) {
  constexpr uint64_t kLowMemory = 3 * kGiB;
  bytes -= bytes % kPageSize;
  const uint64_t low = std::min(bytes, kLowMemory);
  const GpaRange layout[] = {{.gpa = Gpa(0), .bytes = low},
                             {.gpa = Gpa(4 * kGiB), .bytes = bytes - low}};
  const uint64_t share =
      bytes / nodes / kPageblockOrder.bytes() * kPageblockOrder.bytes();
  std::vector<MemoryRange> ranges;
  int node = 0;
  uint64_t left = share;  // of this node's share
  for (GpaRange range : layout) {
    while (range.bytes > 0) {
      const bool last = static_cast<uint64_t>(node) + 1 == nodes;
      const uint64_t part = last ? range.bytes : std::min(range.bytes, left);
      ranges.push_back({.start = ToPfn(range.gpa),
                        .end = ToPfn(range.gpa + part),
                        .node = node});
      range = {.gpa = range.gpa + part, .bytes = range.bytes - part};
      left -= std::min(left, part);
      if (left == 0 && !last) {
        ++node;
        left = share;
      }
    }
  }
  return ranges;
}

absl::StatusOr<MemoryMap> MemoryMap::Parse(std::string_view text) {
  return MemoryMapParser(text).Parse();
}

MemoryMap MemoryMap::WholePages(std::span<const GpaRange> ranges) {
  std::vector<MemoryRange> whole;
  for (const GpaRange& range : ranges) {
    const Pfn start = ToPfn(range.gpa + (kPageSize - 1));
    const Pfn end = ToPfn(range.gpa + range.bytes);
    if (start < end) whole.push_back({start, end});
  }
  return whole;
}

uint64_t MemoryMap::bytes() const {
  uint64_t bytes = 0;
  for (const MemoryRange& range : ranges_)
    bytes += range.pages().pages().bytes();
  return bytes;
}

std::vector<GpaRange> MemoryMap::regions() const {
  std::vector<GpaRange> regions;
  for (const MemoryRange& range : ranges_) {
    const Gpa start = ToGpa(range.start);
    const uint64_t bytes = (range.end - range.start).bytes();
    if (!regions.empty() &&
        regions.back().gpa + regions.back().bytes == start) {
      regions.back().bytes += bytes;
    } else {
      regions.push_back({.gpa = start, .bytes = bytes});
    }
  }
  return regions;
}

std::string FormatMemoryMap(std::span<const GpaRange> ranges) {
  return absl::StrJoin(
      ranges, ",", [](std::string* out, const GpaRange& range) {
        absl::StrAppendFormat(out, "%#x-%#x", range.gpa.value(),
                              (range.gpa + range.bytes).value());
      });
}

}  // namespace guestmm
