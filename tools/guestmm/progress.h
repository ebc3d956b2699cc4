#ifndef GUESTMM_TOOLS_GUESTMM_PROGRESS_H_
#define GUESTMM_TOOLS_GUESTMM_PROGRESS_H_

#include <string>

namespace guestmm::tools {

// A line of progress on stderr, overwritten by the next and erased at the end.
// Prints nothing if stderr is not a terminal.
class ProgressLine {
 public:
  ProgressLine();
  ~ProgressLine();
  ProgressLine(const ProgressLine&) = delete;
  ProgressLine& operator=(const ProgressLine&) = delete;

  void Show(const std::string& text);

 private:
  const bool terminal_;
};

// "[#####-----]": the share of `part` in `whole`. Empty if `whole` is 0.
std::string Bar(double part, double whole);

}  // namespace guestmm::tools

#endif  // GUESTMM_TOOLS_GUESTMM_PROGRESS_H_
