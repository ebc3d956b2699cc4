#ifndef GUESTMM_TOOLS_GUESTMM_PROGRESS_H_
#define GUESTMM_TOOLS_GUESTMM_PROGRESS_H_

#include <string>

namespace guestmm::tools {

// One line on stderr that says what is going on, written over as it changes and
// gone at the end. Nothing where stderr is not a terminal.
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

// "[#####-----]": how much of `whole` is `part`.
std::string Bar(double part, double whole);

}  // namespace guestmm::tools

#endif  // GUESTMM_TOOLS_GUESTMM_PROGRESS_H_
