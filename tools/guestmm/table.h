#ifndef GUESTMM_TOOLS_GUESTMM_TABLE_H_
#define GUESTMM_TOOLS_GUESTMM_TABLE_H_

#include <ostream>
#include <string>
#include <utility>
#include <vector>

namespace guestmm::tools {

// A column of a table. Where a table is too wide, the columns of the highest
// rank are left out first, of one rank the rightmost; the first column never.
struct Column {
  Column(std::string text,
         int its_rank = 0)  // NOLINT(google-explicit-constructor)
      : heading(std::move(text)), rank(its_rank) {}
  Column(const char* text,
         int its_rank = 0)  // NOLINT(google-explicit-constructor)
      : heading(text), rank(its_rank) {}

  std::string heading;
  int rank;
};

// Rows of text under headings, in aligned columns: the first to the left, the
// others to the right. A table that is wider than OutputColumns() is printed
// without some of its columns, which a line below it names; with kBlocks, and
// where only the first column would be left, as a block of lines for each row,
// a heading and its cell on each.
class Table {
 public:
  enum Layout { kColumns, kBlocks };

  explicit Table(std::vector<Column> columns, Layout layout = kColumns)
      : layout_(layout), columns_(std::move(columns)) {}

  // REQUIRES: one cell for each column.
  void AddRow(std::vector<std::string> cells) {
    rows_.push_back(std::move(cells));
  }

  friend std::ostream& operator<<(std::ostream& os, const Table& table);

 private:
  const Layout layout_;
  const std::vector<Column> columns_;
  std::vector<std::vector<std::string>> rows_;
};

}  // namespace guestmm::tools

#endif  // GUESTMM_TOOLS_GUESTMM_TABLE_H_
