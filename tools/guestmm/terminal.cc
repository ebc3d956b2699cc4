#include "tools/guestmm/terminal.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <iostream>
#include <limits>

#include "absl/strings/numbers.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"

namespace guestmm::tools {
namespace {

bool print_wide = false;

// Appends one line of a text.
void WrapLine(std::string_view line, size_t columns, size_t indent,
              std::string& out) {
  const size_t blanks = std::min(line.find_first_not_of(' '), line.size());
  const std::string margin(indent + blanks, ' ');
  out.append(blanks, ' ');
  size_t column = margin.size();
  bool is_first = true;
  for (const absl::string_view word :
       absl::StrSplit(absl::string_view(line.data(), line.size()), ' ',
                      absl::SkipEmpty())) {
    if (!is_first && column + 1 + word.size() > columns) {
      out += "\n" + margin;
      column = margin.size();
    } else if (!is_first) {
      out += ' ';
      ++column;
    }
    out.append(word.data(), word.size());
    column += word.size();
    is_first = false;
  }
}

}  // namespace

size_t TerminalColumns(int fd) {
  constexpr size_t kWithoutTerminal = 80;
  size_t columns = 0;
  const char* const set = std::getenv("COLUMNS");
  if (set != nullptr && absl::SimpleAtoi(set, &columns) && columns > 0) {
    return columns;
  }
  winsize size = {};
  if (ioctl(fd, TIOCGWINSZ, &size) == 0 && size.ws_col > 0) return size.ws_col;
  return kWithoutTerminal;
}

size_t OutputColumns() {
  return print_wide ? std::numeric_limits<size_t>::max()
                    : TerminalColumns(STDOUT_FILENO);
}

void PrintWide() { print_wide = true; }

void TellError(const std::string& line) {
  std::cerr << (isatty(STDERR_FILENO) == 1
                    ? Wrap(line, TerminalColumns(STDERR_FILENO))
                    : line)
            << "\n";
}

std::string Wrap(std::string_view text, size_t columns, size_t indent) {
  std::string out;
  while (true) {
    const size_t end = text.find('\n');
    WrapLine(text.substr(0, end), columns, indent, out);
    if (end == std::string_view::npos) return out;
    out += '\n';
    text.remove_prefix(end + 1);
    if (!text.empty()) out.append(indent, ' ');
  }
}

std::string WrapCommand(std::string_view text, size_t columns, size_t indent) {
  if (indent + text.size() <= columns) return std::string(text);
  constexpr std::string_view kContinued = " \\";
  return absl::StrReplaceAll(
      Wrap(text, columns - std::min(columns, kContinued.size()), indent),
      {{"\n", std::string(kContinued) + "\n"}});
}

std::string WrapClauses(std::string_view text, size_t columns) {
  std::string lines;
  size_t column = 0;
  while (!text.empty()) {
    // A clause, and the blank or the end of the line behind it.
    size_t end = text.find_first_of(" \n");
    while (end != std::string_view::npos && text[end] == ' ' &&
           (end == 0 || std::string_view(",;:").find(text[end - 1]) ==
                            std::string_view::npos)) {
      end = text.find_first_of(" \n", end + 1);
    }
    const std::string_view clause = text.substr(0, end);
    if (column > 0 && column + 1 + clause.size() > columns) {
      lines += '\n';
      column = 0;
    }
    if (column > 0) lines += ' ';
    column += (column > 0 ? 1 : 0) + clause.size();
    lines.append(clause.data(), clause.size());
    if (end == std::string_view::npos) break;
    if (text[end] == '\n') {
      lines += '\n';
      column = 0;
    }
    text.remove_prefix(end + 1);
  }
  return Wrap(lines, columns);
}

}  // namespace guestmm::tools
