#include "tools/guestmm/table.h"

#include <algorithm>
#include <cstddef>

namespace guestmm::tools {
namespace {

void PrintRow(std::ostream& os, const std::vector<std::string>& cells,
              const std::vector<size_t>& widths) {
  constexpr size_t kGap = 2;
  for (size_t i = 0; i < cells.size(); ++i) {
    const std::string padding(widths[i] - cells[i].size(), ' ');
    if (i > 0) os << std::string(kGap, ' ');
    if (i == 0) {
      os << cells[i] << padding;
    } else {
      os << padding << cells[i];
    }
  }
  os << "\n";
}

}  // namespace

std::ostream& operator<<(std::ostream& os, const Table& table) {
  std::vector<size_t> widths(table.rows_.front().size());
  for (const std::vector<std::string>& row : table.rows_) {
    for (size_t i = 0; i < row.size(); ++i) {
      widths[i] = std::max(widths[i], row[i].size());
    }
  }
  std::vector<std::string> rule;
  for (const size_t width : widths) rule.emplace_back(width, '-');
  PrintRow(os, table.rows_.front(), widths);
  PrintRow(os, rule, widths);
  for (size_t i = 1; i < table.rows_.size(); ++i) {
    PrintRow(os, table.rows_[i], widths);
  }
  return os;
}

}  // namespace guestmm::tools
