#include "tools/guestmm/progress.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>

namespace guestmm::tools {
namespace {

// Returns to the start of the line and clears it.
constexpr char kStartOver[] = "\r\x1b[K";

}  // namespace

ProgressLine::ProgressLine() : terminal_(isatty(STDERR_FILENO) == 1) {}

ProgressLine::~ProgressLine() { Show(""); }

void ProgressLine::Show(const std::string& text) {
  if (!terminal_) return;
  std::fprintf(stderr, "%s%s", kStartOver, text.c_str());
  std::fflush(stderr);
}

std::string Bar(double part, double whole) {
  constexpr int kWidth = 30;
  const double share = whole > 0 ? std::clamp(part / whole, 0.0, 1.0) : 0;
  const auto filled = static_cast<size_t>(share * kWidth);
  return "[" + std::string(filled, '#') + std::string(kWidth - filled, '-') +
         "]";
}

}  // namespace guestmm::tools
