#include "guestmm/base/memory_map.h"

#include <algorithm>
#include <charconv>
#include <optional>
#include <string>
#include <system_error>

#include "absl/strings/str_format.h"
#include "guestmm/base/units.h"

namespace guestmm {
namespace {

// Reads one text; every part it handles is a view into that, so that errors can
// say where.
class Parser {
 public:
  explicit Parser(std::string_view text) : text_(text) {}

  absl::StatusOr<std::vector<MemoryRange>> Parse() const {
    std::vector<MemoryRange> memory;
    std::string_view rest = text_;
    while (true) {
      const size_t comma = rest.find(',');
      const std::string_view part = rest.substr(0, comma);
      const absl::StatusOr<MemoryRange> range = ParseRange(part);
      if (!range.ok()) return range.status();
      if (!memory.empty() && range->start < memory.back().end) {
        return Error(
            part, absl::StrFormat("begins before the range ahead of it ends, "
                                  "at %#x; allowed are ranges that ascend",
                                  ToGpa(memory.back().end).value()));
      }
      memory.push_back(*range);
      if (comma == std::string_view::npos) return memory;
      rest.remove_prefix(comma + 1);
    }
  }

 private:
  absl::StatusOr<MemoryRange> ParseRange(std::string_view part) const {
    const size_t at = part.find('@');
    const std::string_view addresses = part.substr(0, at);
    const size_t dash = addresses.find('-');
    if (dash == std::string_view::npos) {
      return Error(part,
                   "allowed is START-END or START-END@NODE, as in 4G-5G@1");
    }
    const absl::StatusOr<Pfn> start = ParsePfn(addresses.substr(0, dash));
    if (!start.ok()) return start.status();
    const absl::StatusOr<Pfn> end = ParsePfn(addresses.substr(dash + 1));
    if (!end.ok()) return end.status();
    if (*end <= *start) {
      return Error(addresses, "allowed is an end above the start");
    }
    MemoryRange range = {.start = *start, .end = *end};
    if (at != std::string_view::npos) {
      const std::string_view node = part.substr(at + 1);
      const char* const node_end = node.data() + node.size();
      const auto [rest, error] =
          std::from_chars(node.data(), node_end, range.node);
      if (error != std::errc() || rest != node_end || range.node < 0) {
        return Error(node, "allowed is a node's number, 0 or more");
      }
    }
    return range;
  }

  absl::StatusOr<Pfn> ParsePfn(std::string_view part) const {
    const std::optional<uint64_t> bytes = ParseBytes(part);
    if (!bytes) {
      return Error(part,
                   "allowed is a number of bytes, K, M, G or T, decimal or "
                   "0x and hex, as in 4G or 0x100000000");
    }
    if (!Gpa(*bytes).IsAligned(kPageSize)) {
      return Error(part,
                   absl::StrFormat("allowed are multiples of a page's %d bytes",
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

absl::StatusOr<std::vector<MemoryRange>> ParseMemoryMap(std::string_view text) {
  return Parser(text).Parse();
}

std::vector<GpaRange> PcMemory(uint64_t bytes) {
  constexpr uint64_t kLowMemory = 3 * kGiB;
  const uint64_t low = std::min(bytes, kLowMemory);
  std::vector<GpaRange> memory = {{.gpa = Gpa(0), .bytes = low}};
  if (bytes > low) {
    memory.push_back({.gpa = Gpa(4 * kGiB), .bytes = bytes - low});
  }
  return memory;
}

std::vector<MemoryRange> PcMemory(uint64_t bytes, uint64_t nodes) {
  std::vector<MemoryRange> memory;
  const uint64_t each =
      bytes / nodes / kPageblockOrder.bytes() * kPageblockOrder.bytes();
  int node = 0;
  uint64_t left = each;  // of the node's
  for (GpaRange range : PcMemory(bytes)) {
    while (range.bytes > 0) {
      const bool last = static_cast<uint64_t>(node) + 1 == nodes;
      const uint64_t part = last ? range.bytes : std::min(range.bytes, left);
      memory.push_back({.start = ToPfn(range.gpa),
                        .end = ToPfn(range.gpa + part),
                        .node = node});
      range = {.gpa = range.gpa + part, .bytes = range.bytes - part};
      left -= std::min(left, part);
      if (left == 0 && !last) {
        ++node;
        left = each;
      }
    }
  }
  return memory;
}

}  // namespace guestmm
