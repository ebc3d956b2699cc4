#include "guestmm/base/units.h"

#include <array>
#include <cstdio>

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
