#include "guestmm/base/units.h"

#include <array>
#include <charconv>
#include <cstdio>
#include <system_error>

namespace guestmm {

std::string FormatBytes(uint64_t bytes) {
  struct Unit {
    uint64_t bytes;
    const char* name;
  };
  static constexpr std::array<Unit, 4> kUnits = {
      {{kTiB, "TiB"}, {kGiB, "GiB"}, {kMiB, "MiB"}, {kKiB, "KiB"}}};
  std::array<char, 32> text{};
  for (const Unit& unit : kUnits) {
    if (bytes < unit.bytes) continue;
    std::snprintf(text.data(), text.size(), "%.2f %s",
                  static_cast<double>(bytes) / static_cast<double>(unit.bytes),
                  unit.name);
    return text.data();
  }
  return std::to_string(bytes) + " B";
}

std::optional<uint64_t> ParseBytes(std::string_view text) {
  struct Unit {
    std::string_view name;
    uint64_t bytes;
  };
  static constexpr std::array<Unit, 8> kUnits = {{{"KiB", kKiB},
                                                  {"MiB", kMiB},
                                                  {"GiB", kGiB},
                                                  {"TiB", kTiB},
                                                  {"K", kKiB},
                                                  {"M", kMiB},
                                                  {"G", kGiB},
                                                  {"T", kTiB}}};
  uint64_t unit = 1;
  for (const auto& [name, bytes] : kUnits) {
    if (!text.ends_with(name)) continue;
    unit = bytes;
    text.remove_suffix(name.size());
    if (text.ends_with(' ')) text.remove_suffix(1);
    break;
  }
  int base = 10;
  if (text.starts_with("0x")) {
    base = 16;
    text.remove_prefix(2);
  }
  uint64_t number = 0;
  const char* const end = text.data() + text.size();
  const auto [rest, error] = std::from_chars(text.data(), end, number, base);
  if (error != std::errc() || rest != end) return std::nullopt;
  if (number > ~uint64_t{0} / unit) return std::nullopt;
  return number * unit;
}

std::ostream& operator<<(std::ostream& os, PageCount pages) {
  return os << pages.value() << " pages";
}

std::ostream& operator<<(std::ostream& os, Order order) {
  return os << "order " << order.value();
}

std::ostream& operator<<(std::ostream& os, Pfn pfn) {
  const std::ios_base::fmtflags flags = os.flags();
  os << "pfn 0x" << std::hex << pfn.value();
  os.flags(flags);
  return os;
}

std::ostream& operator<<(std::ostream& os, Gpa gpa) {
  const std::ios_base::fmtflags flags = os.flags();
  os << "gpa 0x" << std::hex << gpa.value();
  os.flags(flags);
  return os;
}

std::ostream& operator<<(std::ostream& os, const GpaRange& range) {
  return os << range.gpa << " + " << FormatBytes(range.bytes);
}

}  // namespace guestmm
