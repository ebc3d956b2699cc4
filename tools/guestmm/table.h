#ifndef GUESTMM_TOOLS_GUESTMM_TABLE_H_
#define GUESTMM_TOOLS_GUESTMM_TABLE_H_

#include <ostream>
#include <string>
#include <vector>

namespace guestmm::tools {

// Rows of text under headings, in aligned columns: the first to the left, the
// others to the right.
class Table {
 public:
  explicit Table(std::vector<std::string> headings)
      : rows_{std::move(headings)} {}

  // REQUIRES: one cell for each heading.
  void AddRow(std::vector<std::string> cells) {
    rows_.push_back(std::move(cells));
  }

  friend std::ostream& operator<<(std::ostream& os, const Table& table);

 private:
  std::vector<std::vector<std::string>> rows_;
};

}  // namespace guestmm::tools

#endif  // GUESTMM_TOOLS_GUESTMM_TABLE_H_
