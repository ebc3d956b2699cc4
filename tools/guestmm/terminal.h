#ifndef GUESTMM_TOOLS_GUESTMM_TERMINAL_H_
#define GUESTMM_TOOLS_GUESTMM_TERMINAL_H_

// How wide what is printed may be, and texts of that width.

#include <cstddef>
#include <string>
#include <string_view>

namespace guestmm::tools {

// Columns of a device: $COLUMNS if that is a number, else those of the terminal
// `fd`, else 80.
size_t TerminalColumns(int fd);

// Columns that stdout may be written in: those of a terminal, or no limit once
// PrintWide was called.
size_t OutputColumns();
void PrintWide();

// Prints a line on stderr, in lines that fit if that is a terminal.
void TellError(const std::string& line);

// `text` in lines of at most `columns`, broken at blanks where there are any.
// The text starts in column `indent`; further lines are indented by that, and
// by as much as the line they continue.
std::string Wrap(std::string_view text, size_t columns, size_t indent = 0);

// The same of a command line: each line but the last ends with a backslash, so
// that a shell takes them for one.
std::string WrapCommand(std::string_view text, size_t columns,
                        size_t indent = 0);

// As Wrap, but broken behind a comma, semicolon or colon, and elsewhere only in
// a clause that is longer than a line: a figure is not parted from what it is
// of.
std::string WrapClauses(std::string_view text, size_t columns);

}  // namespace guestmm::tools

#endif  // GUESTMM_TOOLS_GUESTMM_TERMINAL_H_
