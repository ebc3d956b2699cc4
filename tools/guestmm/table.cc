#include "tools/guestmm/table.h"

#include <algorithm>
#include <cstddef>
#include <numeric>

#include "tools/guestmm/terminal.h"

namespace guestmm::tools {
namespace {

constexpr size_t kGap = 2;

void PrintBlock(std::ostream& os, const std::vector<Column>& columns,
                const std::vector<std::string>& cells) {
  size_t width = 0;
  for (const Column& column : columns) {
    width = std::max(width, column.heading.size());
  }
  for (size_t i = 0; i < cells.size(); ++i) {
    const std::string& heading = columns[i].heading;
    os << heading << std::string(width - heading.size() + kGap, ' ') << cells[i]
       << "\n";
  }
}

// Prints a line of the columns `shown`; `text_of` has the text of each.
template <typename TextOf>
void PrintLine(std::ostream& os, const std::vector<size_t>& shown,
               const std::vector<size_t>& widths, TextOf text_of) {
  for (const size_t i : shown) {
    const std::string text = text_of(i);
    const std::string padding(widths[i] - text.size(), ' ');
    if (i == 0) {
      os << text << padding;
    } else {
      os << std::string(kGap, ' ') << padding << text;
    }
  }
  os << "\n";
}

// The column to leave out next. REQUIRES: there are two.
size_t Least(const std::vector<Column>& columns,
             const std::vector<size_t>& shown) {
  return *std::max_element(
      shown.begin() + 1, shown.end(), [&](size_t a, size_t b) {
        return columns[a].rank < columns[b].rank ||
               (columns[a].rank == columns[b].rank && a < b);
      });
}

}  // namespace

std::ostream& operator<<(std::ostream& os, const Table& table) {
  const std::vector<Column>& columns = table.columns_;
  std::vector<size_t> widths;
  for (size_t i = 0; i < columns.size(); ++i) {
    widths.push_back(columns[i].heading.size());
    for (const std::vector<std::string>& row : table.rows_) {
      widths[i] = std::max(widths[i], row[i].size());
    }
  }
  std::vector<size_t> shown(columns.size());
  std::iota(shown.begin(), shown.end(), 0);
  size_t width = kGap * (columns.size() - 1) +
                 std::accumulate(widths.begin(), widths.end(), size_t{0});
  const size_t most = OutputColumns();
  std::vector<size_t> left_out;
  while (width > most && shown.size() > 1) {
    left_out.push_back(Least(columns, shown));
    std::erase(shown, left_out.back());
    width -= widths[left_out.back()] + kGap;
  }
  // Nothing but the names of the rows would be left of it.
  const bool is_bare = shown.size() == 1 && columns.size() > 1;
  if (is_bare || (!left_out.empty() && table.layout_ == Table::kBlocks)) {
    for (const std::vector<std::string>& row : table.rows_) {
      if (&row != &table.rows_.front()) os << "\n";
      PrintBlock(os, columns, row);
    }
    return os;
  }
  PrintLine(os, shown, widths, [&](size_t i) { return columns[i].heading; });
  PrintLine(os, shown, widths,
            [&](size_t i) { return std::string(widths[i], '-'); });
  for (const std::vector<std::string>& row : table.rows_) {
    PrintLine(os, shown, widths, [&](size_t i) { return row[i]; });
  }
  if (left_out.empty()) return os;
  std::sort(left_out.begin(), left_out.end());
  std::string note = "--wide also shows: ";
  for (const size_t i : left_out) {
    note += (i == left_out.front() ? "" : ", ") + columns[i].heading;
  }
  return os << Wrap(note, most) << "\n";
}

}  // namespace guestmm::tools
