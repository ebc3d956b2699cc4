#include "guestmm/base/units.h"

#include <array>
#include <charconv>
#include <cmath>
#include <cstdio>

#include "src/base/number_with_unit.h"

namespace guestmm {

std::string FormatBytes(uint64_t bytes) {
  static constexpr std::array<NamedUnit, 4> kUnits = {
      {{"TiB", kTiB}, {"GiB", kGiB}, {"MiB", kMiB}, {"KiB", kKiB}}};
  std::array<char, 32> text{};
  for (const NamedUnit& unit : kUnits) {
    if (bytes < unit.size) continue;
    std::snprintf(text.data(), text.size(), "%.2f %s",
                  static_cast<double>(bytes) / static_cast<double>(unit.size),
                  unit.name.data());
    return text.data();
  }
  return std::to_string(bytes) + " B";
}

std::optional<uint64_t> ParseBytes(std::string_view text) {
  static constexpr std::array<NamedUnit, 10> kUnits = {{{"", 1},
                                                        {"b", 1},
                                                        {"k", kKiB},
                                                        {"m", kMiB},
                                                        {"g", kGiB},
                                                        {"t", kTiB},
                                                        {"kib", kKiB},
                                                        {"mib", kMiB},
                                                        {"gib", kGiB},
                                                        {"tib", kTiB}}};
  const bool is_hex = text.starts_with("0x");
  if (is_hex) text.remove_prefix(2);
  const char* const end = text.data() + text.size();
  uint64_t whole = 0;
  const char* rest = text.data();
  if (!Take(rest, std::from_chars(rest, end, whole, is_hex ? 16 : 10))) {
    return std::nullopt;
  }
  const bool has_fraction = !is_hex && rest != end && *rest == '.';
  double fraction = 0;
  if (has_fraction && !Take(rest, std::from_chars(rest, end, fraction,
                                                  std::chars_format::fixed))) {
    return std::nullopt;
  }
  const std::optional<uint64_t> unit = SizeOf(kUnits, {rest, end});
  if (!unit || (has_fraction && *unit == 1)) return std::nullopt;
  const auto part = static_cast<uint64_t>(
      std::llround(fraction * static_cast<double>(*unit)));
  if (whole > (~uint64_t{0} - part) / *unit) return std::nullopt;
  return whole * *unit + part;
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
