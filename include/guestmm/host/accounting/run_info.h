#ifndef GUESTMM_HOST_ACCOUNTING_RUN_INFO_H_
#define GUESTMM_HOST_ACCOUNTING_RUN_INFO_H_

#include <string>
#include <vector>

#include "guestmm/base/export.h"

namespace GUESTMM_EXPORT guestmm {

// How an experiment was run.
struct RunInfo {
  // The command line. Empty: no command, but a program's own call.
  std::vector<std::string> command;
  // When it began: "2024-02-29T23:59:59Z".
  std::string date;
  double wall_seconds = 0;
  // The paths of the files that it read.
  std::vector<std::string> inputs;
};

}  // namespace guestmm

#endif  // GUESTMM_HOST_ACCOUNTING_RUN_INFO_H_
